// The floating-point half of the operators, as embernet/runtime/reference.py defines it. Every kernels_*.cpp includes
// this and compiles it for its instruction set; as no operation is contracted or reordered, all get the same bits.
// Everything is static: two translation units must never share one compiled copy.
#pragma once

#include <stdint.h>
#include <string.h>

#include "kernels.h"

namespace embernet {

// A sum in a fixed order of eight lanes, so that it can be vectorised and is still the same everywhere.
constexpr int64_t kLanes = 8;

static inline float clip(float x, float low, float high) {
  x = x > low ? x : low;  // also turns NaN into a number
  return x < high ? x : high;
}

// Half to even, for |x| < 2^22.
static inline float round_even(float x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23
  return (x + kMagic) - kMagic;
}

// Cephes' expf: two-part reduction by ln 2 and a polynomial; at most 2 ulp off.
static inline float fast_exponential(float x) {
  x = clip(x, -87.0f, 88.0f);
  const float n = round_even(x * 1.44269504088896341f);
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float mantissa = p * (r * r) + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  memcpy(&power, &bits, sizeof power);
  return mantissa * power;
}

static void shared_rms_norm(const float* x, const float* weight, int64_t size, const Norm& norm, float* y) {
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes)
    for (int64_t j = 0; j < kLanes; ++j) {
      const float value = clip(x[i + j], -norm.input_clip, norm.input_clip);
      lanes[j] += static_cast<double>(value * value);
    }
  for (int64_t j = 0; i < size; ++i, ++j) {
    const float value = clip(x[i], -norm.input_clip, norm.input_clip);
    lanes[j] += static_cast<double>(value * value);
  }
  const double sum =
      ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
  float variance = static_cast<float>(sum / static_cast<double>(size));
  variance = variance > norm.eps ? variance : norm.eps;
  const float scale = 1.0f / __builtin_sqrtf(variance + norm.eps);
  for (i = 0; i < size; ++i) {
    const float value = clip(x[i], -norm.input_clip, norm.input_clip) * scale;
    y[i] = weight[i] * clip(value, -norm.output_clip, norm.output_clip);
  }
}

static Row shared_quantize(const float* x, const float* norm_weight, int64_t size, const Norm& norm,
                           const Activation& activation, float* scratch, int8_t* codes) {
  if (norm_weight != nullptr) {
    shared_rms_norm(x, norm_weight, size, norm, scratch);
    x = scratch;
  }
  const float bound = activation.clip;
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes)
    for (int64_t j = 0; j < kLanes; ++j) {
      const float value = __builtin_fabsf(clip(x[i + j], -bound, bound));
      lanes[j] = lanes[j] > value ? lanes[j] : value;
    }
  for (; i < size; ++i) {
    const float value = __builtin_fabsf(clip(x[i], -bound, bound));
    lanes[0] = lanes[0] > value ? lanes[0] : value;
  }
  float largest = activation.floor;
  for (const float lane : lanes) largest = largest > lane ? largest : lane;

  const float limit = static_cast<float>((1 << (activation.bits - 1)) - 1);
  const float scale = limit * (1.0f / largest);  // in this order, as published
  int32_t sum = 0;
  for (i = 0; i < size; ++i) {
    const float value = clip(clip(x[i], -bound, bound) * scale, -limit - 1.0f, limit);
    const int32_t code = static_cast<int32_t>(round_even(value));
    codes[i] = static_cast<int8_t>(code);
    sum += code;
  }
  const int64_t padded = (size + kCodeAlignment - 1) / kCodeAlignment * kCodeAlignment;
  memset(codes + size, 0, static_cast<size_t>(padded - size));
  return {1.0f / scale, sum};
}

static void shared_gate(const float* gate, const float* up, int64_t size, float gate_clip, float hidden_clip,
                        float* hidden) {
  for (int64_t i = 0; i < size; ++i) {
    const float g = clip(gate[i], -gate_clip, gate_clip);
    hidden[i] = clip(g / (1.0f + fast_exponential(-g)) * up[i], -hidden_clip, hidden_clip);
  }
}

}  // namespace embernet
