// NEON of ARMv8.0, which has no dot product: SMLAL into int16, widened to int32 before it can overflow.
#include "lanes_neon.h"
#include "outliers.h"
#include "tile_by_tile.h"

namespace embernet {

// A product of a code 0..2 and |a| <= 128 is at most 256, a lane adds four per group: an int16 holds 127 products.
constexpr int64_t kGroupsPerFlush = 31;

constexpr int kUnit = 4;  // groups of int8 weights whose products are added in int16

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

  // Adds the products of two groups of any codes; two products of int8 codes (at most 2 * 128 * 127) fit an int16. In
  // one piece: a compiler would begin so many products that the sums no longer fit the registers, and in this order each
  // result is used four instructions after it was begun, which is how long the Cortex-A53 takes.
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
  void add_to(int32_t* products) const {
    vst1q_s32(products, vaddq_s32(vld1q_s32(products), vpaddq_s32(rows01, rows23)));
    vst1q_s32(products + 4, vaddq_s32(vld1q_s32(products + 4), vpaddq_s32(rows45, rows67)));
  }
};

// The sums over a whole tile, of any codes.
struct Int8TileSums {
  Int8Sums top, bottom;

  void add(const int8_t* group0, const int8_t* group1, int8x16_t a0, int8x16_t a1) {
    top.add(vld1q_s8(group0), vld1q_s8(group1), vld1q_s8(group0 + 16), vld1q_s8(group1 + 16), a0, a1);
    bottom.add(vld1q_s8(group0 + 32), vld1q_s8(group1 + 32), vld1q_s8(group0 + 48), vld1q_s8(group1 + 48), a0, a1);
  }
  void add_to(int32_t* products) const {
    top.add_to(products);
    bottom.add_to(products + 8);
  }
};

// One row of any codes: the weights come from memory once, in order.
static void int8_row(const int8_t* tile, int64_t groups, const int8_t* codes, int32_t* products) {
  static constexpr int8_t kZeros[kGroupBytes] = {};  // follow an odd last group
  Int8TileSums sums;
  for (int64_t g = 0; g < groups; g += 2) {
    const int8_t* group = tile + g * kGroupBytes;
    __builtin_prefetch(group + 1024);
    const int8x16_t a0 = next4(codes), a1 = next4(codes);
    sums.add(group, g + 1 < groups ? group + kGroupBytes : kZeros, a0, a1);
  }
  sums.add_to(products);
}

static void add_outliers(const int8_t* tile, const Row& row, int32_t* products) {
  static constexpr Outlier kNone = {};  // follows an odd last one
  Int8TileSums sums;
  for (int64_t i = 0; i < row.num_outliers; i += 2) {
    const Outlier &first = row.outliers[i], &second = i + 1 < row.num_outliers ? row.outliers[i + 1] : kNone;
    const int8_t *codes0 = first.codes, *codes1 = second.codes;
    sums.add(tile + first.group * kGroupBytes, tile + second.group * kGroupBytes, next4(codes0), next4(codes1));
  }
  sums.add_to(products);
}

// Whether the products of 4 groups of these codes can be added in int16: a lane gets one of each, at most 128 times it.
static bool fits(const int8_t* codes) {
  const uint8x16_t sizes = vreinterpretq_u8_s8(vabsq_s8(vld1q_s8(codes)));
  const uint16x8_t sums = vaddl_u8(vget_low_u8(sizes), vget_high_u8(sizes));
  return vmaxv_u16(vadd_u16(vget_low_u16(sums), vget_high_u16(sums))) <= 255;
}

static void take_int8_outliers(int8_t* codes, int64_t size, Row* row, Outlier* outliers) {
  take_outliers<kUnit>(codes, size, row, outliers, fits);
}

// 16 codes of a row, each four repeated for every row of weights.
struct Codes16 {
  int8x16_t a0, a1, a2, a3;
};

// Half a tile of four groups.
struct HalfUnit {
  int8x16_t upper[kUnit], lower[kUnit];

  explicit HalfUnit(const int8_t* half) {
    for (int i = 0; i < kUnit; ++i) {
      upper[i] = vld1q_s8(half + i * kGroupBytes);
      lower[i] = vld1q_s8(half + i * kGroupBytes + 16);
    }
  }
};

// Adds the products of four groups of codes that fit, and loads the 16 codes at `next` instead of them, which steps on.
// LD2R fills two registers that follow each other: these have to be named.
static inline void add_unit(Int8Sums& sums, const HalfUnit& w, Codes16& codes, const int8_t*& next) {
  register int8x16_t a0 asm("v28") = codes.a0, a1 asm("v29") = codes.a1;
  register int8x16_t a2 asm("v30") = codes.a2, a3 asm("v31") = codes.a3;
  asm("smull v24.8h, %9.8b, v28.8b\n\t"
      "smull2 v25.8h, %9.16b, v28.16b\n\t"
      "smull v26.8h, %13.8b, v28.8b\n\t"
      "smull2 v27.8h, %13.16b, v28.16b\n\t"
      "smlal v24.8h, %10.8b, v29.8b\n\t"
      "smlal2 v25.8h, %10.16b, v29.16b\n\t"
      "smlal v26.8h, %14.8b, v29.8b\n\t"
      "smlal2 v27.8h, %14.16b, v29.16b\n\t"
      "ld2r {v28.4s, v29.4s}, [%8], #8\n\t"
      "smlal v24.8h, %11.8b, v30.8b\n\t"
      "smlal2 v25.8h, %11.16b, v30.16b\n\t"
      "smlal v26.8h, %15.8b, v30.8b\n\t"
      "smlal2 v27.8h, %15.16b, v30.16b\n\t"
      "smlal v24.8h, %12.8b, v31.8b\n\t"
      "smlal2 v25.8h, %12.16b, v31.16b\n\t"
      "smlal v26.8h, %16.8b, v31.8b\n\t"
      "smlal2 v27.8h, %16.16b, v31.16b\n\t"
      "ld2r {v30.4s, v31.4s}, [%8], #8\n\t"
      "sadalp %0.4s, v24.8h\n\t"
      "sadalp %1.4s, v25.8h\n\t"
      "sadalp %2.4s, v26.8h\n\t"
      "sadalp %3.4s, v27.8h"
      : "+w"(sums.rows01), "+w"(sums.rows23), "+w"(sums.rows45), "+w"(sums.rows67), "+w"(a0), "+w"(a1), "+w"(a2),
        "+w"(a3), "+r"(next)
      : "w"(w.upper[0]), "w"(w.upper[1]), "w"(w.upper[2]), "w"(w.upper[3]), "w"(w.lower[0]), "w"(w.lower[1]),
        "w"(w.lower[2]), "w"(w.lower[3]), "m"(*reinterpret_cast<const int8_t(*)[16]>(next))
      : "v24", "v25", "v26", "v27");
  codes = {a0, a1, a2, a3};
}

// Four rows of codes that fit times one half of a tile; adds to products. No arrays of sums: the compiler would keep
// them in memory. After the last codes of row 0 come 16 that nobody uses; other rows follow, so they can be read.
static void int8_half(const int8_t* half, int64_t groups, const int8_t* const* codes, int32_t* const* products) {
  Int8Sums sums0, sums1, sums2, sums3;
  const int8_t *row0 = codes[0], *row1 = codes[1], *row2 = codes[2], *row3 = codes[3];
  Codes16 next = {next4(row0), next4(row0), next4(row0), next4(row0)};
  const auto multiply = [&](const HalfUnit& weights) __attribute__((always_inline)) {
    add_unit(sums0, weights, next, row1);
    add_unit(sums1, weights, next, row2);
    add_unit(sums2, weights, next, row3);
    add_unit(sums3, weights, next, row0);
  };
  int64_t g = 0;
#pragma GCC unroll 4
  for (; g + kUnit <= groups; g += kUnit) multiply(HalfUnit(half + g * kGroupBytes));
  if (g < groups) {
    int8_t last[kUnit * kGroupBytes] = {};
    for (int64_t i = 0; g + i < groups; ++i) memcpy(last + i * kGroupBytes, half + (g + i) * kGroupBytes, 32);
    multiply(HalfUnit(last));
  }
  sums0.add_to(products[0]);
  sums1.add_to(products[1]);
  sums2.add_to(products[2]);
  sums3.add_to(products[3]);
}

static void int8(const int8_t* tile, int64_t groups, const int8_t* codes, int64_t stride, const Row* rows,
                 int64_t count, int32_t* products) {
  memset(products, 0, sizeof(int32_t) * static_cast<size_t>(count * kTileRows));
  for_rows_of_unit<4>(kUnit, codes, stride, rows, count, products, [&](int found, auto a, auto p) {
    if (found == 1) return int8_row(tile, groups, a[0], p[0]);
    int32_t* const bottom[4] = {p[0] + 8, p[1] + 8, p[2] + 8, p[3] + 8};
    int8_half(tile, groups, a, p);
    int8_half(tile + 32, groups, a, bottom);
  });
  for (int64_t m = 0; m < count; ++m) {
    if (rows[m].unit == 0) int8_row(tile, groups, codes + m * stride, products + m * kTileRows);
    if (rows[m].num_outliers > 0) add_outliers(tile, rows[m], products + m * kTileRows);
  }
}

extern const Kernels kNeon;
const Kernels kNeon = {"neon",
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
                       shared_attend,
                       take_int8_outliers};

}  // namespace embernet
