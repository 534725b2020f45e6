// Sixteen floats as two `Lanes`, for instruction sets that have no wider registers. Included after those.
#pragma once

#include "lanes.h"

namespace embernet {

struct Columns {
  Lanes left, right;
};

static inline Columns no_columns() { return {repeat(0.0f), repeat(0.0f)}; }

static inline Columns load_columns(const float* p) { return {load_lanes(p), load_lanes(p + kLanes)}; }

static inline void store_columns(float* p, const Columns& x) {
  store_lanes(p, x.left);
  store_lanes(p + kLanes, x.right);
}

template <int i>
static inline void multiply_add(Factors f, const Columns& b, Columns& sums) {
  sums.left = multiply_add<i>(f, b.left, sums.left);
  sums.right = multiply_add<i>(f, b.right, sums.right);
}

}  // namespace embernet
