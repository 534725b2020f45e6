// The operators of `ai.embernet` as ONNX Runtime custom operators: RmsNorm, BitLinear, Int8Linear, TernaryMoE.
// docs/operators.md defines them; this file checks shapes, divides the work among threads and calls the kernels.
// Weights are read where ONNX Runtime mapped them; nothing is copied or repacked.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"
#include "onnx_api.h"

namespace embernet {
namespace {

using onnx_api::Api;
using onnx_api::CustomOp;
using onnx_api::ElementType;
using onnx_api::KernelContext;
using onnx_api::KernelInfo;
using onnx_api::Status;
using onnx_api::TensorInfo;
using onnx_api::Value;

// More inputs could overflow an int32 sum: 127 * 127 * 131072 < 2^31.
constexpr int64_t kMaxInputs = 131072;
constexpr size_t kMaxDimensions = 8;
// Rows of activations that one call of a kernel takes at most: their codes and products stay in the L2 cache.
constexpr int64_t kRowsPerCall = 66;
constexpr int64_t kRowsAtOnce = 6;  // what a kernel likes a multiple of
// Work is cut into pieces of about this many bytes of weights per row: waking a thread takes as long as some of them.
#if defined(__x86_64__)
constexpr int64_t kBytesPerPiece = 192 * 1024;
#else
constexpr int64_t kBytesPerPiece = 32 * 1024;
#endif
constexpr int64_t kMaxPieces = 32;
// What normalising or quantising one element costs, in bytes of weights that could be multiplied meanwhile.
constexpr int64_t kBytesPerElement = 16;

Status* error(const Api* api, const char* format, ...) {
  char message[256];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  return api->create_status(onnx_api::kInvalidArgument, message);
}

int64_t groups_of(int64_t size, int64_t group) { return (size + group - 1) / group; }

int64_t padded(int64_t size) { return groups_of(size, kCodeAlignment) * kCodeAlignment; }

#define RETURN_IF_ERROR(...)                                      \
  do {                                                            \
    if (onnx_api::Status* status_ = (__VA_ARGS__)) return status_; \
  } while (false)

// An input tensor: its data and its shape.
struct Tensor {
  const void* data = nullptr;
  int64_t shape[kMaxDimensions] = {};
  size_t rank = 0;

  int64_t size() const { return product(0, rank); }
  int64_t rows() const { return product(0, rank - 1); }  // all but the last axis
  int64_t columns() const { return shape[rank - 1]; }
  int64_t product(size_t begin, size_t end) const {
    int64_t count = 1;
    for (size_t i = begin; i < end; ++i) count *= shape[i];
    return count;
  }
  const float* floats() const { return static_cast<const float*>(data); }
};

Status* get_input(const Api* api, const KernelContext* context, size_t index, Tensor* tensor) {
  const Value* value = nullptr;
  RETURN_IF_ERROR(api->input(context, index, &value));
  if (value == nullptr) return error(api, "input %zu is missing", index);
  TensorInfo* info = nullptr;
  RETURN_IF_ERROR(api->tensor_info(value, &info));
  Status* status = api->num_dimensions(info, &tensor->rank);
  if (status == nullptr && tensor->rank > kMaxDimensions)
    status = error(api, "input %zu has %zu dimensions", index, tensor->rank);
  if (status == nullptr) status = api->dimensions(info, tensor->shape, tensor->rank);
  api->release(info);
  RETURN_IF_ERROR(status);
  void* data = nullptr;
  RETURN_IF_ERROR(api->data(const_cast<Value*>(value), &data));
  tensor->data = data;
  return nullptr;
}

// The first inputs, in order.
template <size_t count>
Status* get_inputs(const Api* api, const KernelContext* context, Tensor* const (&tensors)[count]) {
  for (size_t i = 0; i < count; ++i) RETURN_IF_ERROR(get_input(api, context, i, tensors[i]));
  return nullptr;
}

// An output of x's shape with another last axis.
template <typename T>
Status* get_output(const Api* api, KernelContext* context, size_t index, const Tensor& x, int64_t columns, T** data) {
  int64_t shape[kMaxDimensions];
  memcpy(shape, x.shape, sizeof shape);
  shape[x.rank - 1] = columns;
  Value* value = nullptr;
  RETURN_IF_ERROR(api->output(context, index, shape, x.rank, &value));
  void* raw = nullptr;
  if (value != nullptr) RETURN_IF_ERROR(api->data(value, &raw));
  *data = static_cast<T*>(raw);
  return nullptr;
}

Status* require_matrix(const Api* api, const Tensor& weight, const char* name, int64_t out_features, int64_t in_features,
                       int64_t inputs_per_group) {
  const int64_t tiles = groups_of(out_features, kTileRows), groups = groups_of(in_features, inputs_per_group);
  if (weight.rank != 3 || weight.shape[0] != tiles || weight.shape[1] != groups || weight.shape[2] != kGroupBytes)
    return error(api, "%s does not fit %lld outputs and %lld inputs: its shape must be (%lld, %lld, 64)", name,
                 static_cast<long long>(out_features), static_cast<long long>(in_features),
                 static_cast<long long>(tiles), static_cast<long long>(groups));
  return nullptr;
}

Status* require_rows(const Api* api, const Tensor& x) {
  if (x.rank < 1 || x.columns() < 1 || x.columns() > kMaxInputs)
    return error(api, "the last axis of x must have 1 to %lld elements", static_cast<long long>(kMaxInputs));
  return nullptr;
}

Status* require_size(const Api* api, const Tensor& tensor, const char* name, int64_t size) {
  if (tensor.size() != size)
    return error(api, "%s has %lld elements, expected %lld", name, static_cast<long long>(tensor.size()),
                 static_cast<long long>(size));
  return nullptr;
}

template <typename T>
T attribute(const Api* api, const KernelInfo* info, const char* name, T fallback) {
  T value = fallback;
  if (Status* status = api->attribute(info, name, &value)) {  // absent
    api->release(status);
    return fallback;
  }
  return value;
}

Norm norm_attributes(const Api* api, const KernelInfo* info, const char* eps = "norm_eps",
                     const char* input_clip = "norm_input_clip", const char* output_clip = "norm_output_clip") {
  return {attribute(api, info, eps, 1e-5f), attribute(api, info, input_clip, 100.0f),
          attribute(api, info, output_clip, 10.0f)};
}

Activation activation_attributes(const Api* api, const KernelInfo* info) {
  return {attribute<int64_t>(api, info, "activation_bits", 8), attribute(api, info, "activation_clip", 128.0f),
          attribute(api, info, "activation_floor", 1e-5f)};
}

Status* require_activation(const Api* api, const Activation& activation) {
  if (activation.bits < 2 || activation.bits > 8) return error(api, "activation_bits must be 2 to 8");
  return nullptr;
}

// Memory for one call; frees itself.
class Workspace {
 public:
  explicit Workspace(size_t bytes) : data_(static_cast<char*>(malloc(bytes + kCodeAlignment))) {
    next_ = reinterpret_cast<char*>(groups_of(reinterpret_cast<int64_t>(data_), kCodeAlignment) * kCodeAlignment);
  }
  ~Workspace() { free(data_); }
  Workspace(const Workspace&) = delete;
  bool ok() const { return data_ != nullptr; }

  template <typename T>
  T* take(int64_t count) {
    T* result = reinterpret_cast<T*>(next_);
    next_ += padded(count * static_cast<int64_t>(sizeof(T)));
    return result;
  }
  template <typename T>
  static size_t bytes(int64_t count) {
    return static_cast<size_t>(padded(count * static_cast<int64_t>(sizeof(T))));
  }

 private:
  char* data_;
  char* next_;
};

// Calls body(begin, end) for pieces of [0, total), on ONNX Runtime's own threads.
template <typename Body>
Status* parallel(const Api* api, const KernelContext* context, int64_t total, int64_t bytes_each, const Body& body) {
  int64_t pieces = total * bytes_each / kBytesPerPiece;
  pieces = pieces > kMaxPieces ? kMaxPieces : pieces;
  pieces = pieces > total ? total : pieces;
  if (pieces <= 1) {
    body(int64_t{0}, total);
    return nullptr;
  }
  struct Task {
    const Body* body;
    int64_t total, pieces;
  } task = {&body, total, pieces};
  const auto run = [](void* data, size_t piece) {
    const Task& t = *static_cast<const Task*>(data);
    const int64_t i = static_cast<int64_t>(piece);
    (*t.body)(t.total * i / t.pieces, t.total * (i + 1) / t.pieces);
  };
  return api->parallel_for(context, run, static_cast<size_t>(pieces), 0, &task);
}

// Quantised activations: `count` rows of codes.
struct Codes {
  int8_t* codes;
  Row* rows;
  int64_t stride;

  Codes from(int64_t row) const { return {codes + row * stride, rows + row, stride}; }
};

size_t codes_bytes(int64_t count, int64_t size) {
  return Workspace::bytes<int8_t>(count * padded(size)) + Workspace::bytes<Row>(count);
}

Codes take_codes(Workspace& workspace, int64_t count, int64_t size) {
  int8_t* codes = workspace.take<int8_t>(count * padded(size));
  return {codes, workspace.take<Row>(count), padded(size)};
}

// Quantises `count` rows; `scratch` holds count * size floats if there is a norm.
Status* quantize(const Api* api, const KernelContext* context, const Kernels& kernels, const float* x,
                 const float* norm_weight, int64_t count, int64_t size, const Norm& norm, const Activation& activation,
                 float* scratch, const Codes& out) {
  return parallel(api, context, count, size * kBytesPerElement, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m)
      out.rows[m] = kernels.quantize(x + m * size, norm_weight, size, norm, activation,
                                     scratch == nullptr ? nullptr : scratch + m * size, out.codes + m * out.stride);
  });
}

// What lies beyond the last output is cut off.
void store_tile(const float* values, int64_t width, float* out) {
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
void ternary_tile(const Kernels& kernels, const uint8_t* tile, int64_t groups, const Codes& x, int64_t count,
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

int64_t tile_width(int64_t tile, int64_t out_features) {
  const int64_t rest = out_features - tile * kTileRows;
  return rest < kTileRows ? rest : kTileRows;
}

// --- RmsNorm --------------------------------------------------------------------------------------------------------

struct RmsNorm {
  static constexpr const char* kName = "RmsNorm";
  static constexpr ElementType kInputs[] = {onnx_api::kFloat, onnx_api::kFloat};
  static constexpr ElementType kOutputs[] = {onnx_api::kFloat};

  const Api* api;
  const Kernels* kernels;
  Norm norm;

  Status* create(const KernelInfo* info) {
    norm = norm_attributes(api, info, "eps", "input_clip", "output_clip");
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
    norm = norm_attributes(api, info);
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
    const int64_t tiles = weight.shape[0], groups = weight.shape[1], tile_bytes = groups * kGroupBytes;
    const uint8_t* packed = static_cast<const uint8_t*>(weight.data);
    return parallel(api, context, tiles, tile_bytes * count, [&](int64_t begin, int64_t end) {
      for_row_blocks(count, [&](int64_t first, int64_t rows) {
        for (int64_t t = begin; t < end; ++t)
          ternary_tile(*kernels, packed + t * tile_bytes, groups, codes.from(first), rows, scale.floats()[0],
                       y + first * out_features + t * kTileRows, out_features, tile_width(t, out_features));
      });
    });
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

    Workspace workspace(codes_bytes(count, size));
    if (!workspace.ok()) return error(api, "no memory for %lld rows", static_cast<long long>(count));
    const Codes codes = take_codes(workspace, count, size);
    constexpr Activation kActivation = {8, __FLT_MAX__, 1e-8f};
    RETURN_IF_ERROR(quantize(api, context, *kernels, x.floats(), nullptr, count, size, {}, kActivation, nullptr, codes));
    const int64_t tiles = weight.shape[0], groups = weight.shape[1], tile_bytes = groups * kGroupBytes;
    const int8_t* packed = static_cast<const int8_t*>(weight.data);
    return parallel(api, context, tiles, tile_bytes * count, [&](int64_t begin, int64_t end) {
      for_row_blocks(count, [&](int64_t first, int64_t rows) {
        for (int64_t t = begin; t < end; ++t)
          int8_tile(packed + t * tile_bytes, groups, codes.from(first), rows, scale.floats(), bias, t * kTileRows,
                    out_features, y + first * out_features);
      });
    });
  }

  // y[m, n + r] for the tile whose first output is n.
  void int8_tile(const int8_t* tile, int64_t groups, const Codes& x, int64_t count, const float* scale,
                 const Tensor& bias, int64_t n, int64_t out_features, float* y) const {
    const int64_t width = tile_width(n / kTileRows, out_features), bias_step = bias.size() == 1 ? 0 : 1;
    float scales[kTileRows] = {}, biases[kTileRows] = {};
    for (int64_t r = 0; r < width; ++r) {
      scales[r] = scale[n + r];
      biases[r] = bias.floats()[(n + r) * bias_step];
    }
    int32_t products[kRowsPerCall * kTileRows];
    kernels->int8(tile, groups, x.codes, x.stride, x.rows, count, products);
    for (int64_t m = 0; m < count; ++m) {
      const int32_t* p = products + m * kTileRows;
      float values[kTileRows];
      for (int64_t r = 0; r < kTileRows; ++r)
        values[r] = static_cast<float>(p[r]) * (x.rows[m].step * scales[r]) + biases[r];
      store_tile(values, width, y + m * out_features + n);
    }
  }
};

// --- TernaryMoE -----------------------------------------------------------------------------------------------------

struct TernaryMoE {
  static constexpr const char* kName = "TernaryMoE";
  static constexpr ElementType kInputs[] = {onnx_api::kFloat, onnx_api::kFloat, onnx_api::kFloat,
                                            onnx_api::kFloat, onnx_api::kFloat, onnx_api::kFloat,
                                            onnx_api::kFloat, onnx_api::kFloat, onnx_api::kUint8};
  static constexpr ElementType kOutputs[] = {onnx_api::kFloat, onnx_api::kInt64, onnx_api::kFloat};

  const Api* api;
  const Kernels* kernels;
  int64_t top_k;
  Norm norm;
  Activation activation;
  float gate_clip, hidden_clip, output_clip;

  Status* create(const KernelInfo* info) {
    top_k = attribute<int64_t>(api, info, "top_k", 0);
    norm = norm_attributes(api, info);
    activation = activation_attributes(api, info);
    gate_clip = attribute(api, info, "gate_clip", 20.0f);
    hidden_clip = attribute(api, info, "hidden_clip", 1000.0f);
    output_clip = attribute(api, info, "output_clip", 1e4f);
    if (top_k < 1) return error(api, "top_k must be positive");
    return require_activation(api, activation);
  }

  struct Inputs {
    Tensor x, router_weight, router_bias, gate_norm, up_norm, hidden_norm, down_norm, scales, packed;
    int64_t count, hidden, intermediate, routed, total;  // T, H, F, E, X
    bool has_hidden_norm;
  };

  Status* read_inputs(const KernelContext* context, Inputs* in) const {
    RETURN_IF_ERROR(get_inputs(api, context,
                               {&in->x, &in->router_weight, &in->router_bias, &in->gate_norm, &in->up_norm,
                                &in->hidden_norm, &in->down_norm, &in->scales, &in->packed}));
    RETURN_IF_ERROR(require_rows(api, in->x));
    in->count = in->x.rows();
    in->hidden = in->x.columns();
    if (in->router_weight.rank != 2 || in->down_norm.rank != 2 || in->packed.rank != 2)
      return error(api, "router_weight, down_norm and packed must be matrices");
    in->routed = in->router_weight.shape[0];
    in->total = in->packed.shape[0];
    in->intermediate = in->down_norm.shape[1];
    if (in->intermediate < 1 || in->intermediate > kMaxInputs)
      return error(api, "down_norm must have 1 to %lld columns", static_cast<long long>(kMaxInputs));
    if (in->routed < top_k || in->total < in->routed || in->total > in->routed + 1)
      return error(api, "%lld experts are packed, %lld are routed, top_k is %lld", static_cast<long long>(in->total),
                   static_cast<long long>(in->routed), static_cast<long long>(top_k));
    RETURN_IF_ERROR(require_size(api, in->router_weight, "router_weight", in->routed * in->hidden));
    RETURN_IF_ERROR(require_size(api, in->router_bias, "router_bias", in->routed));
    RETURN_IF_ERROR(require_size(api, in->gate_norm, "gate_norm", in->total * in->hidden));
    RETURN_IF_ERROR(require_size(api, in->up_norm, "up_norm", in->total * in->hidden));
    RETURN_IF_ERROR(require_size(api, in->down_norm, "down_norm", in->total * in->intermediate));
    RETURN_IF_ERROR(require_size(api, in->scales, "scales", in->total * 3));
    in->has_hidden_norm = in->hidden_norm.size() == in->down_norm.size();
    if (!in->has_hidden_norm) RETURN_IF_ERROR(require_size(api, in->hidden_norm, "hidden_norm", in->total));
    const int64_t needed = gate_up_bytes(*in) + down_bytes(*in);
    if (in->packed.shape[1] < needed)
      return error(api, "an expert has %lld bytes, expected %lld or more", static_cast<long long>(in->packed.shape[1]),
                   static_cast<long long>(needed));
    return nullptr;
  }

  static int64_t hidden_tiles(const Inputs& in) { return groups_of(in.hidden, kTileRows); }
  static int64_t intermediate_tiles(const Inputs& in) { return groups_of(in.intermediate, kTileRows); }
  static int64_t gate_up_bytes(const Inputs& in) { return 2 * hidden_tiles(in) * intermediate_tiles(in) * kGroupBytes; }
  static int64_t down_bytes(const Inputs& in) { return hidden_tiles(in) * intermediate_tiles(in) * kGroupBytes; }

  // Best experts first; of equals the lower index.
  void route(const Inputs& in, const float* x, int64_t* chosen, float* weights, float* probabilities) const {
    float largest = -__FLT_MAX__;
    for (int64_t e = 0; e < in.routed; ++e) {
      const float* w = in.router_weight.floats() + e * in.hidden;
      probabilities[e] = static_cast<float>(kernels->dot(x, w, in.hidden) + in.router_bias.floats()[e]);
      largest = probabilities[e] > largest ? probabilities[e] : largest;
    }
    float sum = 0.0f;
    for (int64_t e = 0; e < in.routed; ++e) {
      probabilities[e] = exponential(probabilities[e] - largest);
      sum += probabilities[e];
    }
    for (int64_t e = 0; e < in.routed; ++e) probabilities[e] /= sum;
    float total = 0.0f;
    for (int64_t k = 0; k < top_k; ++k) {
      int64_t best = -1;
      for (int64_t e = 0; e < in.routed; ++e) {
        bool taken = false;
        for (int64_t j = 0; j < k; ++j) taken = taken || chosen[j] == e;
        if (!taken && (best < 0 || probabilities[e] > probabilities[best])) best = e;
      }
      chosen[k] = best;
      weights[k] = probabilities[best];
      total += weights[k];
    }
    for (int64_t k = 0; k < top_k; ++k) weights[k] /= total + 1e-8f;
  }

  Status* compute(KernelContext* context) const {
    Inputs in;
    RETURN_IF_ERROR(read_inputs(context, &in));
    float* y = nullptr;
    int64_t* chosen_out = nullptr;
    float* weights_out = nullptr;
    RETURN_IF_ERROR(get_output(api, context, 0, in.x, in.hidden, &y));
    RETURN_IF_ERROR(optional_output(context, 1, in.x, &chosen_out));
    RETURN_IF_ERROR(optional_output(context, 2, in.x, &weights_out));
    if (in.count == 0) return nullptr;

    // A job is one expert with its tokens, in ascending order of experts: that is the order in which they are added.
    // Rows of all jobs lie one after another: a token has top_k rows, and one more if there is a shared expert.
    const int64_t rows = in.count * (top_k + in.total - in.routed);
    const int64_t H = in.hidden, F = in.intermediate;
    const int64_t widest = H > F ? H : F;
    Workspace workspace(Workspace::bytes<int64_t>(in.count * top_k) + Workspace::bytes<float>(in.count * top_k) +
                        Workspace::bytes<float>(in.routed) + Workspace::bytes<Job>(in.total) +
                        Workspace::bytes<int64_t>(rows) + Workspace::bytes<float>(rows) + codes_bytes(rows, H) * 2 +
                        codes_bytes(rows, F) + Workspace::bytes<float>(rows * widest) +
                        Workspace::bytes<float>(rows * F) + Workspace::bytes<float>(rows * H));
    if (!workspace.ok()) return error(api, "no memory for %lld tokens", static_cast<long long>(in.count));
    int64_t* chosen = workspace.take<int64_t>(in.count * top_k);
    float* weights = workspace.take<float>(in.count * top_k);
    float* probabilities = workspace.take<float>(in.routed);
    for (int64_t t = 0; t < in.count; ++t)
      route(in, in.x.floats() + t * H, chosen + t * top_k, weights + t * top_k, probabilities);
    if (chosen_out != nullptr) memcpy(chosen_out, chosen, sizeof(int64_t) * static_cast<size_t>(in.count * top_k));
    if (weights_out != nullptr) memcpy(weights_out, weights, sizeof(float) * static_cast<size_t>(in.count * top_k));

    Job* jobs = workspace.take<Job>(in.total);
    int64_t* tokens = workspace.take<int64_t>(rows);
    float* mix = workspace.take<float>(rows);
    const int64_t num_jobs = group_by_expert(in, chosen, weights, jobs, tokens, mix);

    const Codes gate_codes = take_codes(workspace, rows, H), up_codes = take_codes(workspace, rows, H);
    const Codes down_codes = take_codes(workspace, rows, F);
    float* scratch = workspace.take<float>(rows * widest);
    float* hidden = workspace.take<float>(rows * F);
    float* parts = workspace.take<float>(rows * H);

    RETURN_IF_ERROR(for_rows(context, jobs, num_jobs, rows, H, [&](const Job& job, int64_t row) {
      const float* x = in.x.floats() + tokens[row] * H;
      gate_codes.rows[row] = kernels->quantize(x, in.gate_norm.floats() + job.expert * H, H, norm, activation,
                                               scratch + row * widest, gate_codes.codes + row * gate_codes.stride);
      up_codes.rows[row] = kernels->quantize(x, in.up_norm.floats() + job.expert * H, H, norm, activation,
                                             scratch + row * widest, up_codes.codes + row * up_codes.stride);
    }));

    const int64_t h_tiles = hidden_tiles(in), f_tiles = intermediate_tiles(in);
    const int64_t gate_tile = h_tiles * kGroupBytes, down_tile = f_tiles * kGroupBytes;
    const uint8_t* packed = static_cast<const uint8_t*>(in.packed.data);
    RETURN_IF_ERROR(for_tiles(context, jobs, num_jobs, f_tiles, 2 * gate_tile, [&](const Job& job, int64_t t) {
      const uint8_t* tile = packed + job.expert * in.packed.shape[1] + t * 2 * gate_tile;
      const float* scales = in.scales.floats() + job.expert * 3;
      // Gate and up of a few rows meet in the nearest cache.
      float gate[kRowsPerCall * kTileRows], up[kRowsPerCall * kTileRows];
      for_row_blocks(job.count, [&](int64_t first, int64_t count) {
        const int64_t row = job.begin + first;
        ternary_tile(*kernels, tile, h_tiles, gate_codes.from(row), count, scales[0], gate, kTileRows, kTileRows);
        ternary_tile(*kernels, tile + gate_tile, h_tiles, up_codes.from(row), count, scales[1], up, kTileRows,
                     kTileRows);
        kernels->gate(gate, up, count * kTileRows, gate_clip, hidden_clip, gate);
        for (int64_t m = 0; m < count; ++m)
          store_tile(gate + m * kTileRows, tile_width(t, F), hidden + (row + m) * F + t * kTileRows);
      });
    }));

    RETURN_IF_ERROR(for_rows(context, jobs, num_jobs, rows, F, [&](const Job& job, int64_t row) {
      float* h = hidden + row * F;
      if (in.has_hidden_norm) kernels->rms_norm(h, in.hidden_norm.floats() + job.expert * F, F, norm, h);
      down_codes.rows[row] = kernels->quantize(h, in.down_norm.floats() + job.expert * F, F, norm, activation,
                                               scratch + row * widest, down_codes.codes + row * down_codes.stride);
    }));

    RETURN_IF_ERROR(for_tiles(context, jobs, num_jobs, h_tiles, down_tile, [&](const Job& job, int64_t t) {
      const uint8_t* tile = packed + job.expert * in.packed.shape[1] + gate_up_bytes(in) + t * down_tile;
      ternary_tile(*kernels, tile, f_tiles, down_codes.from(job.begin), job.count,
                   in.scales.floats()[job.expert * 3 + 2], parts + job.begin * H + t * kTileRows, H, tile_width(t, H));
    }));

    memset(y, 0, sizeof(float) * static_cast<size_t>(in.count * H));
    for (int64_t row = 0; row < rows; ++row) {
      float* out = y + tokens[row] * H;
      const float* part = parts + row * H;
      for (int64_t i = 0; i < H; ++i) out[i] += mix[row] * part[i];
    }
    for (int64_t i = 0; i < in.count * H; ++i) {
      y[i] = y[i] > -output_clip ? y[i] : -output_clip;
      y[i] = y[i] < output_clip ? y[i] : output_clip;
    }
    return nullptr;
  }

 private:
  // Rows begin .. begin + count belong to one expert.
  struct Job {
    int64_t expert, begin, count;
  };

  template <typename T>
  Status* optional_output(KernelContext* context, size_t index, const Tensor& x, T** data) const {
    size_t count = 0;
    RETURN_IF_ERROR(api->num_outputs(context, &count));
    return index < count ? get_output(api, context, index, x, top_k, data) : nullptr;
  }

  int64_t group_by_expert(const Inputs& in, const int64_t* chosen, const float* weights, Job* jobs, int64_t* tokens,
                          float* mix) const {
    int64_t num_jobs = 0, row = 0;
    for (int64_t e = 0; e < in.total; ++e) {
      const int64_t begin = row;
      if (e < in.routed) {
        for (int64_t i = 0; i < in.count * top_k; ++i)
          if (chosen[i] == e) {
            tokens[row] = i / top_k;
            mix[row++] = weights[i];
          }
      } else {
        for (int64_t t = 0; t < in.count; ++t) {
          tokens[row] = t;
          mix[row++] = 1.0f;
        }
      }
      if (row > begin) jobs[num_jobs++] = {e, begin, row - begin};
    }
    return num_jobs;
  }

  // body(job, row) for every row.
  template <typename Body>
  Status* for_rows(const KernelContext* context, const Job* jobs, int64_t num_jobs, int64_t rows, int64_t size,
                   const Body& body) const {
    return parallel(api, context, rows, size * kBytesPerElement, [&](int64_t begin, int64_t end) {
      for (int64_t j = 0; j < num_jobs; ++j) {
        const int64_t first = begin > jobs[j].begin ? begin : jobs[j].begin;
        const int64_t job_end = jobs[j].begin + jobs[j].count, last = end < job_end ? end : job_end;
        for (int64_t row = first; row < last; ++row) body(jobs[j], row);
      }
    });
  }

  // body(job, tile) for every tile of every job: a thread reads its part of the weights in order.
  template <typename Body>
  Status* for_tiles(const KernelContext* context, const Job* jobs, int64_t num_jobs, int64_t tiles, int64_t tile_bytes,
                    const Body& body) const {
    int64_t most = 1;
    for (int64_t j = 0; j < num_jobs; ++j) most = jobs[j].count > most ? jobs[j].count : most;
    return parallel(api, context, num_jobs * tiles, tile_bytes * most, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) body(jobs[i / tiles], i % tiles);
    });
  }
};

// --- registration ---------------------------------------------------------------------------------------------------

// Fills the table of one operator. ONNX Runtime keeps the pointer: the tables are static.
template <typename Operator>
const CustomOp* custom_op() {
  static CustomOp op = [] {
    CustomOp o = {};
    o.version = onnx_api::kLevel;
    o.name = [](const CustomOp*) { return Operator::kName; };
    o.execution_provider = [](const CustomOp*) -> const char* { return nullptr; };
    o.input_type = [](const CustomOp*, size_t index) { return Operator::kInputs[index]; };
    o.num_inputs = [](const CustomOp*) { return sizeof Operator::kInputs / sizeof Operator::kInputs[0]; };
    o.output_type = [](const CustomOp*, size_t index) { return Operator::kOutputs[index]; };
    o.num_outputs = [](const CustomOp*) { return sizeof Operator::kOutputs / sizeof Operator::kOutputs[0]; };
    o.input_characteristic = [](const CustomOp*, size_t) { return onnx_api::kRequired; };
    o.output_characteristic = [](const CustomOp*, size_t index) {
      return index == 0 ? onnx_api::kRequired : onnx_api::kOptional;
    };
    o.input_memory = [](const CustomOp*, size_t) { return onnx_api::kDefaultMemory; };
    o.start_version = [](const CustomOp*) { return 1; };
    o.end_version = [](const CustomOp*) { return 1; };
    o.create_kernel_v2 = [](const CustomOp*, const Api* api, const KernelInfo* info, void** kernel) -> Status* {
      const Kernels* kernels = choose_kernels();
      if (kernels == nullptr)
        return error(api, "EMBERNET_ISA names no instruction set of this CPU (found: %s)", supported_kernels());
      Operator* created = static_cast<Operator*>(malloc(sizeof(Operator)));
      if (created == nullptr) return error(api, "no memory");
      created->api = api;
      created->kernels = kernels;
      if (Status* status = created->create(info)) {
        free(created);
        return status;
      }
      *kernel = created;
      return nullptr;
    };
    o.compute_v2 = [](void* kernel, KernelContext* context) -> Status* {
      return static_cast<const Operator*>(kernel)->compute(context);
    };
    o.destroy = [](void* kernel) { free(kernel); };
    return o;
  }();
  return &op;
}

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
  RETURN_IF_ERROR(api->add_operator(domain, embernet::custom_op<embernet::BitLinear>()));
  RETURN_IF_ERROR(api->add_operator(domain, embernet::custom_op<embernet::Int8Linear>()));
  RETURN_IF_ERROR(api->add_operator(domain, embernet::custom_op<embernet::TernaryMoE>()));
  return api->add_domain(options, domain);
}

// Names of the instruction sets that this CPU runs, fastest first.
__attribute__((visibility("default"))) const char* embernet_supported_isas() { return embernet::supported_kernels(); }
}
