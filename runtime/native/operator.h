// What every operator needs: its inputs and outputs, memory, threads, and the table by which ONNX Runtime knows it.
#pragma once

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"
#include "onnx_api.h"

namespace embernet {

using onnx_api::Api;
using onnx_api::CustomOp;
using onnx_api::ElementType;
using onnx_api::KernelContext;
using onnx_api::KernelInfo;
using onnx_api::Status;
using onnx_api::TensorInfo;
using onnx_api::Value;

constexpr size_t kMaxDimensions = 8;
// Work is cut into pieces of about this many bytes of weights per row: waking a thread takes as long as some of them.
#if defined(__x86_64__)
constexpr int64_t kBytesPerPiece = 96 * 1024;
#else
constexpr int64_t kBytesPerPiece = 32 * 1024;
#endif
constexpr int64_t kMaxPieces = 32;

inline Status* error(const Api* api, const char* format, ...) {
  char message[256];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  return api->create_status(onnx_api::kInvalidArgument, message);
}

inline int64_t groups_of(int64_t size, int64_t group) { return (size + group - 1) / group; }

inline int64_t padded(int64_t size) { return groups_of(size, kCodeAlignment) * kCodeAlignment; }

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

inline Status* get_input(const Api* api, const KernelContext* context, size_t index, Tensor* tensor) {
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

template <typename T>
Status* get_output(const Api* api, KernelContext* context, size_t index, const int64_t* shape, size_t rank, T** data) {
  Value* value = nullptr;
  RETURN_IF_ERROR(api->output(context, index, shape, rank, &value));
  void* raw = nullptr;
  if (value != nullptr) RETURN_IF_ERROR(api->data(value, &raw));
  *data = static_cast<T*>(raw);
  return nullptr;
}

// An output of x's shape with another last axis.
template <typename T>
Status* get_output(const Api* api, KernelContext* context, size_t index, const Tensor& x, int64_t columns, T** data) {
  int64_t shape[kMaxDimensions];
  memcpy(shape, x.shape, sizeof shape);
  shape[x.rank - 1] = columns;
  return get_output(api, context, index, shape, x.rank, data);
}

inline Status* require_size(const Api* api, const Tensor& tensor, const char* name, int64_t size) {
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

// Operators of other files.
const CustomOp* ternary_moe();
const CustomOp* ternary_attention();
const CustomOp* multi_head_attention();

}  // namespace embernet
