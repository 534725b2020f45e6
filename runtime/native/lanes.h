// Functions of eight floats at once. Sums run in a fixed order and by fused multiply-adds, so that all instruction sets
// get the same bits.
//
// Whoever includes this gives `Lanes`, eight floats, and how to use them:
//   Lanes load_lanes(const float*); void store_lanes(float*, Lanes); Lanes repeat(float);
//   Lanes add(a, b), subtract(a, b), multiply(a, b), divide(a, b);
//   Lanes larger(a, b), smaller(a, b)                                        b where a is not a number
//   Lanes multiply_add(Lanes a, Lanes b, Lanes c)                            a * b + c, rounded once
//   Lanes power_of_two(Lanes n)                                              2^n of kRound + a whole number n
// and for attention.h
//   Factors load_factors(const float*)                                       four floats
//   Lanes multiply_add<i>(Factors f, Lanes b, Lanes c)                       f[i] * b + c, rounded once
//   void transpose(const float* rows, int64_t stride, float* columns)        8 x 8, to rows of kAttentionColumns
//   Columns                                                                  sixteen floats, as in columns.h
//   kQueriesPerTile                                                          as many as registers have room for sums
// Everything is static: two translation units must never share one compiled copy.
#pragma once

#include "arithmetic.h"

namespace embernet {

// Cephes' expf, as fast_exponential has it, with fused multiply-adds; a NaN counts as very small.
static inline Lanes exponential(Lanes x) {
  x = smaller(larger(x, repeat(-87.0f)), repeat(88.0f));
  const Lanes rounded = multiply_add(x, repeat(1.44269504088896341f), repeat(kRound));
  const Lanes n = subtract(rounded, repeat(kRound));
  const Lanes r = multiply_add(n, repeat(2.12194440e-4f), multiply_add(n, repeat(-0.693359375f), x));
  Lanes p = multiply_add(r, repeat(1.9875691500e-4f), repeat(1.3981999507e-3f));
  p = multiply_add(p, r, repeat(8.3334519073e-3f));
  p = multiply_add(p, r, repeat(4.1665795894e-2f));
  p = multiply_add(p, r, repeat(1.6666665459e-1f));
  p = multiply_add(p, r, repeat(5.0000001201e-1f));
  return multiply(add(multiply_add(p, multiply(r, r), r), repeat(1.0f)), power_of_two(rounded));
}

static inline float sum(Lanes x) {
  float lanes[kLanes];
  store_lanes(lanes, x);
  return sum_of_lanes(lanes);
}

// Fewer than eight floats, and `filling` behind them.
static inline Lanes load_rest(const float* x, int64_t count, float filling) {
  float rest[kLanes];
  store_lanes(rest, repeat(filling));
  memcpy(rest, x, sizeof(float) * static_cast<size_t>(count));
  return load_lanes(rest);
}

// y = body(x), lanes by lanes of `size` floats; what lies behind them is read as `filling`.
template <typename Body>
static inline void map_lanes(const float* x, int64_t size, float filling, float* y, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) store_lanes(y + i, body(load_lanes(x + i)));
  if (i == size) return;
  float rest[kLanes];
  store_lanes(rest, body(load_rest(x + i, size - i, filling)));
  memcpy(y + i, rest, sizeof(float) * static_cast<size_t>(size - i));
}

// y = x * sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)), which is the usual form with tanh.
static void shared_gelu(const float* x, int64_t size, float* y) {
  map_lanes(x, size, 0.0f, y, [](Lanes v) {
    v = larger(v, repeat(-100.0f));  // smaller ones give 0 as well
    constexpr float kLinear = -2.0f * 0.797884561f, kCubic = kLinear * 0.044715f;
    const Lanes inner = multiply_add(multiply(v, v), repeat(kCubic), repeat(kLinear));
    return divide(v, add(exponential(multiply(v, inner)), repeat(1.0f)));
  });
}

// `scratch` holds `size` floats.
static void shared_layer_norm(const float* x, const float* weight, const float* bias, int64_t size, float eps,
                              float* scratch, float* y) {
  const float share = 1.0f / static_cast<float>(size);
  Lanes total = repeat(0.0f);
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) total = add(total, load_lanes(x + i));
  if (i < size) total = add(total, load_rest(x + i, size - i, 0.0f));
  const float mean = sum(total) * share;
  total = repeat(0.0f);
  map_lanes(x, size, mean, scratch, [&](Lanes v) {
    const Lanes difference = subtract(v, repeat(mean));
    total = multiply_add(difference, difference, total);
    return difference;
  });
  const float scale = 1.0f / __builtin_sqrtf(sum(total) * share + eps);
  for (i = 0; i < size; ++i) y[i] = scratch[i] * scale * weight[i] + bias[i];
}

}  // namespace embernet
