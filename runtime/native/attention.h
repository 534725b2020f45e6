// Softmax attention of one head in float32. The products of matrices run in tiles of queries by 16 columns whose sums
// stay in registers; each sum adds its terms one after another by fused multiply-add, so that all instruction sets get
// the same bits, and a token gets the same whether it comes alone or among others.
#pragma once

#include "lanes.h"

namespace embernet {

constexpr int64_t kColumns = kAttentionColumns;

// Adds f[m][i] * b for every row m of a tile.
template <int i, int kRows>
static inline void add_products(const Factors (&f)[kRows], const float* b, Columns (&sums)[kRows]) {
  const Columns columns = load_columns(b);
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) multiply_add<i>(f[m], columns, sums[m]);
  asm volatile("" ::: "memory");  // what is loaded ahead takes registers from the sums
}

// c (rows, 16) = a (rows, depth) b (depth, 16); a row of a can be read up to the next multiple of 4.
template <int kRows>
static void multiply_tile(const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t depth, float* c,
                          int64_t c_stride) {
  Columns sums[kRows];
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) sums[m] = no_columns();
  int64_t k = 0;
  Factors f[kRows];
  for (; k + 4 <= depth; k += 4, b += 4 * b_stride) {
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) f[m] = load_factors(a + m * a_stride + k);
    add_products<0>(f, b, sums);
    add_products<1>(f, b + b_stride, sums);
    add_products<2>(f, b + 2 * b_stride, sums);
    add_products<3>(f, b + 3 * b_stride, sums);
  }
  if (k < depth) {
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) f[m] = load_factors(a + m * a_stride + k);
    add_products<0>(f, b, sums);
    if (k + 1 < depth) add_products<1>(f, b + b_stride, sums);
    if (k + 2 < depth) add_products<2>(f, b + 2 * b_stride, sums);
  }
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) store_columns(c + m * c_stride, sums[m]);
}

// The first `rows` rows, at most `kRows`.
template <int kRows = kQueriesPerTile>
static void multiply_rows(int64_t rows, const float* a, int64_t a_stride, const float* b, int64_t b_stride,
                          int64_t depth, float* c, int64_t c_stride) {
  if constexpr (kRows > 1)
    if (rows < kRows) return multiply_rows<kRows - 1>(rows, a, a_stride, b, b_stride, depth, c, c_stride);
  multiply_tile<kRows>(a, a_stride, b, b_stride, depth, c, c_stride);
}

// Up to 16 keys (count, size) -> columns (size, 16), zeros beside the last one.
static void keys_to_columns(const float* keys, int64_t stride, int64_t count, int64_t size, float* columns) {
  for (int64_t first = 0; first < kColumns; first += kLanes) {
    int64_t done = 0;
    if (first + kLanes <= count)
      for (; done + kLanes <= size; done += kLanes)
        transpose(keys + first * stride + done, stride, columns + done * kColumns + first);
    for (int64_t i = done; i < size; ++i)
      for (int64_t j = first; j < first + kLanes; ++j)
        columns[i * kColumns + j] = j < count ? keys[j * stride + i] : 0.0f;
  }
}

// Scores -> exponentials of what they are below the largest; zeros from `count` to `padded`. Returns 1 / their sum.
static float exponentials(float* scores, int64_t count, int64_t padded) {
  for (int64_t i = count; i < padded; ++i) scores[i] = -__FLT_MAX__;
  Lanes largest = repeat(-__FLT_MAX__);
  for (int64_t i = 0; i < padded; i += kLanes) largest = larger(load_lanes(scores + i), largest);
  float lanes[kLanes];
  store_lanes(lanes, largest);
  for (int64_t j = 1; j < kLanes; ++j) lanes[0] = lanes[0] > lanes[j] ? lanes[0] : lanes[j];
  largest = repeat(lanes[0]);
  for (int64_t i = 0; i < padded; i += kLanes)
    store_lanes(scores + i, exponential(subtract(load_lanes(scores + i), largest)));
  for (int64_t i = count; i < padded; ++i) scores[i] = 0.0f;
  Lanes total = repeat(0.0f);
  for (int64_t i = 0; i < padded; i += kLanes) total = add(total, load_lanes(scores + i));
  return 1.0f / sum(total);
}

// Asks for what is read soon: the cache of a head is too short for the CPU to see where its reading goes. Into the L2
// cache, as the L1 cache has room for few requests at a time.
static void prefetch_rows(const float* rows, int64_t stride, int64_t count, int64_t size) {
  constexpr int64_t kLine = 16;  // floats
  for (int64_t i = 0; i < count; ++i)
    for (int64_t j = 0; j < size; j += kLine) __builtin_prefetch(rows + i * stride + j, 0, 2);
}

static void shared_attend(const Attention& a, float* scratch, float* out) {
  const int64_t keys = a.visible[a.rows - 1], padded_keys = attention_padded(keys);
  const int64_t width = attention_padded(a.size);
  float* scores = scratch;
  float* columns = scores + a.rows * padded_keys;
  prefetch_rows(a.keys, a.key_stride, keys < kColumns ? keys : kColumns, a.size);
  for (int64_t key = 0; key < keys; key += kColumns) {
    const int64_t count = keys - key < kColumns ? keys - key : kColumns;
    const int64_t next = key + count, next_count = keys - next < kColumns ? keys - next : kColumns;
    prefetch_rows(a.keys + next * a.key_stride, a.key_stride, next_count, a.size);
    prefetch_rows(a.values + key * a.value_stride, a.value_stride, count, a.size);
    keys_to_columns(a.keys + key * a.key_stride, a.key_stride, count, a.size, columns);
    for (int64_t m = 0; m < a.rows; m += kQueriesPerTile)
      multiply_rows(a.rows - m, a.queries + m * a.size, a.size, columns, kColumns, a.size,
                    scores + m * padded_keys + key, padded_keys);
  }
  // Values that are no multiple of 16 wide are copied, so that none is read beyond its end.
  const float* values = a.values;
  int64_t value_stride = a.value_stride;
  if (width != a.size) {
    float* copy = columns + a.size * kColumns;
    for (int64_t key = 0; key < keys; ++key) {
      memcpy(copy + key * width, a.values + key * a.value_stride, sizeof(float) * static_cast<size_t>(a.size));
      memset(copy + key * width + a.size, 0, sizeof(float) * static_cast<size_t>(width - a.size));
    }
    values = copy;
    value_stride = width;
  }
  for (int64_t begin = 0; begin < a.rows; begin += kQueriesPerTile) {
    const int64_t end = begin + kQueriesPerTile < a.rows ? begin + kQueriesPerTile : a.rows;
    float shares[kQueriesPerTile];
    for (int64_t m = begin; m < end; ++m)
      shares[m - begin] = exponentials(scores + m * padded_keys, a.visible[m], padded_keys);
    for (int64_t i = 0; i < width; i += kColumns)
      multiply_rows(end - begin, scores + begin * padded_keys, padded_keys, values + i, value_stride,
                    a.visible[end - 1], out + begin * width + i, width);
    for (int64_t m = begin; m < end; ++m)
      for (int64_t i = 0; i < width; ++i) out[m * width + i] *= shares[m - begin];
  }
}

}  // namespace embernet
