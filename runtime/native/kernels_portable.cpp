// Plain C++: runs everywhere and says what the others do. Its loops are such as compilers turn into vectors.
#include "arithmetic.h"
#include "tile_by_tile.h"

namespace embernet {

// a * b + c, rounded once, also where the CPU has no such instruction: the product of two floats is exact in a double,
// and a sum rounded to odd there keeps what the second rounding must know (Boldo and Melquiond, 2008).
static inline float fused_multiply_add(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__)
  return __builtin_fmaf(a, b, c);
#else
  const double product = static_cast<double>(a) * static_cast<double>(b), addend = static_cast<double>(c);
  double sum = product + addend;
  const double back = sum - product;
  const double lost = (product - (sum - back)) + (addend - back);  // sum + lost is exact
  int64_t bits;
  memcpy(&bits, &sum, sizeof bits);
  const int64_t away = (lost > 0) == (sum > 0) ? 1 : -1;
  bits += lost != 0 && (bits & 1) == 0 && lost - lost == 0 ? away : 0;
  memcpy(&sum, &bits, sizeof sum);
  return static_cast<float>(sum);
#endif
}

struct Lanes {
  float v[kLanes];
};

static inline Lanes load_lanes(const float* p) {
  Lanes x;
  memcpy(x.v, p, sizeof x.v);
  return x;
}

static inline void store_lanes(float* p, Lanes x) { memcpy(p, x.v, sizeof x.v); }

static inline Lanes repeat(float value) {
  Lanes x;
  for (float& lane : x.v) lane = value;
  return x;
}

template <typename Function>
static inline Lanes each(Lanes a, Lanes b, const Function& function) {
  for (int64_t i = 0; i < kLanes; ++i) a.v[i] = function(a.v[i], b.v[i]);
  return a;
}

static inline Lanes add(Lanes a, Lanes b) { return each(a, b, [](float x, float y) { return x + y; }); }
static inline Lanes subtract(Lanes a, Lanes b) { return each(a, b, [](float x, float y) { return x - y; }); }
static inline Lanes multiply(Lanes a, Lanes b) { return each(a, b, [](float x, float y) { return x * y; }); }
static inline Lanes divide(Lanes a, Lanes b) { return each(a, b, [](float x, float y) { return x / y; }); }
static inline Lanes larger(Lanes a, Lanes b) { return each(a, b, [](float x, float y) { return x > y ? x : y; }); }
static inline Lanes smaller(Lanes a, Lanes b) { return each(a, b, [](float x, float y) { return x < y ? x : y; }); }

static inline Lanes multiply_add(Lanes a, Lanes b, Lanes c) {
  for (int64_t i = 0; i < kLanes; ++i) c.v[i] = fused_multiply_add(a.v[i], b.v[i], c.v[i]);
  return c;
}

static inline Lanes power_of_two(Lanes n) {
  int32_t bits[kLanes];
  memcpy(bits, n.v, sizeof bits);
  for (int32_t& exponent : bits) exponent = static_cast<int32_t>((static_cast<uint32_t>(exponent) << 23) + (127u << 23));
  memcpy(n.v, bits, sizeof bits);
  return n;
}

struct Factors {
  const float* p;
};

static inline Factors load_factors(const float* p) { return {p}; }

template <int i>
static inline Lanes multiply_add(Factors f, Lanes b, Lanes c) {
  for (int64_t j = 0; j < kLanes; ++j) c.v[j] = fused_multiply_add(f.p[i], b.v[j], c.v[j]);
  return c;
}

constexpr int kQueriesPerTile = 4;

static inline void transpose(const float* rows, int64_t stride, float* columns) {
  for (int64_t i = 0; i < kLanes; ++i)
    for (int64_t j = 0; j < kLanes; ++j) columns[j * kAttentionColumns + i] = rows[i * stride + j];
}

}  // namespace embernet

#include "columns.h"

#include "attention.h"

namespace embernet {

// A product of a code 0..2 and |a| <= 128 is at most 256, a lane adds four per group: an int16 holds 127 products.
constexpr int64_t kGroupsPerFlush = 31;

// Adds the products of field p of 16 rows. Byte i of a group: row i / 4, inputs i % 4 + 0, 4, 8, 12.
template <int p>
static inline void add_field(const uint8_t* group, const int8_t* codes, int16_t* sums) {
  const int8_t* four = codes + 4 * p;
  const int16_t a[kLanes] = {four[0], four[1], four[2], four[3], four[0], four[1], four[2], four[3]};
  int16_t factors[kGroupBytes];
  for (int64_t i = 0; i < kGroupBytes; i += kLanes) memcpy(factors + i, a, sizeof a);
  for (int64_t i = 0; i < kGroupBytes; ++i)
    sums[i] = static_cast<int16_t>(sums[i] + static_cast<int16_t>(group[i] >> (2 * p) & 3) * factors[i]);
}

static void ternary(const uint8_t* tile, int64_t groups, const int8_t* codes, int64_t stride, const Row* rows,
                    int64_t count, int32_t* products) {
  for (int64_t m = 0; m < count; ++m) {
    int32_t* out = products + m * kTileRows;
    for (int64_t r = 0; r < kTileRows; ++r) out[r] = -rows[m].sum;
    for (int64_t begin = 0; begin < groups; begin += kGroupsPerFlush) {
      const int64_t end = begin + kGroupsPerFlush < groups ? begin + kGroupsPerFlush : groups;
      int16_t sums[kGroupBytes] = {};
      for (int64_t g = begin; g < end; ++g) {
        const uint8_t* group = tile + g * kGroupBytes;
        const int8_t* a = codes + m * stride + g * kTernaryInputs;
        add_field<0>(group, a, sums);
        add_field<1>(group, a, sums);
        add_field<2>(group, a, sums);
        add_field<3>(group, a, sums);
      }
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
const Kernels kPortable = {"portable",
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

float exponential(float x) { return fast_exponential(x); }

}  // namespace embernet
