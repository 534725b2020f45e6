// AVX2: byte products by VPMADDUBSW, unsigned by signed, summed in int16 as long as that is exact.
#include "lanes_avx2.h"

#include "columns.h"
#include "outliers.h"
#include "tile_by_tile.h"

namespace embernet {

constexpr int kQueriesPerTile = 6;

}  // namespace embernet

#include "attention.h"

namespace embernet {

static inline __m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

static inline void store(void* p, __m256i x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }

// Four activation codes, repeated for every row.
static inline __m256i broadcast4(const int8_t* codes) {
  int32_t four;
  memcpy(&four, codes, sizeof four);
  return _mm256_set1_epi32(four);
}

// Keeps the compiler from computing products ahead of their use: it would run out of registers.
static inline void in_order(__m256i& x) { asm volatile("" : "+x"(x)); }

static inline __m256i widen(__m256i sums16) { return _mm256_madd_epi16(sums16, _mm256_set1_epi16(1)); }

// Field p of 32 packed bytes: the codes 0..2 of 8 rows, 4 inputs each.
template <int p>
static inline __m256i field(__m256i packed) {
  return _mm256_and_si256(p == 0 ? packed : _mm256_srli_epi16(packed, 2 * p), _mm256_set1_epi8(3));
}

// A product of a code 0..2 and |a| <= 128 is at most 256, VPMADDUBSW adds two: an int16 holds 63 of those sums.
constexpr int64_t kGroupsPerFlush = 15;  // 4 sums per group
constexpr int64_t kPrefetch = 8192;  // bytes ahead

// One row of codes: the weights come from memory once, in order.
static void ternary_row(const uint8_t* tile, int64_t groups, const int8_t* codes, const Row& row, int32_t* products) {
  __m256i top = _mm256_setzero_si256(), bottom = _mm256_setzero_si256();
  for (int64_t begin = 0; begin < groups; begin += kGroupsPerFlush) {
    const int64_t end = begin + kGroupsPerFlush < groups ? begin + kGroupsPerFlush : groups;
    __m256i top16 = _mm256_setzero_si256(), bottom16 = _mm256_setzero_si256();
    for (int64_t g = begin; g < end; ++g) {
      const uint8_t* group = tile + g * kGroupBytes;
      const int8_t* a = codes + g * kTernaryInputs;
      _mm_prefetch(reinterpret_cast<const char*>(group + kPrefetch), _MM_HINT_T0);
      const __m256i upper = load(group), lower = load(group + 32);
      const __m256i a0 = broadcast4(a), a1 = broadcast4(a + 4), a2 = broadcast4(a + 8), a3 = broadcast4(a + 12);
      const auto sum = [&](__m256i packed) {
        const __m256i s01 = _mm256_add_epi16(_mm256_maddubs_epi16(field<0>(packed), a0),
                                             _mm256_maddubs_epi16(field<1>(packed), a1));
        const __m256i s23 = _mm256_add_epi16(_mm256_maddubs_epi16(field<2>(packed), a2),
                                             _mm256_maddubs_epi16(field<3>(packed), a3));
        return _mm256_add_epi16(s01, s23);
      };
      top16 = _mm256_add_epi16(top16, sum(upper));
      bottom16 = _mm256_add_epi16(bottom16, sum(lower));
    }
    top = _mm256_add_epi32(top, widen(top16));
    bottom = _mm256_add_epi32(bottom, widen(bottom16));
  }
  const __m256i correction = _mm256_set1_epi32(row.sum);
  store(products, _mm256_sub_epi32(top, correction));
  store(products + 8, _mm256_sub_epi32(bottom, correction));
}

// `kRows` rows of codes times unpacked weights: 64 bytes (16 rows x 4 inputs) per step. Adds to products.
template <int kRows>
static void ternary_block(const uint8_t* unpacked, int64_t steps, const int8_t* codes, int64_t stride,
                          int32_t* products) {
  for (int64_t begin = 0; begin < steps; begin += 4 * kGroupsPerFlush) {
    const int64_t end = begin + 4 * kGroupsPerFlush < steps ? begin + 4 * kGroupsPerFlush : steps;
    __m256i top[kRows], bottom[kRows];
    for (int m = 0; m < kRows; ++m) top[m] = bottom[m] = _mm256_setzero_si256();
    for (int64_t s = begin; s < end; ++s) {
      const __m256i upper = load(unpacked + s * 64), lower = load(unpacked + s * 64 + 32);
      for (int m = 0; m < kRows; ++m) {
        __m256i a = broadcast4(codes + m * stride + s * 4);
        in_order(a);
        top[m] = _mm256_add_epi16(top[m], _mm256_maddubs_epi16(upper, a));
        bottom[m] = _mm256_add_epi16(bottom[m], _mm256_maddubs_epi16(lower, a));
        in_order(top[m]);
        in_order(bottom[m]);
      }
    }
    for (int m = 0; m < kRows; ++m) {
      int32_t* p = products + m * kTileRows;
      store(p, _mm256_add_epi32(load(p), widen(top[m])));
      store(p + 8, _mm256_add_epi32(load(p + 8), widen(bottom[m])));
    }
  }
}

static void ternary(const uint8_t* tile, int64_t groups, const int8_t* codes, int64_t stride, const Row* rows,
                    int64_t count, int32_t* products) {
  if (count == 1) return ternary_row(tile, groups, codes, rows[0], products);
  for (int64_t m = 0; m < count; ++m)
    for (int64_t r = 0; r < kTileRows; ++r) products[m * kTileRows + r] = -rows[m].sum;
  constexpr int64_t kBlock = 48;  // groups unpacked at once: 12 KiB, a third of the L1 cache
  alignas(32) uint8_t unpacked[kBlock * 4 * kGroupBytes];
  for (int64_t begin = 0; begin < groups; begin += kBlock) {
    const int64_t size = begin + kBlock < groups ? kBlock : groups - begin;
    for (int64_t g = 0; g < size; ++g)
      for (int half = 0; half < 2; ++half) {
        const __m256i packed = load(tile + (begin + g) * kGroupBytes + half * 32);
        uint8_t* out = unpacked + g * 4 * kGroupBytes + half * 32;
        store(out, field<0>(packed));
        store(out + 64, field<1>(packed));
        store(out + 128, field<2>(packed));
        store(out + 192, field<3>(packed));
      }
    const int8_t* a = codes + begin * kTernaryInputs;
    int64_t m = 0;
    for (; m + 6 <= count; m += 6)
      ternary_block<6>(unpacked, size * 4, a + m * stride, stride, products + m * kTileRows);
    for (; m + 2 <= count; m += 2)
      ternary_block<2>(unpacked, size * 4, a + m * stride, stride, products + m * kTileRows);
    for (; m < count; ++m)
      ternary_block<1>(unpacked, size * 4, a + m * stride, stride, products + m * kTileRows);
  }
}

constexpr int kInt8Rows = 3;  // multiplied at once

// |w| is unsigned and the sign goes to the activation; 127 * 128 * 2 fits an int16.
static inline __m256i exact_product(__m256i w, __m256i a) {
  return widen(_mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w)));
}

// `kRows` rows of any codes.
template <int kRows>
static void int8_exact(const int8_t* tile, int64_t groups, const int8_t* const* codes, int32_t* const* products) {
  __m256i top[kRows], bottom[kRows];
  for (int m = 0; m < kRows; ++m) top[m] = bottom[m] = _mm256_setzero_si256();
  for (int64_t g = 0; g < groups; ++g) {
    const int8_t* group = tile + g * kGroupBytes;
    _mm_prefetch(reinterpret_cast<const char*>(group + kPrefetch), _MM_HINT_T0);
    const __m256i upper = load(group), lower = load(group + 32);
    for (int m = 0; m < kRows; ++m) {
      __m256i a = broadcast4(codes[m] + g * kInt8Inputs);
      in_order(a);
      top[m] = _mm256_add_epi32(top[m], exact_product(upper, a));
      bottom[m] = _mm256_add_epi32(bottom[m], exact_product(lower, a));
      in_order(top[m]);
      in_order(bottom[m]);
    }
  }
  for (int m = 0; m < kRows; ++m) {
    store(products[m], top[m]);
    store(products[m] + 8, bottom[m]);
  }
}

// Adds the products of what was taken out of a row.
static void add_outliers(const int8_t* tile, const Row& row, int32_t* products) {
  __m256i top = load(products), bottom = load(products + 8);
  for (int64_t i = 0; i < row.num_outliers; ++i) {
    const int8_t* group = tile + row.outliers[i].group * kGroupBytes;
    const __m256i a = broadcast4(row.outliers[i].codes);
    top = _mm256_add_epi32(top, exact_product(load(group), a));
    bottom = _mm256_add_epi32(bottom, exact_product(load(group + 32), a));
  }
  store(products, top);
  store(products + 8, bottom);
}

// Whether the products of `kUnit` groups of these codes and weights + 128, which are 0 to 255, can be added in int16: a
// lane gets two of each group, and neither its positive nor its negative codes may exceed 128 = 32767 / 255.
template <int kUnit>
static bool fits(const int8_t* codes) {
  const __m128i zero = _mm_setzero_si128(), a = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes));
  const __m128i sizes = _mm_max_epi8(_mm_unpacklo_epi64(a, _mm_sub_epi8(zero, a)), zero);
  __m128i sums = _mm_maddubs_epi16(sizes, _mm_set1_epi8(1));  // of codes, of codes with the other sign; two groups each
  if (kUnit == 2) sums = _mm_add_epi16(sums, _mm_shuffle_epi32(sums, _MM_SHUFFLE(2, 3, 0, 1)));
  const int large = _mm_movemask_epi8(_mm_cmpgt_epi16(sums, _mm_set1_epi16(128)));
  return (kUnit == 2 ? large : large & 0x0f0f) == 0;  // of one group: two lanes, two bits each, in either half
}

static void take_int8_outliers(int8_t* codes, int64_t size, Row* row, Outlier* outliers) {
  if (!take_outliers<2>(codes, size, row, outliers, fits<2>)) take_outliers<1>(codes, size, row, outliers, fits<1>);
}

// `kRows` rows of codes that fit times a multiple of `kUnit` groups of weights + 128; adds to products. Left alone, gcc
// unrolls the rows too late to keep their sums in registers.
template <int kUnit, int kRows>
static void int8_block(const int8_t* weights, int64_t groups, const int8_t* const* codes, int32_t* const* products) {
  __m256i top[kRows], bottom[kRows];
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
    top[m] = load(products[m]);
    bottom[m] = load(products[m] + 8);
  }
  for (int64_t g = 0; g < groups; g += kUnit) {
    __m256i upper[kUnit], lower[kUnit], a[kUnit];
    for (int i = 0; i < kUnit; ++i) {
      upper[i] = load(weights + (g + i) * kGroupBytes);
      lower[i] = load(weights + (g + i) * kGroupBytes + 32);
    }
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      for (int i = 0; i < kUnit; ++i) {
        a[i] = broadcast4(codes[m] + (g + i) * kInt8Inputs);
        in_order(a[i]);
      }
      const auto sum = [&](const __m256i (&w)[kUnit]) {
        __m256i products16 = _mm256_maddubs_epi16(w[0], a[0]);
        for (int i = 1; i < kUnit; ++i) products16 = _mm256_add_epi16(products16, _mm256_maddubs_epi16(w[i], a[i]));
        return widen(products16);
      };
      top[m] = _mm256_add_epi32(top[m], sum(upper));
      in_order(top[m]);
      bottom[m] = _mm256_add_epi32(bottom[m], sum(lower));
      in_order(bottom[m]);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
    store(products[m], top[m]);
    store(products[m] + 8, bottom[m]);
  }
}

// The rows of one unit.
template <int kUnit>
static void int8_blocks(const int8_t* weights, int64_t groups, const int8_t* codes, int64_t stride, const Row* rows,
                        int64_t count, int32_t* products) {
  for_rows_of_unit<kInt8Rows>(kUnit, codes, stride, rows, count, products, [&](int found, auto a, auto p) {
    found == 1 ? int8_block<kUnit, 1>(weights, groups, a, p) : int8_block<kUnit, kInt8Rows>(weights, groups, a, p);
  });
}

static void int8(const int8_t* tile, int64_t groups, const int8_t* codes, int64_t stride, const Row* rows,
                 int64_t count, int32_t* products) {
  for_rows_of_unit<kInt8Rows>(0, codes, stride, rows, count, products, [&](int found, auto a, auto p) {
    found == 1 ? int8_exact<1>(tile, groups, a, p) : int8_exact<kInt8Rows>(tile, groups, a, p);
  });
  bool fitting = false;
  for (int64_t m = 0; m < count; ++m) {
    if (rows[m].unit == 0) continue;
    // The weights below are 128 too large: this is what that adds.
    for (int64_t r = 0; r < kTileRows; ++r) products[m * kTileRows + r] = -128 * rows[m].sum;
    fitting = true;
  }
  if (!fitting) return;
  constexpr int64_t kBlock = 128;  // groups: 8 KiB, a quarter of the L1 cache
  alignas(32) int8_t weights[kBlock * kGroupBytes];
  for (int64_t begin = 0; begin < groups; begin += kBlock) {
    const int64_t size = begin + kBlock < groups ? kBlock : groups - begin, bytes = size * kGroupBytes;
    for (int64_t i = 0; i < bytes; i += 32)
      store(weights + i, _mm256_xor_si256(load(tile + begin * kGroupBytes + i), _mm256_set1_epi8(-128)));
    if (size % 2 == 1) memset(weights + bytes, 0, kGroupBytes);
    int8_blocks<1>(weights, size, codes + begin * kInt8Inputs, stride, rows, count, products);
    int8_blocks<2>(weights, size, codes + begin * kInt8Inputs, stride, rows, count, products);
  }
  for (int64_t m = 0; m < count; ++m)
    if (rows[m].num_outliers > 0) add_outliers(tile, rows[m], products + m * kTileRows);
}

void gelu_avx2(const float* x, int64_t size, float* y) { shared_gelu(x, size, y); }

void layer_norm_avx2(const float* x, const float* weight, const float* bias, int64_t size, float eps, float* scratch,
                     float* y) {
  shared_layer_norm(x, weight, bias, size, eps, scratch, y);
}

void attend_avx2(const Attention& attention, float* scratch, float* out) { shared_attend(attention, scratch, out); }

extern const Kernels kAvx2;
const Kernels kAvx2 = {"avx2",
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
                       gelu_avx2,
                       layer_norm_avx2,
                       attend_avx2,
                       take_int8_outliers};

}  // namespace embernet
