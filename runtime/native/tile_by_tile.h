// One row of codes times many tiles, for instruction sets whose kernels of one tile are long enough to be called each.
#pragma once

#include "kernels.h"

namespace embernet {

// kernel: the instruction set's `ternary` or `int8`.
template <auto kernel, class Element>
static void tile_by_tile(const Element* tile, int64_t tiles, int64_t groups, const RowPair& rows, int32_t* products) {
  for (int64_t t = 0; t < tiles; ++t) {
    const Row row = {1.0f, rows.sums[t % 2]};
    kernel(tile + t * groups * kGroupBytes, groups, rows.codes[t % 2], 0, &row, 1, products + t * kTileRows);
  }
}

}  // namespace embernet
