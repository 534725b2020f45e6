// The integer kernels of instruction sets with VPDPBUSD, which adds four products of an unsigned and a signed byte to
// each int32 of a register. `Isa` says what a register is and how to call it; the rest is the same for every width.
#pragma once

#include <stdint.h>
#include <string.h>

#include "kernels.h"

namespace embernet {

// kernels_avx2.cpp: whatever has VNNI has AVX2 and FMA.
void gelu_avx2(const float* x, int64_t size, float* y);
void layer_norm_avx2(const float* x, const float* weight, const float* bias, int64_t size, float eps, float* scratch,
                     float* y);
void attend_avx2(const Attention& attention, float* scratch, float* out);

constexpr int kMaxSums = 12;         // kept in registers: hides the latency of VPDPBUSD, and fits AVX's 16
constexpr int64_t kPrefetch = 8192;  // bytes ahead

// How the weights of a group become unsigned bytes, and what that adds to each of them.
struct Ternary {
  using Element = uint8_t;
  static constexpr int kFields = 4;  // in a byte
  static constexpr uint32_t kOffset = 1;

  // Two bits of every byte, left in their place.
  template <class Register>
  static Register field(Register packed, int f) {
    return packed & static_cast<int32_t>(0x03030303u << 2 * f);
  }
};

struct Int8 {
  using Element = int8_t;
  static constexpr int kFields = 1;
  static constexpr uint32_t kOffset = 128;

  template <class Register>
  static Register field(Register weights, int) {
    return weights ^ static_cast<int32_t>(0x80808080u);
  }
};

// `kRows` rows of codes times the first `kParts` registers of every group. Left alone, gcc unrolls the rows too
// late to keep their sums in registers.
template <class Isa, class Weights, int kRows, int kParts>
static void multiply_block(const uint8_t* tile, int64_t groups, const int8_t* codes, int64_t stride, const Row* rows,
                           int32_t* products) {
  using Register = typename Isa::Register;
  constexpr int kFields = Weights::kFields;
  // Few rows get a sum per field: fields then neither wait for each other nor are shifted. That sum is 4^f times too
  // large, but fits: 3 * 64 * 128 * inputs / 4 < 2^31 up to 349,525 inputs.
  constexpr int kSums = kRows * kParts * kFields <= kMaxSums ? kFields : 1;
  Register sums[kRows][kParts][kSums];
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) {
    const uint32_t excess = Weights::kOffset * static_cast<uint32_t>(rows[m].sum);  // modulo 2^32, as every sum here
    for (int part = 0; part < kParts; ++part)
      for (int s = 0; s < kSums; ++s) sums[m][part][s] = Register{} + (s == 0 ? static_cast<int32_t>(0u - excess) : 0);
  }
  for (int64_t g = 0; g < groups; ++g) {
    const uint8_t* group = tile + g * kGroupBytes;
    __builtin_prefetch(group + kPrefetch);
    Register packed[kParts];
    for (int part = 0; part < kParts; ++part)
      memcpy(&packed[part], group + part * sizeof(Register), sizeof(Register));
    for (int f = 0; f < kFields; ++f) {
      Register weights[kParts];
      for (int part = 0; part < kParts; ++part) {
        weights[part] = Weights::field(packed[part], kSums == 1 ? 0 : f);
        if (kSums < kFields) packed[part] >>= 2;
      }
#pragma GCC unroll 16
      for (int m = 0; m < kRows; ++m) {
        int32_t four;  // codes, the same for every row of weights
        memcpy(&four, codes + m * stride + (g * kFields + f) * 4, sizeof four);
        for (int part = 0; part < kParts; ++part) {
          Register& sum = sums[m][part][f % kSums];
          sum = Isa::dot(sum, weights[part], Register{} + four);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m)
    for (int part = 0; part < kParts; ++part) {
      Register total = sums[m][part][kSums - 1];
      for (int s = kSums - 2; s >= 0; --s) total = (total >> 2) + sums[m][part][s];  // exact: a multiple of 4
      memcpy(products + m * kTileRows + part * kTileRows * sizeof total / kGroupBytes, &total, sizeof total);
    }
}

// At most `kRows` rows.
template <class Isa, class Weights, int kRows = kMaxSums>
static void multiply_rows(const uint8_t* tile, int64_t groups, const int8_t* codes, int64_t stride, const Row* rows,
                          int64_t count, int32_t* products) {
  if constexpr (kRows > 1)
    if (count < kRows) return multiply_rows<Isa, Weights, kRows - 1>(tile, groups, codes, stride, rows, count, products);
  // The weights of one row come from memory: whole groups, in order. Those of more rows stay in the L1 cache.
  constexpr int kRegisters = kGroupBytes / sizeof(typename Isa::Register), kParts = kRows == 1 ? kRegisters : 1;
  for (int part = 0; part < kRegisters; part += kParts)
    multiply_block<Isa, Weights, kRows, kParts>(tile + part * kGroupBytes / kRegisters, groups, codes, stride, rows,
                                                products + part * kTileRows / kRegisters);
}

// A kernel of kernels.h: the rows in blocks of about equal size.
template <class Isa, class Weights>
static void multiply(const typename Weights::Element* tile, int64_t groups, const int8_t* codes, int64_t stride,
                     const Row* rows, int64_t count, int32_t* products) {
  const int64_t blocks = (count + kMaxSums - 1) / kMaxSums;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t begin = count * b / blocks, end = count * (b + 1) / blocks;
    multiply_rows<Isa, Weights>(reinterpret_cast<const uint8_t*>(tile), groups, codes + begin * stride, stride,
                                rows + begin, end - begin, products + begin * kTileRows);
  }
}

// The same for one row of codes at a time: weights come from memory, once and in order.
template <class Isa, class Weights>
static void multiply_row(const typename Weights::Element* tile, int64_t tiles, int64_t groups, const RowPair& rows,
                         int32_t* products) {
  for (int64_t t = 0; t < tiles; ++t) {
    const Row row = {1.0f, rows.sums[t % 2]};
    multiply_rows<Isa, Weights, 1>(reinterpret_cast<const uint8_t*>(tile) + t * groups * kGroupBytes, groups,
                                   rows.codes[t % 2], 0, &row, 1, products + t * kTileRows);
  }
}

}  // namespace embernet
