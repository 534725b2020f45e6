// What an instruction set provides. Every implementation gives the same integers, and the same floats bit for bit:
// they share one arithmetic (arithmetic.h), compiled without contraction or reassociation.
#pragma once

#include <stdint.h>

namespace embernet {

constexpr int64_t kTileRows = 16;      // rows of one tile of R16K16 and R16K4
constexpr int64_t kGroupBytes = 64;    // 16 rows x 16 ternary inputs, or 16 rows x 4 int8 inputs
constexpr int64_t kTernaryInputs = 16; // inputs of a ternary group
constexpr int64_t kInt8Inputs = 4;     // inputs of an int8 group
constexpr int64_t kCodeAlignment = 64; // rows of activation codes are padded with zeros to a multiple of this

// Attributes of the normalisation and of the activation quantiser (docs/operators.md).
struct Norm {
  float eps, input_clip, output_clip;
};
struct Activation {
  int64_t bits;
  float clip, floor;
};

// A group of codes that was taken out of its row.
struct Outlier {
  int32_t group;
  int8_t codes[kInt8Inputs];
};

// One quantised row: value = code * step; sum = the sum of its codes, without the outliers.
struct Row {
  float step;
  int32_t sum;
  int64_t unit = 0;  // of so many int8 groups the products can be added in int16; 0: the codes may be any
  const Outlier* outliers = nullptr;
  int64_t num_outliers = 0;
};

// What consecutive tiles are multiplied with: those of even number with the first row, the others with the second.
struct RowPair {
  const int8_t* codes[2];
  int32_t sums[2];
};

// Attention of `rows` queries of one head. queries: (rows, size), scaled; a key is `size` floats, `key_stride` apart,
// and so is a value. Row m sees the first visible[m] keys, at least one; visible[m] never decreases.
struct Attention {
  const float *queries, *keys, *values;
  int64_t key_stride, value_stride;
  int64_t size, rows;
  const int64_t* visible;
};

constexpr int64_t kAttentionColumns = 16;

constexpr int64_t attention_padded(int64_t size) {
  return (size + kAttentionColumns - 1) / kAttentionColumns * kAttentionColumns;
}

// Floats that `attend` needs beside its arguments.
constexpr int64_t attention_scratch(int64_t rows, int64_t size, int64_t keys) {
  return rows * attention_padded(keys) + size * kAttentionColumns +
         (size % kAttentionColumns != 0 ? keys * attention_padded(size) : 0);
}

struct Kernels {
  const char* name;

  // x (size), times `weight` unless that is null -> codes (size, padded with zeros to kCodeAlignment).
  Row (*quantize)(const float* x, const float* weight, int64_t size, const Activation& activation, int8_t* codes);

  // y[i] = what rms_norm multiplies weight[i] with; may overwrite x.
  void (*normalize)(const float* x, int64_t size, const Norm& norm, float* y);

  // y[i] = rms_norm(x)[i]
  void (*rms_norm)(const float* x, const float* weight, int64_t size, const Norm& norm, float* y);

  // The sum of a[i] * b[i] in float64.
  double (*dot)(const float* a, const float* b, int64_t size);

  // hidden[i] = clip(silu(clip(gate[i], gate_clip)) * up[i], hidden_clip); may overwrite gate.
  void (*gate)(const float* gate, const float* up, int64_t size, float gate_clip, float hidden_clip, float* hidden);

  // One tile of 16 rows times `count` rows of codes, `stride` apart: products[m * 16 + r] = exact integer sum.
  void (*ternary)(const uint8_t* tile, int64_t groups, const int8_t* codes, int64_t stride, const Row* rows,
                  int64_t count, int32_t* products);
  void (*int8)(const int8_t* tile, int64_t groups, const int8_t* codes, int64_t stride, const Row* rows, int64_t count,
               int32_t* products);

  // `tiles` tiles, one after another in memory, times a row of codes each: products[t * 16 + r].
  void (*ternary_row)(const uint8_t* tile, int64_t tiles, int64_t groups, const RowPair& rows, int32_t* products);
  void (*int8_row)(const int8_t* tile, int64_t tiles, int64_t groups, const RowPair& rows, int32_t* products);

  // y[m * stride + r] = products[m * 16 + r] * (rows[m].step * scales[r]) + biases[r]
  void (*dequantize)(const int32_t* products, const Row* rows, int64_t count, const float* scales, const float* biases,
                     float* y, int64_t stride);

  // y = gelu(x), the form with tanh; may overwrite x.
  void (*gelu)(const float* x, int64_t size, float* y);

  // y = (x - mean) / sqrt(variance + eps) * weight + bias; `scratch` holds `size` floats.
  void (*layer_norm)(const float* x, const float* weight, const float* bias, int64_t size, float eps, float* scratch,
                     float* y);

  // out (rows, attention_padded(size)) = softmax(queries keys^T) values; what lies beyond `size` is no result.
  void (*attend)(const Attention& attention, float* scratch, float* out);

  // What makes `int8` faster if there is more than one row, or null: moves groups of codes of a row to `outliers`, of
  // which there is room for one per group.
  void (*take_outliers)(int8_t* codes, int64_t size, Row* row, Outlier* outliers) = nullptr;
};

// The fastest set that this CPU runs, or the one that the environment variable EMBERNET_ISA names; null if that one is
// unknown or not supported here.
const Kernels* choose_kernels();

// Names of the sets that this CPU runs, fastest first, separated by spaces.
const char* supported_kernels();

// Natural exponential, the same bits everywhere.
float exponential(float x);

}  // namespace embernet
