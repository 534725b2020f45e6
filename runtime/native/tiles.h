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

// Quantises `count` rows; `scratch` holds count * size floats if there is a norm.
inline Status* quantize(const Api* api, const KernelContext* context, const Kernels& kernels, const float* x,
                        const float* norm_weight, int64_t count, int64_t size, const Norm& norm,
                        const Activation& activation, float* scratch, const Codes& out) {
  return parallel(api, context, count, size * kBytesPerElement, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m)
      out.rows[m] = kernels.quantize(x + m * size, norm_weight, size, norm, activation,
                                     scratch == nullptr ? nullptr : scratch + m * size, out.codes + m * out.stride);
  });
}

// What lies beyond the last output is cut off.
inline void store_tile(const float* values, int64_t width, float* out) {
  if (width == kTileRows)
    memcpy(out, values, sizeof(float) * kTileRows);
  else
    memcpy(out, values, sizeof(float) * static_cast<size_t>(width));
}

// body(first row, rows) for blocks of about the same size, none longer than kRowsPerCall.
template <typename Body>
void for_row_blocks(int64_t count, const Body& body) {
  const int64_t blocks = groups_of(count, kRowsPerCall);
  const int64_t size = groups_of(groups_of(count, blocks), kRowsAtOnce) * kRowsAtOnce;
  for (int64_t begin = 0; begin < count; begin += size) body(begin, begin + size < count ? size : count - begin);
}

// y[m, first row of the tile + r] for one tile of a ternary matrix; the last tile may be cut.
inline void ternary_tile(const Kernels& kernels, const uint8_t* tile, int64_t groups, const Codes& x, int64_t count,
                         float scale, float* y, int64_t y_stride, int64_t width) {
  int32_t products[kRowsPerCall * kTileRows];
  for_row_blocks(count, [&](int64_t begin, int64_t size) {
    kernels.ternary(tile, groups, x.codes + begin * x.stride, x.stride, x.rows + begin, size, products);
    for (int64_t m = 0; m < size; ++m) {
      const float step = x.rows[begin + m].step * scale;
      float* out = y + (begin + m) * y_stride;
      const int32_t* p = products + m * kTileRows;
      float values[kTileRows];
      for (int64_t r = 0; r < kTileRows; ++r) values[r] = static_cast<float>(p[r]) * step;
      store_tile(values, width, out);
    }
  });
}

inline int64_t tile_width(int64_t tile, int64_t out_features) {
  const int64_t rest = out_features - tile * kTileRows;
  return rest < kTileRows ? rest : kTileRows;
}

// y (count, out_features) = rows of codes times a ternary matrix, + residual unless that is null.
struct Product {
  const Tensor* weight;  // R16K16
  Codes codes;
  float scale;
  int64_t out_features;
  float* y;
  const float* residual;

  void tile(const Kernels& kernels, int64_t t, int64_t first, int64_t count) const {
    const int64_t groups = weight->shape[1], width = tile_width(t, out_features);
    float* out = y + first * out_features + t * kTileRows;
    ternary_tile(kernels, static_cast<const uint8_t*>(weight->data) + t * groups * kGroupBytes, groups,
                 codes.from(first), count, scale, out, out_features, width);
    if (residual == nullptr) return;
    const float* x = residual + first * out_features + t * kTileRows;
    for (int64_t m = 0; m < count; ++m)
      for (int64_t r = 0; r < width; ++r) out[m * out_features + r] += x[m * out_features + r];
  }
};

// Products of matrices with the same number of inputs, all tiles of all of them divided among the threads.
inline Status* multiply(const Api* api, const KernelContext* context, const Kernels& kernels, const Product* products,
                        int64_t num_products, int64_t count, int64_t in_features) {
  int64_t tiles = 0;
  for (int64_t i = 0; i < num_products; ++i) tiles += products[i].weight->shape[0];
  const int64_t tile_bytes = groups_of(in_features, kTernaryInputs) * kGroupBytes;
  return parallel(api, context, tiles, tile_bytes * count, [&](int64_t begin, int64_t end) {
    for_row_blocks(count, [&](int64_t first, int64_t rows) {
      const Product* product = products;
      int64_t start = 0;
      for (int64_t t = begin; t < end; ++t) {
        while (t - start >= product->weight->shape[0]) start += product++->weight->shape[0];
        product->tile(kernels, t - start, first, rows);
      }
    });
  });
}

}  // namespace embernet
