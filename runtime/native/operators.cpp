// The operators of `ai.embernet` that are one step: RmsNorm, LayerNorm, GeluTanh, BitLinear, Int8Linear, Int8Embedding; and the registration
// of all. docs/operators.md defines them; each checks shapes, divides the work among threads and calls the kernels.
#include "tiles.h"

namespace embernet {
namespace {

// --- RmsNorm --------------------------------------------------------------------------------------------------------

struct RmsNorm {
  static constexpr const char* kName = "RmsNorm";
  static constexpr ElementType kInputs[] = {onnx_api::kFloat, onnx_api::kFloat};
  static constexpr ElementType kOutputs[] = {onnx_api::kFloat};

  const Api* api;
  const Kernels* kernels;
  Norm norm;

  Status* create(const KernelInfo* info) {
    norm = norm_attributes(api, info, "");
    return nullptr;
  }

  Status* compute(KernelContext* context) const {
    Tensor x, weight;
    RETURN_IF_ERROR(get_inputs(api, context, {&x, &weight}));
    RETURN_IF_ERROR(require_rows(api, x));
    const int64_t count = x.rows(), size = x.columns();
    RETURN_IF_ERROR(require_size(api, weight, "weight", size));
    float* y = nullptr;
    RETURN_IF_ERROR(get_output(api, context, 0, x, size, &y));
    return parallel(api, context, count, size * kBytesPerElement, [&](int64_t begin, int64_t end) {
      for (int64_t m = begin; m < end; ++m)
        kernels->rms_norm(x.floats() + m * size, weight.floats(), size, norm, y + m * size);
    });
  }
};

// --- LayerNorm ------------------------------------------------------------------------------------------------------

struct LayerNorm {
  static constexpr const char* kName = "LayerNorm";
  static constexpr ElementType kInputs[] = {onnx_api::kFloat, onnx_api::kFloat, onnx_api::kFloat};
  static constexpr ElementType kOutputs[] = {onnx_api::kFloat};

  const Api* api;
  const Kernels* kernels;
  float eps;

  Status* create(const KernelInfo* info) {
    eps = attribute(api, info, "eps", 1e-5f);
    return nullptr;
  }

  Status* compute(KernelContext* context) const {
    Tensor x, weight, bias;
    RETURN_IF_ERROR(get_inputs(api, context, {&x, &weight, &bias}));
    RETURN_IF_ERROR(require_rows(api, x));
    const int64_t count = x.rows(), size = x.columns();
    RETURN_IF_ERROR(require_size(api, weight, "weight", size));
    RETURN_IF_ERROR(require_size(api, bias, "bias", size));
    float* y = nullptr;
    RETURN_IF_ERROR(get_output(api, context, 0, x, size, &y));
    Workspace workspace(Workspace::bytes<float>(count * size));
    if (!workspace.ok()) return error(api, "no memory for %lld rows", static_cast<long long>(count));
    float* scratch = workspace.take<float>(count * size);
    return parallel(api, context, count, size * kBytesPerElement, [&](int64_t begin, int64_t end) {
      for (int64_t m = begin; m < end; ++m)
        kernels->layer_norm(x.floats() + m * size, weight.floats(), bias.floats(), size, eps, scratch + m * size,
                            y + m * size);
    });
  }
};

// --- GeluTanh -------------------------------------------------------------------------------------------------------

struct GeluTanh {
  static constexpr const char* kName = "GeluTanh";
  static constexpr ElementType kInputs[] = {onnx_api::kFloat};
  static constexpr ElementType kOutputs[] = {onnx_api::kFloat};

  const Api* api;
  const Kernels* kernels;

  Status* create(const KernelInfo*) { return nullptr; }

  Status* compute(KernelContext* context) const {
    Tensor x;
    RETURN_IF_ERROR(get_inputs(api, context, {&x}));
    RETURN_IF_ERROR(require_rows(api, x));
    const int64_t size = x.columns();
    float* y = nullptr;
    RETURN_IF_ERROR(get_output(api, context, 0, x, size, &y));
    return parallel(api, context, x.rows(), size * kBytesPerElement, [&](int64_t begin, int64_t end) {
      kernels->gelu(x.floats() + begin * size, (end - begin) * size, y + begin * size);
    });
  }
};

// --- BitLinear ------------------------------------------------------------------------------------------------------

struct BitLinear {
  static constexpr const char* kName = "BitLinear";
  static constexpr ElementType kInputs[] = {onnx_api::kFloat, onnx_api::kFloat, onnx_api::kUint8, onnx_api::kFloat};
  static constexpr ElementType kOutputs[] = {onnx_api::kFloat};

  const Api* api;
  const Kernels* kernels;
  int64_t out_features;
  Norm norm;
  Activation activation;

  Status* create(const KernelInfo* info) {
    out_features = attribute<int64_t>(api, info, "out_features", 0);
    norm = norm_attributes(api, info, "norm");
    activation = activation_attributes(api, info);
    if (out_features < 1) return error(api, "out_features must be positive");
    return require_activation(api, activation);
  }

  Status* compute(KernelContext* context) const {
    Tensor x, norm_weight, weight, scale;
    RETURN_IF_ERROR(get_inputs(api, context, {&x, &norm_weight, &weight, &scale}));
    RETURN_IF_ERROR(require_rows(api, x));
    const int64_t count = x.rows(), size = x.columns();
    RETURN_IF_ERROR(require_size(api, norm_weight, "norm_weight", size));
    RETURN_IF_ERROR(require_size(api, scale, "scale", 1));
    RETURN_IF_ERROR(require_matrix(api, weight, "weight", out_features, size, kTernaryInputs));
    float* y = nullptr;
    RETURN_IF_ERROR(get_output(api, context, 0, x, out_features, &y));
    if (count == 0) return nullptr;

    Workspace workspace(codes_bytes(count, size) + Workspace::bytes<float>(count * size));
    if (!workspace.ok()) return error(api, "no memory for %lld rows", static_cast<long long>(count));
    const Codes codes = take_codes(workspace, count, size);
    RETURN_IF_ERROR(quantize(api, context, *kernels, x.floats(), norm_weight.floats(), count, size, norm, activation,
                             workspace.take<float>(count * size), codes));
    const Product product = {&weight, codes, scale.floats()[0], out_features, y, nullptr};
    return multiply(api, context, *kernels, &product, 1, count, size);
  }
};

// --- Int8Linear -----------------------------------------------------------------------------------------------------

struct Int8Linear {
  static constexpr const char* kName = "Int8Linear";
  static constexpr ElementType kInputs[] = {onnx_api::kFloat, onnx_api::kInt8, onnx_api::kFloat, onnx_api::kFloat};
  static constexpr ElementType kOutputs[] = {onnx_api::kFloat};

  const Api* api;
  const Kernels* kernels;

  Status* create(const KernelInfo*) { return nullptr; }

  Status* compute(KernelContext* context) const {
    Tensor x, weight, scale, bias;
    RETURN_IF_ERROR(get_inputs(api, context, {&x, &weight, &scale, &bias}));
    RETURN_IF_ERROR(require_rows(api, x));
    const int64_t count = x.rows(), size = x.columns(), out_features = scale.size();
    RETURN_IF_ERROR(require_matrix(api, weight, "weight", out_features, size, kInt8Inputs));
    if (bias.size() != 1) RETURN_IF_ERROR(require_size(api, bias, "bias", out_features));
    float* y = nullptr;
    RETURN_IF_ERROR(get_output(api, context, 0, x, out_features, &y));
    if (count == 0) return nullptr;

    const int64_t tiles = weight.shape[0], groups = weight.shape[1], tile_bytes = groups * kGroupBytes;
    const bool take_outliers = count > 1 && kernels->take_outliers != nullptr;
    const size_t outlier_bytes = take_outliers ? Workspace::bytes<Outlier>(count * groups) : 0;
    Workspace workspace(codes_bytes(count, size) + outlier_bytes);
    if (!workspace.ok()) return error(api, "no memory for %lld rows", static_cast<long long>(count));
    const Codes codes = take_codes(workspace, count, size);
    constexpr Activation kActivation = {8, __FLT_MAX__, 1e-8f};
    RETURN_IF_ERROR(quantize(api, context, *kernels, x.floats(), nullptr, count, size, {}, kActivation, nullptr, codes));
    if (take_outliers) {
      Outlier* outliers = workspace.take<Outlier>(count * groups);
      RETURN_IF_ERROR(parallel(api, context, count, size * kBytesPerElement, [&](int64_t begin, int64_t end) {
        for (int64_t m = begin; m < end; ++m)
          kernels->take_outliers(codes.codes + m * codes.stride, size, &codes.rows[m], outliers + m * groups);
      }));
    }
    const int8_t* packed = static_cast<const int8_t*>(weight.data);
    return parallel(api, context, tiles, tile_bytes * count, [&](int64_t begin, int64_t end) {
      for_row_blocks(count, [&](int64_t first, int64_t rows) {
        if (rows == 1)
          return int8_row(packed, begin, end, groups, codes.from(first), scale.floats(), bias, out_features,
                          y + first * out_features);
        for (int64_t t = begin; t < end; ++t)
          int8_tile(packed + t * tile_bytes, groups, codes.from(first), rows, scale.floats(), bias, t * kTileRows,
                    out_features, y + first * out_features);
      });
    });
  }

  // y[t * 16 + r] for tiles begin .. end and one row of codes.
  void int8_row(const int8_t* packed, int64_t begin, int64_t end, int64_t groups, const Codes& x, const float* scale,
                const Tensor& bias, int64_t out_features, float* y) const {
    const RowPair row = {{x.codes, x.codes}, {x.rows->sum, x.rows->sum}};
    const float step = x.rows->step;
    const int64_t bias_step = bias.size() == 1 ? 0 : 1;
    for_tile_blocks(begin, end, [&](int64_t t, int64_t tiles) {
      int32_t products[kRowsPerCall * kTileRows];
      kernels->int8_row(packed + t * groups * kGroupBytes, tiles, groups, row, products);
      const int64_t n = t * kTileRows, width = tiles_width(t, tiles, out_features);
      for (int64_t i = 0; i < width; ++i)
        y[n + i] = static_cast<float>(products[i]) * (step * scale[n + i]) + bias.floats()[(n + i) * bias_step];
    });
  }

  // y[m, n + r] for the tile whose first output is n.
  void int8_tile(const int8_t* tile, int64_t groups, const Codes& x, int64_t count, const float* scale,
                 const Tensor& bias, int64_t n, int64_t out_features, float* y) const {
    const int64_t width = tiles_width(n / kTileRows, 1, out_features), bias_step = bias.size() == 1 ? 0 : 1;
    Scales s = {};
    for (int64_t r = 0; r < width; ++r) {
      s.scales[r] = scale[n + r];
      s.biases[r] = bias.floats()[(n + r) * bias_step];
    }
    int32_t products[kRowsPerCall * kTileRows];
    kernels->int8(tile, groups, x.codes, x.stride, x.rows, count, products);
    dequantize(*kernels, products, x.rows, count, s, y + n, out_features, width);
  }
};

// --- Int8Embedding --------------------------------------------------------------------------------------------------

struct Int8Embedding {
  static constexpr const char* kName = "Int8Embedding";
  static constexpr ElementType kInputs[] = {onnx_api::kInt64, onnx_api::kInt8, onnx_api::kFloat};
  static constexpr ElementType kOutputs[] = {onnx_api::kFloat};

  const Api* api;
  const Kernels* kernels;
  int64_t embedding_size;

  Status* create(const KernelInfo* info) {
    embedding_size = attribute<int64_t>(api, info, "embedding_size", 0);
    return embedding_size < 1 ? error(api, "embedding_size must be positive") : nullptr;
  }

  Status* compute(KernelContext* context) const {
    Tensor ids, weight, scale;
    RETURN_IF_ERROR(get_inputs(api, context, {&ids, &weight, &scale}));
    const int64_t vocabulary = scale.size();
    RETURN_IF_ERROR(require_matrix(api, weight, "weight", vocabulary, embedding_size, kInt8Inputs));
    if (ids.rank >= kMaxDimensions) return error(api, "ids has %zu dimensions", ids.rank);
    int64_t shape[kMaxDimensions];
    memcpy(shape, ids.shape, sizeof shape);
    shape[ids.rank] = embedding_size;
    float* y = nullptr;
    RETURN_IF_ERROR(get_output(api, context, 0, shape, ids.rank + 1, &y));
    const int64_t groups = weight.shape[1];
    for (int64_t i = 0; i < ids.size(); ++i) {
      const int64_t id = static_cast<const int64_t*>(ids.data)[i];
      if (id < 0 || id >= vocabulary)
        return error(api, "id %lld is not in a vocabulary of %lld", static_cast<long long>(id),
                     static_cast<long long>(vocabulary));
      const int8_t* row = static_cast<const int8_t*>(weight.data) + id / kTileRows * groups * kGroupBytes +
                          id % kTileRows * kInt8Inputs;
      for (int64_t k = 0; k < embedding_size; ++k)
        y[i * embedding_size + k] =
            static_cast<float>(row[k / kInt8Inputs * kGroupBytes + k % kInt8Inputs]) * scale.floats()[id];
    }
    return nullptr;
  }
};

}  // namespace
}  // namespace embernet

extern "C" {

// What ONNX Runtime calls after loading the library.
__attribute__((visibility("default"))) onnx_api::Status* RegisterCustomOps(onnx_api::SessionOptions* options,
                                                                           const onnx_api::ApiBase* base) {
  const onnx_api::Api* api = base->get_api(onnx_api::kLevel);
  if (api == nullptr) return nullptr;  // an ONNX Runtime older than 1.17 runs the function bodies
  onnx_api::CustomOpDomain* domain = nullptr;
  RETURN_IF_ERROR(api->create_domain("ai.embernet", &domain));
  RETURN_IF_ERROR(api->add_operator(domain, embernet::custom_op<embernet::RmsNorm>()));
  RETURN_IF_ERROR(api->add_operator(domain, embernet::custom_op<embernet::LayerNorm>()));
  RETURN_IF_ERROR(api->add_operator(domain, embernet::custom_op<embernet::GeluTanh>()));
  RETURN_IF_ERROR(api->add_operator(domain, embernet::custom_op<embernet::BitLinear>()));
  RETURN_IF_ERROR(api->add_operator(domain, embernet::custom_op<embernet::Int8Linear>()));
  RETURN_IF_ERROR(api->add_operator(domain, embernet::custom_op<embernet::Int8Embedding>()));
  RETURN_IF_ERROR(api->add_operator(domain, embernet::ternary_moe()));
  RETURN_IF_ERROR(api->add_operator(domain, embernet::ternary_attention()));
  RETURN_IF_ERROR(api->add_operator(domain, embernet::multi_head_attention()));
  return api->add_domain(options, domain);
}

// Names of the instruction sets that this CPU runs, fastest first.
__attribute__((visibility("default"))) const char* embernet_supported_isas() { return embernet::supported_kernels(); }
}
