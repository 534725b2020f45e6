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

// Also turns NaN into a number, `low`.
static inline float clip(float x, float low, float high) {
#if defined(__aarch64__)
  return __builtin_fminf(__builtin_fmaxf(x, low), high);  // one instruction each; elsewhere a comparison is the faster
#else
  x = x > low ? x : low;
  return x < high ? x : high;
#endif
}

// Half to even, for |x| < 2^22.
constexpr float kRound = 12582912.0f;  // 1.5 * 2^23
static inline float round_even(float x) { return (x + kRound) - kRound; }

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

template <typename T>
static inline T sum_of_lanes(const T (&lanes)[kLanes]) {
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

static double shared_dot(const float* a, const float* b, int64_t size) {
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes)
    for (int64_t j = 0; j < kLanes; ++j) lanes[j] += static_cast<double>(a[i + j]) * static_cast<double>(b[i + j]);
  for (int64_t j = 0; i < size; ++i, ++j) lanes[j] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum_of_lanes(lanes);
}

// What rms_norm multiplies a row with.
static inline float rms_scale(const float* x, int64_t size, const Norm& norm) {
  constexpr int64_t kBlock = 128;
  float squares[kBlock];
  double lanes[kLanes] = {};
  for (int64_t begin = 0; begin < size; begin += kBlock) {
    const int64_t count = begin + kBlock < size ? kBlock : size - begin;
    const int64_t padded = (count + kLanes - 1) / kLanes * kLanes;
    for (int64_t i = 0; i < count; ++i) {
      const float value = clip(x[begin + i], -norm.input_clip, norm.input_clip);
      squares[i] = value * value;
    }
    for (int64_t i = count; i < padded; ++i) squares[i] = 0.0f;
    for (int64_t i = 0; i < padded; i += kLanes)
      for (int64_t j = 0; j < kLanes; ++j) lanes[j] += static_cast<double>(squares[i + j]);
  }
  float variance = static_cast<float>(sum_of_lanes(lanes) / static_cast<double>(size));
  variance = variance > norm.eps ? variance : norm.eps;
  return 1.0f / __builtin_sqrtf(variance + norm.eps);
}

static void shared_normalize(const float* x, int64_t size, const Norm& norm, float* y) {
  const float scale = rms_scale(x, size, norm);
  for (int64_t i = 0; i < size; ++i) {
    const float value = clip(x[i], -norm.input_clip, norm.input_clip) * scale;
    y[i] = clip(value, -norm.output_clip, norm.output_clip);
  }
}

static void shared_rms_norm(const float* x, const float* weight, int64_t size, const Norm& norm, float* y) {
  shared_normalize(x, size, norm, y);
  for (int64_t i = 0; i < size; ++i) y[i] = weight[i] * y[i];
}

// The larger of `floor` and of all |value(i)|. Floats without a sign order as their bits do.
template <typename Value>
static inline float largest_size(const Value& value, int64_t size, float floor) {
  int32_t largest;
  memcpy(&largest, &floor, sizeof largest);
  for (int64_t i = 0; i < size; ++i) {
    const float x = value(i);
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits &= 0x7fffffff;
    largest = largest > bits ? largest : bits;
  }
  float result;
  memcpy(&result, &largest, sizeof result);
  return result;
}

// value(i), which is computed twice: that is cheaper than keeping it.
template <typename Value>
static inline Row quantize_values(const Value& value, int64_t size, const Activation& activation, int8_t* codes) {
  const float limit = static_cast<float>((1 << (activation.bits - 1)) - 1);
  const float scale = limit * (1.0f / largest_size(value, size, activation.floor));  // in this order, as published
  int32_t sum = 0;
  for (int64_t i = 0; i < size; ++i) {
    const int32_t code = static_cast<int32_t>(round_even(clip(value(i) * scale, -limit - 1.0f, limit)));
    codes[i] = static_cast<int8_t>(code);
    sum += code;
  }
  const int64_t padded = (size + kCodeAlignment - 1) / kCodeAlignment * kCodeAlignment;
  memset(codes + size, 0, static_cast<size_t>(padded - size));
  return {1.0f / scale, sum};
}

static Row shared_quantize(const float* x, const float* weight, int64_t size, const Activation& activation,
                           int8_t* codes) {
  const float bound = activation.clip;
  if (weight == nullptr)
    return quantize_values([&](int64_t i) { return clip(x[i], -bound, bound); }, size, activation, codes);
  return quantize_values([&](int64_t i) { return clip(weight[i] * x[i], -bound, bound); }, size, activation, codes);
}

static void shared_dequantize(const int32_t* products, const Row* rows, int64_t count, const float* scales,
                              const float* biases, float* y, int64_t stride) {
  for (int64_t m = 0; m < count; ++m) {
    float values[kTileRows];  // y may be scales, for all that a compiler knows
    for (int64_t r = 0; r < kTileRows; ++r)
      values[r] = static_cast<float>(products[m * kTileRows + r]) * (rows[m].step * scales[r]) + biases[r];
    memcpy(y + m * stride, values, sizeof values);
  }
}

static void shared_gate(const float* gate, const float* up, int64_t size, float gate_clip, float hidden_clip,
                        float* hidden) {
  constexpr int64_t kBlock = 128;
  float block[kBlock];  // `hidden` may be `gate`: loops that write elsewhere can be vectorised
  for (int64_t begin = 0; begin < size; begin += kBlock) {
    const int64_t count = begin + kBlock < size ? kBlock : size - begin;
    const float *g = gate + begin, *u = up + begin;
    for (int64_t i = 0; i < count; ++i) block[i] = 1.0f + fast_exponential(-clip(g[i], -gate_clip, gate_clip));
    for (int64_t i = 0; i < count; ++i)
      block[i] = clip(clip(g[i], -gate_clip, gate_clip) / block[i] * u[i], -hidden_clip, hidden_clip);
    memcpy(hidden + begin, block, sizeof(float) * static_cast<size_t>(count));
  }
}

}  // namespace embernet
