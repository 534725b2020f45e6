// Eight floats as two NEON registers (see attention.h).
#pragma once

#include <arm_neon.h>

#include "kernels.h"

namespace embernet {

struct Lanes {
  float32x4_t low, high;
};

static inline Lanes load_lanes(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }

static inline void store_lanes(float* p, Lanes x) {
  vst1q_f32(p, x.low);
  vst1q_f32(p + 4, x.high);
}

static inline Lanes repeat(float x) {
  const float32x4_t v = vdupq_n_f32(x);
  return {v, v};
}

static inline Lanes add(Lanes a, Lanes b) { return {vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)}; }
static inline Lanes subtract(Lanes a, Lanes b) { return {vsubq_f32(a.low, b.low), vsubq_f32(a.high, b.high)}; }
static inline Lanes multiply(Lanes a, Lanes b) { return {vmulq_f32(a.low, b.low), vmulq_f32(a.high, b.high)}; }
static inline Lanes divide(Lanes a, Lanes b) { return {vdivq_f32(a.low, b.low), vdivq_f32(a.high, b.high)}; }
static inline Lanes larger(Lanes a, Lanes b) { return {vmaxnmq_f32(a.low, b.low), vmaxnmq_f32(a.high, b.high)}; }
static inline Lanes smaller(Lanes a, Lanes b) { return {vminnmq_f32(a.low, b.low), vminnmq_f32(a.high, b.high)}; }

static inline Lanes multiply_add(Lanes a, Lanes b, Lanes c) {
  return {vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high)};
}

static inline float32x4_t power_of_two(float32x4_t n) {
  const int32x4_t exponent = vshlq_n_s32(vreinterpretq_s32_f32(n), 23);
  return vreinterpretq_f32_s32(vaddq_s32(exponent, vdupq_n_s32(127 << 23)));
}

static inline Lanes power_of_two(Lanes n) { return {power_of_two(n.low), power_of_two(n.high)}; }

struct Factors {
  float32x4_t v;
};

static inline Factors load_factors(const float* p) { return {vld1q_f32(p)}; }

template <int i>
static inline Lanes multiply_add(Factors f, Lanes b, Lanes c) {
  return {vfmaq_laneq_f32(c.low, b.low, f.v, i), vfmaq_laneq_f32(c.high, b.high, f.v, i)};
}

constexpr int kQueriesPerTile = 5;

static inline void transpose4(const float* rows, int64_t stride, float* columns) {
  const float32x4_t a = vld1q_f32(rows), b = vld1q_f32(rows + stride);
  const float32x4_t c = vld1q_f32(rows + 2 * stride), d = vld1q_f32(rows + 3 * stride);
  const float64x2_t ab_even = vreinterpretq_f64_f32(vtrn1q_f32(a, b)), ab_odd = vreinterpretq_f64_f32(vtrn2q_f32(a, b));
  const float64x2_t cd_even = vreinterpretq_f64_f32(vtrn1q_f32(c, d)), cd_odd = vreinterpretq_f64_f32(vtrn2q_f32(c, d));
  vst1q_f32(columns, vreinterpretq_f32_f64(vtrn1q_f64(ab_even, cd_even)));
  vst1q_f32(columns + kAttentionColumns, vreinterpretq_f32_f64(vtrn1q_f64(ab_odd, cd_odd)));
  vst1q_f32(columns + 2 * kAttentionColumns, vreinterpretq_f32_f64(vtrn2q_f64(ab_even, cd_even)));
  vst1q_f32(columns + 3 * kAttentionColumns, vreinterpretq_f32_f64(vtrn2q_f64(ab_odd, cd_odd)));
}

static inline void transpose(const float* rows, int64_t stride, float* columns) {
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 8; j += 4) transpose4(rows + i * stride + j, stride, columns + j * kAttentionColumns + i);
}

}  // namespace embernet

#include "columns.h"

#include "attention.h"
