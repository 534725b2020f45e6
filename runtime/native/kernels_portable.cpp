// Plain C++: runs everywhere and says what the others do.
#include "arithmetic.h"

namespace embernet {

static void ternary(const uint8_t* tile, int64_t groups, const int8_t* codes, int64_t stride, const Row* rows,
                    int64_t count, int32_t* products) {
  for (int64_t m = 0; m < count; ++m) {
    int32_t sums[kTileRows] = {};
    for (int64_t g = 0; g < groups; ++g) {
      const uint8_t* group = tile + g * kGroupBytes;
      const int8_t* a = codes + m * stride + g * kTernaryInputs;
      for (int64_t i = 0; i < kGroupBytes; ++i)  // byte i: row i / 4, inputs i % 4 + 0, 4, 8, 12
        for (int64_t p = 0; p < 4; ++p) sums[i / 4] += (group[i] >> (2 * p) & 3) * a[4 * p + i % 4];
    }
    for (int64_t r = 0; r < kTileRows; ++r) products[m * kTileRows + r] = sums[r] - rows[m].sum;
  }
}

static void int8(const int8_t* tile, int64_t groups, const int8_t* codes, int64_t stride, const Row*, int64_t count,
                 int32_t* products) {
  for (int64_t m = 0; m < count; ++m) {
    int32_t sums[kTileRows] = {};
    for (int64_t g = 0; g < groups; ++g) {
      const int8_t* group = tile + g * kGroupBytes;
      const int8_t* a = codes + m * stride + g * kInt8Inputs;
      for (int64_t i = 0; i < kGroupBytes; ++i) sums[i / 4] += group[i] * a[i % 4];
    }
    memcpy(products + m * kTileRows, sums, sizeof sums);
  }
}

extern const Kernels kPortable;
const Kernels kPortable = {"portable", shared_quantize, shared_rms_norm, shared_dot, shared_gate, ternary, int8};

float exponential(float x) { return fast_exponential(x); }

}  // namespace embernet
