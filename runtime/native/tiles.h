// What the operators with packed weights share: rows of quantised activations, and tiles of 16 outputs to multiply them
// with. Weights are read where ONNX Runtime mapped them; nothing is copied or repacked.
#pragma once

#include "operator.h"

namespace embernet {

// More inputs could overflow an int32 sum: 127 * 127 * 131072 < 2^31.
constexpr int64_t kMaxInputs = 131072;
// Rows of activations that one call of a kernel takes at most: their codes and products stay in the L2 cache.
constexpr int64_t kRowsPerCall = 72;
constexpr int64_t kRowsAtOnce = 12;  // kernels take 3, 4, 6 or 12 at once
// What normalising or quantising one element costs, in bytes of weights that could be multiplied meanwhile.
constexpr int64_t kBytesPerElement = 16;

inline Status* require_matrix(const Api* api, const Tensor& weight, const char* name, int64_t out_features,
                              int64_t in_features, int64_t inputs_per_group) {
  const int64_t tiles = groups_of(out_features, kTileRows), groups = groups_of(in_features, inputs_per_group);
  if (weight.rank != 3 || weight.shape[0] != tiles || weight.shape[1] != groups || weight.shape[2] != kGroupBytes)
    return error(api, "%s does not fit %lld outputs and %lld inputs: its shape must be (%lld, %lld, 64)", name,
                 static_cast<long long>(out_features), static_cast<long long>(in_features),
                 static_cast<long long>(tiles), static_cast<long long>(groups));
  return nullptr;
}

inline Status* require_rows(const Api* api, const Tensor& x) {
  if (x.rank < 1 || x.columns() < 1 || x.columns() > kMaxInputs)
    return error(api, "the last axis of x must have 1 to %lld elements", static_cast<long long>(kMaxInputs));
  return nullptr;
}

// Attributes `prefix`_eps and so on, or eps and so on if there is no prefix.
inline Norm norm_attributes(const Api* api, const KernelInfo* info, const char* prefix) {
  const auto get = [&](const char* name, float fallback) {
    char full[64];
    snprintf(full, sizeof full, "%s%s%s", prefix, *prefix == '\0' ? "" : "_", name);
    return attribute(api, info, full, fallback);
  };
  return {get("eps", 1e-5f), get("input_clip", 100.0f), get("output_clip", 10.0f)};
}

inline Activation activation_attributes(const Api* api, const KernelInfo* info) {
  return {attribute<int64_t>(api, info, "activation_bits", 8), attribute(api, info, "activation_clip", 128.0f),
          attribute(api, info, "activation_floor", 1e-5f)};
}

inline Status* require_activation(const Api* api, const Activation& activation) {
  if (activation.bits < 2 || activation.bits > 8) return error(api, "activation_bits must be 2 to 8");
  return nullptr;
}

// Quantised activations: `count` rows of codes.
struct Codes {
  int8_t* codes;
  Row* rows;
  int64_t stride;

  Codes from(int64_t row) const { return {codes + row * stride, rows + row, stride}; }
};

inline size_t codes_bytes(int64_t count, int64_t size) {
  return Workspace::bytes<int8_t>(count * padded(size)) + Workspace::bytes<Row>(count);
}

inline Codes take_codes(Workspace& workspace, int64_t count, int64_t size) {
  int8_t* codes = workspace.take<int8_t>(count * padded(size));
  return {codes, workspace.take<Row>(count), padded(size)};
}

// Quantises `count` rows, after a norm unless its weight is null; `normed` then holds count * size floats, and may be x.
inline Status* quantize(const Api* api, const KernelContext* context, const Kernels& kernels, const float* x,
                        const float* norm_weight, int64_t count, int64_t size, const Norm& norm,
                        const Activation& activation, float* normed, const Codes& out) {
  return parallel(api, context, count, size * kBytesPerElement, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      const float* row = x + m * size;
      if (norm_weight != nullptr) {
        kernels.normalize(row, size, norm, normed + m * size);
        row = normed + m * size;
      }
      out.rows[m] = kernels.quantize(row, norm_weight, size, activation, out.codes + m * out.stride);
    }
  });
}

// body(first row, rows) for blocks of about the same size, none longer than kRowsPerCall.
template <typename Body>
void for_row_blocks(int64_t count, const Body& body) {
  const int64_t blocks = groups_of(count, kRowsPerCall);
  const int64_t size = groups_of(groups_of(count, blocks), kRowsAtOnce) * kRowsAtOnce;
  for (int64_t begin = 0; begin < count; begin += size) body(begin, begin + size < count ? size : count - begin);
}

// How many outputs `count` tiles have: of the last tile some may be missing.
inline int64_t tiles_width(int64_t tile, int64_t count, int64_t out_features) {
  const int64_t rest = out_features - tile * kTileRows;
  return rest < count * kTileRows ? rest : count * kTileRows;
}

// What lies beyond the last output is cut off.
inline void copy_tile(const float* values, int64_t width, float* out) {
  if (width == kTileRows)
    memcpy(out, values, sizeof(float) * kTileRows);  // as one move
  else
    memcpy(out, values, sizeof(float) * static_cast<size_t>(width));
}

// What the products of a tile are multiplied with, and what is added.
struct Scales {
  float scales[kTileRows], biases[kTileRows];
};

// All outputs of a ternary matrix have one scale.
inline Scales ternary_scales(float scale) {
  Scales s = {};
  for (float& each : s.scales) each = scale;
  return s;
}

// y[m * stride + r] for `width` of the 16 outputs of a tile, as not all of them may be there.
inline void dequantize(const Kernels& kernels, const int32_t* products, const Row* rows, int64_t count, const Scales& s,
                       float* y, int64_t stride, int64_t width) {
  if (width == kTileRows) return kernels.dequantize(products, rows, count, s.scales, s.biases, y, stride);
  for (int64_t m = 0; m < count; ++m) {
    float values[kTileRows];
    kernels.dequantize(products + m * kTileRows, rows + m, 1, s.scales, s.biases, values, kTileRows);
    copy_tile(values, width, y + m * stride);
  }
}

// y[m, r] for one tile of a ternary matrix; the last tile may be cut.
inline void ternary_tile(const Kernels& kernels, const uint8_t* tile, int64_t groups, const Codes& x, int64_t count,
                         float scale, float* y, int64_t y_stride, int64_t width) {
  int32_t products[kRowsPerCall * kTileRows];
  const Scales scales = ternary_scales(scale);
  for_row_blocks(count, [&](int64_t begin, int64_t size) {
    const Codes rows = x.from(begin);
    kernels.ternary(tile, groups, rows.codes, rows.stride, rows.rows, size, products);
    dequantize(kernels, products, rows.rows, size, scales, y + begin * y_stride, y_stride, width);
  });
}

// body(first tile, tiles) for as many tiles at once as there is room for the products of one row.
template <typename Body>
void for_tile_blocks(int64_t begin, int64_t end, const Body& body) {
  for (int64_t t = begin; t < end; t += kRowsPerCall) body(t, t + kRowsPerCall < end ? kRowsPerCall : end - t);
}

// y[m, t * 16 + r] for tiles begin .. end of a matrix of `outputs` rows.
inline void ternary_tiles(const Kernels& kernels, const uint8_t* matrix, int64_t begin, int64_t end, int64_t groups,
                          const Codes& x, int64_t count, float scale, float* y, int64_t outputs) {
  const int64_t tile_bytes = groups * kGroupBytes;
  if (count > 1) {
    for (int64_t t = begin; t < end; ++t)
      ternary_tile(kernels, matrix + t * tile_bytes, groups, x, count, scale, y + t * kTileRows, outputs,
                   tiles_width(t, 1, outputs));
    return;
  }
  const RowPair row = {{x.codes, x.codes}, {x.rows->sum, x.rows->sum}};
  const float step = x.rows->step * scale;
  for_tile_blocks(begin, end, [&](int64_t t, int64_t tiles) {
    int32_t products[kRowsPerCall * kTileRows];
    kernels.ternary_row(matrix + t * tile_bytes, tiles, groups, row, products);
    float* out = y + t * kTileRows;
    const int64_t width = tiles_width(t, tiles, outputs);
    for (int64_t i = 0; i < width; ++i) out[i] = static_cast<float>(products[i]) * step;
  });
}

// y (count, out_features) = rows of codes times a ternary matrix, + residual unless that is null.
struct Product {
  const Tensor* weight;  // R16K16
  Codes codes;
  float scale;
  int64_t out_features;
  float* y;
  const float* residual;

  int64_t tiles() const { return weight->shape[0]; }

  // The outputs of tiles begin .. end, of `count` rows.
  void compute(const Kernels& kernels, int64_t begin, int64_t end, int64_t first, int64_t count) const {
    float* out = y + first * out_features;
    ternary_tiles(kernels, static_cast<const uint8_t*>(weight->data), begin, end, weight->shape[1], codes.from(first),
                  count, scale, out, out_features);
    if (residual == nullptr) return;
    const float* x = residual + first * out_features;
    const int64_t last = end * kTileRows < out_features ? end * kTileRows : out_features;
    for (int64_t m = 0; m < count; ++m)
      for (int64_t i = begin * kTileRows; i < last; ++i) out[m * out_features + i] += x[m * out_features + i];
  }
};

// Products of matrices with the same number of inputs, all tiles of all of them divided among the threads.
inline Status* multiply(const Api* api, const KernelContext* context, const Kernels& kernels, const Product* products,
                        int64_t num_products, int64_t count, int64_t in_features) {
  int64_t tiles = 0;
  for (int64_t i = 0; i < num_products; ++i) tiles += products[i].tiles();
  const int64_t tile_bytes = groups_of(in_features, kTernaryInputs) * kGroupBytes;
  return parallel(api, context, tiles, tile_bytes * count, [&](int64_t begin, int64_t end) {
    for_row_blocks(count, [&](int64_t first, int64_t rows) {
      int64_t start = 0;  // of a product, among all tiles
      for (const Product* product = products; product < products + num_products; start += product++->tiles()) {
        const int64_t from = begin > start ? begin - start : 0;
        const int64_t to = end - start < product->tiles() ? end - start : product->tiles();
        if (from < to) product->compute(kernels, from, to, first, rows);
      }
    });
  });
}

}  // namespace embernet
