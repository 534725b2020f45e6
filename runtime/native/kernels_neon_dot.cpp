// NEON with the dot product of ARMv8.2 (SDOT): four inputs of four rows per instruction, straight into int32.
#include "lanes_neon.h"
#include "tile_by_tile.h"

namespace embernet {

template <int p>
static inline int8x16_t field(uint8x16_t packed) {
  const uint8x16_t shifted = p == 0 ? packed : vshrq_n_u8(packed, p == 0 ? 1 : 2 * p);
  return vreinterpretq_s8_u8(p == 3 ? shifted : vandq_u8(shifted, vdupq_n_u8(3)));
}

// `kRows` rows of codes times a tile; sums[m][q] are rows 4 q .. 4 q + 3.
template <int kRows>
static void ternary_block(const uint8_t* tile, int64_t groups, const int8_t* codes, int64_t stride, const Row* rows,
                          int32_t* products) {
  int32x4_t sums[kRows][4];
  for (int m = 0; m < kRows; ++m)
    for (auto& sum : sums[m]) sum = vdupq_n_s32(-rows[m].sum);
  for (int64_t g = 0; g < groups; ++g) {
    const uint8_t* group = tile + g * kGroupBytes;
    if (kRows == 1) __builtin_prefetch(group + 2048);
    int8x16_t a[kRows];
    for (int m = 0; m < kRows; ++m) a[m] = vld1q_s8(codes + m * stride + g * kTernaryInputs);
    for (int q = 0; q < 4; ++q) {
      const uint8x16_t packed = vld1q_u8(group + 16 * q);
      const int8x16_t w0 = field<0>(packed), w1 = field<1>(packed), w2 = field<2>(packed), w3 = field<3>(packed);
      for (int m = 0; m < kRows; ++m) {
        sums[m][q] = vdotq_laneq_s32(sums[m][q], w0, a[m], 0);
        sums[m][q] = vdotq_laneq_s32(sums[m][q], w1, a[m], 1);
        sums[m][q] = vdotq_laneq_s32(sums[m][q], w2, a[m], 2);
        sums[m][q] = vdotq_laneq_s32(sums[m][q], w3, a[m], 3);
      }
    }
  }
  for (int m = 0; m < kRows; ++m)
    for (int q = 0; q < 4; ++q) vst1q_s32(products + m * kTileRows + 4 * q, sums[m][q]);
}

static void ternary(const uint8_t* tile, int64_t groups, const int8_t* codes, int64_t stride, const Row* rows,
                    int64_t count, int32_t* products) {
  int64_t m = 0;
  for (; m + 4 <= count; m += 4)
    ternary_block<4>(tile, groups, codes + m * stride, stride, rows + m, products + m * kTileRows);
  for (; m < count; ++m)
    ternary_block<1>(tile, groups, codes + m * stride, stride, rows + m, products + m * kTileRows);
}

template <int kRows>
static void int8_block(const int8_t* tile, int64_t groups, const int8_t* codes, int64_t stride, int32_t* products) {
  int32x4_t sums[kRows][4];
  for (auto& row : sums)
    for (auto& sum : row) sum = vdupq_n_s32(0);
  for (int64_t g = 0; g < groups; ++g) {
    const int8_t* group = tile + g * kGroupBytes;
    if (kRows == 1) __builtin_prefetch(group + 2048);
    int8x16_t a[kRows];
    for (int m = 0; m < kRows; ++m) {
      int32_t four;
      memcpy(&four, codes + m * stride + g * kInt8Inputs, sizeof four);
      a[m] = vreinterpretq_s8_s32(vdupq_n_s32(four));
    }
    for (int q = 0; q < 4; ++q) {
      const int8x16_t w = vld1q_s8(group + 16 * q);
      for (int m = 0; m < kRows; ++m) sums[m][q] = vdotq_s32(sums[m][q], w, a[m]);
    }
  }
  for (int m = 0; m < kRows; ++m)
    for (int q = 0; q < 4; ++q) vst1q_s32(products + m * kTileRows + 4 * q, sums[m][q]);
}

static void int8(const int8_t* tile, int64_t groups, const int8_t* codes, int64_t stride, const Row*, int64_t count,
                 int32_t* products) {
  int64_t m = 0;
  for (; m + 4 <= count; m += 4) int8_block<4>(tile, groups, codes + m * stride, stride, products + m * kTileRows);
  for (; m < count; ++m) int8_block<1>(tile, groups, codes + m * stride, stride, products + m * kTileRows);
}

extern const Kernels kNeonDot;
const Kernels kNeonDot = {"neon_dot",
                          shared_quantize,
                          shared_normalize,
                          shared_rms_norm,
                          shared_dot,
                          shared_gate,
                          ternary,
                          int8,
                          tile_by_tile<ternary>,
                          tile_by_tile<int8>,
                          shared_dequantize,
                          shared_gelu,
                          shared_layer_norm,
                          shared_attend};

}  // namespace embernet
