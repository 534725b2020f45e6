// NEON of ARMv8.0, which has no dot product: SMLAL into int16, widened to int32 before it can overflow.
#include <arm_neon.h>

#include "arithmetic.h"

namespace embernet {

// A product of a code 0..2 and |a| <= 128 is at most 256, a lane adds four per group: an int16 holds 127 products.
constexpr int64_t kGroupsPerFlush = 31;

static inline int8x16_t broadcast4(const int8_t* codes) {
  int32_t four;
  memcpy(&four, codes, sizeof four);
  return vreinterpretq_s8_s32(vdupq_n_s32(four));
}

template <int p>
static inline int8x16_t field(uint8x16_t packed) {
  const uint8x16_t shifted = p == 0 ? packed : vshrq_n_u8(packed, p == 0 ? 1 : 2 * p);
  return vreinterpretq_s8_u8(p == 3 ? shifted : vandq_u8(shifted, vdupq_n_u8(3)));
}

// Lanes of four rows: (row 0: inputs 0+1, 2+3; row 1: ...), (row 2, row 3) -> one sum per row.
static inline int32x4_t widen(int16x8_t rows01, int16x8_t rows23) {
  return vpaddq_s32(vpaddlq_s16(rows01), vpaddlq_s16(rows23));
}

// `kRows` rows of codes times one quarter of a tile: 4 rows of weights. Writes products[m * 16 + 0..3].
template <int kRows>
static void ternary_quarter(const uint8_t* quarter, int64_t groups, const int8_t* codes, int64_t stride,
                            const Row* rows, int32_t* products) {
  int32x4_t sums[kRows];
  for (int m = 0; m < kRows; ++m) sums[m] = vdupq_n_s32(-rows[m].sum);
  for (int64_t begin = 0; begin < groups; begin += kGroupsPerFlush) {
    const int64_t end = begin + kGroupsPerFlush < groups ? begin + kGroupsPerFlush : groups;
    int16x8_t rows01[kRows], rows23[kRows];
    for (int m = 0; m < kRows; ++m) rows01[m] = rows23[m] = vdupq_n_s16(0);
    for (int64_t g = begin; g < end; ++g) {
      const uint8x16_t packed = vld1q_u8(quarter + g * kGroupBytes);
      const int8x16_t w0 = field<0>(packed), w1 = field<1>(packed), w2 = field<2>(packed), w3 = field<3>(packed);
      for (int m = 0; m < kRows; ++m) {
        const int8_t* a = codes + m * stride + g * kTernaryInputs;
        const auto add = [&](int8x16_t w, int8x16_t four) {
          rows01[m] = vmlal_s8(rows01[m], vget_low_s8(w), vget_low_s8(four));
          rows23[m] = vmlal_high_s8(rows23[m], w, four);
        };
        add(w0, broadcast4(a));
        add(w1, broadcast4(a + 4));
        add(w2, broadcast4(a + 8));
        add(w3, broadcast4(a + 12));
      }
    }
    for (int m = 0; m < kRows; ++m) sums[m] = vaddq_s32(sums[m], widen(rows01[m], rows23[m]));
  }
  for (int m = 0; m < kRows; ++m) vst1q_s32(products + m * kTileRows, sums[m]);
}

// One row of codes times a whole tile, so that the weights come from memory once, in order.
static void ternary_row(const uint8_t* tile, int64_t groups, const int8_t* codes, const Row& row, int32_t* products) {
  int32x4_t sums[4];
  for (auto& sum : sums) sum = vdupq_n_s32(-row.sum);
  for (int64_t begin = 0; begin < groups; begin += kGroupsPerFlush) {
    const int64_t end = begin + kGroupsPerFlush < groups ? begin + kGroupsPerFlush : groups;
    int16x8_t rows01[4], rows23[4];
    for (int q = 0; q < 4; ++q) rows01[q] = rows23[q] = vdupq_n_s16(0);
    for (int64_t g = begin; g < end; ++g) {
      const uint8_t* group = tile + g * kGroupBytes;
      __builtin_prefetch(group + 1024);
      const int8_t* a = codes + g * kTernaryInputs;
      const int8x16_t a0 = broadcast4(a), a1 = broadcast4(a + 4), a2 = broadcast4(a + 8), a3 = broadcast4(a + 12);
      for (int q = 0; q < 4; ++q) {
        const uint8x16_t packed = vld1q_u8(group + 16 * q);
        const auto add = [&](int8x16_t w, int8x16_t four) {
          rows01[q] = vmlal_s8(rows01[q], vget_low_s8(w), vget_low_s8(four));
          rows23[q] = vmlal_high_s8(rows23[q], w, four);
        };
        add(field<0>(packed), a0);
        add(field<1>(packed), a1);
        add(field<2>(packed), a2);
        add(field<3>(packed), a3);
      }
    }
    for (int q = 0; q < 4; ++q) sums[q] = vaddq_s32(sums[q], widen(rows01[q], rows23[q]));
  }
  for (int q = 0; q < 4; ++q) vst1q_s32(products + 4 * q, sums[q]);
}

static void ternary(const uint8_t* tile, int64_t groups, const int8_t* codes, int64_t stride, const Row* rows,
                    int64_t count, int32_t* products) {
  if (count == 1) return ternary_row(tile, groups, codes, rows[0], products);
  int64_t m = 0;
  for (; m + 4 <= count; m += 4)
    for (int64_t q = 0; q < 4; ++q)
      ternary_quarter<4>(tile + 16 * q, groups, codes + m * stride, stride, rows + m, products + m * kTileRows + 4 * q);
  for (; m < count; ++m) ternary_row(tile, groups, codes + m * stride, rows[m], products + m * kTileRows);
}

// Two products of int8 codes (at most 2 * 128 * 127) fit an int16.
template <int kRows>
static void int8_quarter(const int8_t* quarter, int64_t groups, const int8_t* codes, int64_t stride,
                         int32_t* products) {
  int32x4_t rows01[kRows], rows23[kRows];
  for (int m = 0; m < kRows; ++m) rows01[m] = rows23[m] = vdupq_n_s32(0);
  int64_t g = 0;
  for (; g + 2 <= groups; g += 2) {
    const int8x16_t first = vld1q_s8(quarter + g * kGroupBytes), second = vld1q_s8(quarter + (g + 1) * kGroupBytes);
    for (int m = 0; m < kRows; ++m) {
      const int8_t* a = codes + m * stride + g * kInt8Inputs;
      const int8x16_t a0 = broadcast4(a), a1 = broadcast4(a + 4);
      const int16x8_t low = vmlal_s8(vmull_s8(vget_low_s8(first), vget_low_s8(a0)), vget_low_s8(second),
                                     vget_low_s8(a1));
      const int16x8_t high = vmlal_high_s8(vmull_high_s8(first, a0), second, a1);
      rows01[m] = vpadalq_s16(rows01[m], low);
      rows23[m] = vpadalq_s16(rows23[m], high);
    }
  }
  for (; g < groups; ++g) {
    const int8x16_t last = vld1q_s8(quarter + g * kGroupBytes);
    for (int m = 0; m < kRows; ++m) {
      const int8x16_t a = broadcast4(codes + m * stride + g * kInt8Inputs);
      rows01[m] = vpadalq_s16(rows01[m], vmull_s8(vget_low_s8(last), vget_low_s8(a)));
      rows23[m] = vpadalq_s16(rows23[m], vmull_high_s8(last, a));
    }
  }
  for (int m = 0; m < kRows; ++m) vst1q_s32(products + m * kTileRows, vpaddq_s32(rows01[m], rows23[m]));
}

static void int8(const int8_t* tile, int64_t groups, const int8_t* codes, int64_t stride, const Row*, int64_t count,
                 int32_t* products) {
  int64_t m = 0;
  for (; m + 4 <= count; m += 4)
    for (int64_t q = 0; q < 4; ++q)
      int8_quarter<4>(tile + 16 * q, groups, codes + m * stride, stride, products + m * kTileRows + 4 * q);
  for (; m < count; ++m)
    for (int64_t q = 0; q < 4; ++q)
      int8_quarter<1>(tile + 16 * q, groups, codes + m * stride, stride, products + m * kTileRows + 4 * q);
}

extern const Kernels kNeon;
const Kernels kNeon = {"neon", shared_quantize, shared_rms_norm, shared_dot, shared_gate, ternary, int8};

}  // namespace embernet
