// NEON of ARMv8.0, which has no dot product: SMLAL into int16, widened to int32 before it can overflow.
#include "lanes_neon.h"

namespace embernet {

// A product of a code 0..2 and |a| <= 128 is at most 256, a lane adds four per group: an int16 holds 127 products.
constexpr int64_t kGroupsPerFlush = 31;

// The next four activation codes, repeated for every row: one instruction loads, repeats and steps on.
static inline int8x16_t next4(const int8_t*& codes) {
  int8x16_t four;
  asm("ld1r {%0.4s}, [%1], #4" : "=w"(four), "+r"(codes) : "m"(*reinterpret_cast<const int8_t(*)[4]>(codes)));
  return four;
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

// `kRows` rows of codes times one half of a tile: 8 rows of weights. Writes products[m * 16 + 0..7].
template <int kRows>
static void ternary_half(const uint8_t* half, int64_t groups, const int8_t* codes, int64_t stride, const Row* rows,
                         int32_t* products) {
  for (int m = 0; m < kRows; ++m) {
    vst1q_s32(products + m * kTileRows, vdupq_n_s32(-rows[m].sum));
    vst1q_s32(products + m * kTileRows + 4, vdupq_n_s32(-rows[m].sum));
  }
  for (int64_t begin = 0; begin < groups; begin += kGroupsPerFlush) {
    const int64_t end = begin + kGroupsPerFlush < groups ? begin + kGroupsPerFlush : groups;
    int16x8_t rows01[kRows], rows23[kRows], rows45[kRows], rows67[kRows];
    const int8_t* a[kRows];
    for (int m = 0; m < kRows; ++m) {
      rows01[m] = rows23[m] = rows45[m] = rows67[m] = vdupq_n_s16(0);
      a[m] = codes + m * stride + begin * kTernaryInputs;
    }
    for (int64_t g = begin; g < end; ++g) {
      const uint8x16_t upper = vld1q_u8(half + g * kGroupBytes), lower = vld1q_u8(half + g * kGroupBytes + 16);
      const auto add = [&](int8x16_t w, int8x16_t v) {
        for (int m = 0; m < kRows; ++m) {
          const int8x16_t four = next4(a[m]);
          rows01[m] = vmlal_s8(rows01[m], vget_low_s8(w), vget_low_s8(four));
          rows23[m] = vmlal_high_s8(rows23[m], w, four);
          rows45[m] = vmlal_s8(rows45[m], vget_low_s8(v), vget_low_s8(four));
          rows67[m] = vmlal_high_s8(rows67[m], v, four);
        }
      };
      add(field<0>(upper), field<0>(lower));
      add(field<1>(upper), field<1>(lower));
      add(field<2>(upper), field<2>(lower));
      add(field<3>(upper), field<3>(lower));
    }
    for (int m = 0; m < kRows; ++m) {
      int32_t* p = products + m * kTileRows;
      vst1q_s32(p, vaddq_s32(vld1q_s32(p), widen(rows01[m], rows23[m])));
      vst1q_s32(p + 4, vaddq_s32(vld1q_s32(p + 4), widen(rows45[m], rows67[m])));
    }
  }
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
      const int8x16_t a0 = next4(codes), a1 = next4(codes), a2 = next4(codes), a3 = next4(codes);
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
    for (int64_t h = 0; h < 2; ++h)
      ternary_half<4>(tile + 32 * h, groups, codes + m * stride, stride, rows + m, products + m * kTileRows + 8 * h);
  for (; m < count; ++m) ternary_row(tile, groups, codes + m * stride, rows[m], products + m * kTileRows);
}

// The sums over 8 rows of weights.
struct Int8Sums {
  int32x4_t rows01 = vdupq_n_s32(0), rows23 = rows01, rows45 = rows01, rows67 = rows01;

  // Adds the products of two groups; two products of int8 codes (at most 2 * 128 * 127) fit an int16. In one piece: a
  // compiler would begin so many products that the sums no longer fit the registers, and in this order each result
  // is used four instructions after it was begun, which is how long the Cortex-A53 takes.
  void add(int8x16_t upper0, int8x16_t upper1, int8x16_t lower0, int8x16_t lower1, int8x16_t a0, int8x16_t a1) {
    int16x8_t p, q, r, s;
    asm("smull %4.8h, %8.8b, %12.8b\n\t"
        "smull2 %5.8h, %8.16b, %12.16b\n\t"
        "smull %6.8h, %10.8b, %12.8b\n\t"
        "smull2 %7.8h, %10.16b, %12.16b\n\t"
        "smlal %4.8h, %9.8b, %13.8b\n\t"
        "smlal2 %5.8h, %9.16b, %13.16b\n\t"
        "smlal %6.8h, %11.8b, %13.8b\n\t"
        "smlal2 %7.8h, %11.16b, %13.16b\n\t"
        "sadalp %0.4s, %4.8h\n\t"
        "sadalp %1.4s, %5.8h\n\t"
        "sadalp %2.4s, %6.8h\n\t"
        "sadalp %3.4s, %7.8h"
        : "+w"(rows01), "+w"(rows23), "+w"(rows45), "+w"(rows67), "=&w"(p), "=&w"(q), "=&w"(r), "=&w"(s)
        : "w"(upper0), "w"(upper1), "w"(lower0), "w"(lower1), "w"(a0), "w"(a1));
  }
  void store(int32_t* products) const {
    vst1q_s32(products, vpaddq_s32(rows01, rows23));
    vst1q_s32(products + 4, vpaddq_s32(rows45, rows67));
  }
};

// Two groups of weights; an odd last one is followed by zeros.
struct GroupPair {
  static constexpr int8_t kZeros[kGroupBytes] = {};
  const int8_t *first, *second;

  GroupPair(const int8_t* weights, int64_t g, int64_t groups)
      : first(weights + g * kGroupBytes), second(g + 1 < groups ? first + kGroupBytes : kZeros) {}
};

// Four rows of codes times one half of a tile. No arrays of sums: the compiler would keep them in memory.
static void int8_half(const int8_t* half, int64_t groups, const int8_t* codes, int64_t stride, int32_t* products) {
  Int8Sums sums0, sums1, sums2, sums3;
  const int8_t *a0 = codes, *a1 = codes + stride, *a2 = codes + 2 * stride, *a3 = codes + 3 * stride;
  for (int64_t g = 0; g < groups; g += 2) {
    const GroupPair pair(half, g, groups);
    const int8x16_t upper0 = vld1q_s8(pair.first), lower0 = vld1q_s8(pair.first + 16);
    const int8x16_t upper1 = vld1q_s8(pair.second), lower1 = vld1q_s8(pair.second + 16);
    const auto add = [&](Int8Sums& sums, const int8_t*& a) {
      const int8x16_t four = next4(a);
      sums.add(upper0, upper1, lower0, lower1, four, next4(a));
    };
    add(sums0, a0);
    add(sums1, a1);
    add(sums2, a2);
    add(sums3, a3);
  }
  sums0.store(products);
  sums1.store(products + kTileRows);
  sums2.store(products + 2 * kTileRows);
  sums3.store(products + 3 * kTileRows);
}

// One row of codes times a whole tile: the weights come from memory once, in order.
static void int8_row(const int8_t* tile, int64_t groups, const int8_t* codes, int32_t* products) {
  Int8Sums top, bottom;
  for (int64_t g = 0; g < groups; g += 2) {
    const GroupPair pair(tile, g, groups);
    __builtin_prefetch(pair.first + 1024);
    const int8x16_t a0 = next4(codes), a1 = next4(codes);
    top.add(vld1q_s8(pair.first), vld1q_s8(pair.second), vld1q_s8(pair.first + 16), vld1q_s8(pair.second + 16), a0, a1);
    bottom.add(vld1q_s8(pair.first + 32), vld1q_s8(pair.second + 32), vld1q_s8(pair.first + 48),
               vld1q_s8(pair.second + 48), a0, a1);
  }
  top.store(products);
  bottom.store(products + 8);
}

static void int8(const int8_t* tile, int64_t groups, const int8_t* codes, int64_t stride, const Row*, int64_t count,
                 int32_t* products) {
  int64_t m = 0;
  for (; m + 4 <= count; m += 4)
    for (int64_t h = 0; h < 2; ++h)
      int8_half(tile + 32 * h, groups, codes + m * stride, stride, products + m * kTileRows + 8 * h);
  for (; m < count; ++m) int8_row(tile, groups, codes + m * stride, products + m * kTileRows);
}

extern const Kernels kNeon;
const Kernels kNeon = {"neon",      shared_quantize, shared_rms_norm, shared_dot,
                       shared_gate, ternary,         int8,            shared_attend};

}  // namespace embernet
