// Plain C++: runs everywhere and says what the others do. Loops over eight lanes are what compilers turn into vectors.
#include "arithmetic.h"

namespace embernet {

// A product of a code 0..2 and |a| <= 128 is at most 256, a lane adds four per group: an int16 holds 127 products.
constexpr int64_t kGroupsPerFlush = 31;

// Byte i of a group: row i / 4, inputs i % 4 + 0, 4, 8, 12.
static void add_ternary_group(const uint8_t* group, const int8_t* codes, int16_t (&sums)[kGroupBytes]) {
  for (int p = 0; p < 4; ++p) {
    int16_t a[kLanes];
    for (int64_t j = 0; j < kLanes; ++j) a[j] = codes[4 * p + j % 4];
    for (int64_t i = 0; i < kGroupBytes; i += kLanes)
      for (int64_t j = 0; j < kLanes; ++j) {
        const int16_t weight = static_cast<int16_t>(group[i + j] >> (2 * p) & 3);
        sums[i + j] = static_cast<int16_t>(sums[i + j] + weight * a[j]);
      }
  }
}

static void ternary(const uint8_t* tile, int64_t groups, const int8_t* codes, int64_t stride, const Row* rows,
                    int64_t count, int32_t* products) {
  for (int64_t m = 0; m < count; ++m) {
    int32_t* out = products + m * kTileRows;
    for (int64_t r = 0; r < kTileRows; ++r) out[r] = -rows[m].sum;
    for (int64_t begin = 0; begin < groups; begin += kGroupsPerFlush) {
      const int64_t end = begin + kGroupsPerFlush < groups ? begin + kGroupsPerFlush : groups;
      int16_t sums[kGroupBytes] = {};
      for (int64_t g = begin; g < end; ++g)
        add_ternary_group(tile + g * kGroupBytes, codes + m * stride + g * kTernaryInputs, sums);
      for (int64_t i = 0; i < kGroupBytes; ++i) out[i / 4] += sums[i];
    }
  }
}

static void int8(const int8_t* tile, int64_t groups, const int8_t* codes, int64_t stride, const Row*, int64_t count,
                 int32_t* products) {
  for (int64_t m = 0; m < count; ++m) {
    int32_t sums[kGroupBytes] = {};
    for (int64_t g = 0; g < groups; ++g) {
      const int8_t* group = tile + g * kGroupBytes;
      const int8_t* a = codes + m * stride + g * kInt8Inputs;
      for (int64_t i = 0; i < kGroupBytes; i += 4)
        for (int64_t j = 0; j < 4; ++j) sums[i + j] += static_cast<int16_t>(group[i + j]) * static_cast<int16_t>(a[j]);
    }
    int32_t* out = products + m * kTileRows;
    for (int64_t r = 0; r < kTileRows; ++r)
      out[r] = (sums[4 * r] + sums[4 * r + 1]) + (sums[4 * r + 2] + sums[4 * r + 3]);
  }
}

extern const Kernels kPortable;
const Kernels kPortable = {"portable", shared_quantize, shared_rms_norm, shared_dot, shared_gate, ternary, int8};

float exponential(float x) { return fast_exponential(x); }

}  // namespace embernet
