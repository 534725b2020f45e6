// Eight floats of AVX2 (lanes.h says what has to be there).
#pragma once

#include <immintrin.h>

#include "arithmetic.h"

namespace embernet {

struct Lanes {
  __m256 v;
};

static inline Lanes load_lanes(const float* p) { return {_mm256_loadu_ps(p)}; }
static inline void store_lanes(float* p, Lanes x) { _mm256_storeu_ps(p, x.v); }
static inline Lanes repeat(float x) { return {_mm256_set1_ps(x)}; }
static inline Lanes add(Lanes a, Lanes b) { return {_mm256_add_ps(a.v, b.v)}; }
static inline Lanes subtract(Lanes a, Lanes b) { return {_mm256_sub_ps(a.v, b.v)}; }
static inline Lanes multiply(Lanes a, Lanes b) { return {_mm256_mul_ps(a.v, b.v)}; }
static inline Lanes divide(Lanes a, Lanes b) { return {_mm256_div_ps(a.v, b.v)}; }
static inline Lanes larger(Lanes a, Lanes b) { return {_mm256_max_ps(a.v, b.v)}; }
static inline Lanes smaller(Lanes a, Lanes b) { return {_mm256_min_ps(a.v, b.v)}; }
static inline Lanes multiply_add(Lanes a, Lanes b, Lanes c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }

static inline Lanes power_of_two(Lanes n) {
  const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(n.v), 23);
  return {_mm256_castsi256_ps(_mm256_add_epi32(exponent, _mm256_set1_epi32(127 << 23)))};
}

// Left in memory: one instruction loads and repeats a float.
struct Factors {
  const float* p;
};

static inline Factors load_factors(const float* p) { return {p}; }

template <int i>
static inline Lanes multiply_add(Factors f, Lanes b, Lanes c) {
  return {_mm256_fmadd_ps(_mm256_broadcast_ss(f.p + i), b.v, c.v)};
}

static inline void transpose(const float* rows, int64_t stride, float* columns) {
  __m256 pairs[8], fours[8];
  for (int i = 0; i < 8; i += 2) {
    const __m256 even = _mm256_loadu_ps(rows + i * stride), odd = _mm256_loadu_ps(rows + (i + 1) * stride);
    pairs[i] = _mm256_unpacklo_ps(even, odd);
    pairs[i + 1] = _mm256_unpackhi_ps(even, odd);
  }
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 2; ++j) {
      fours[i + 2 * j] = _mm256_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0x44);
      fours[i + 2 * j + 1] = _mm256_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0xee);
    }
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(columns + i * kAttentionColumns, _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20));
    _mm256_storeu_ps(columns + (i + 4) * kAttentionColumns, _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31));
  }
}

}  // namespace embernet
