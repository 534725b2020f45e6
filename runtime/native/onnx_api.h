// The slice of ONNX Runtime's versioned C API that custom operators need, declared here so that the library builds
// without ONNX Runtime's headers, which no wheel ships. A test compares it with the real ones where they are installed.
//
// The API is a table of function pointers whose order never changes; kLevel is the oldest table that has all we use.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace onnx_api {

constexpr uint32_t kLevel = 17;

// Types that ONNX Runtime owns.
struct Status;
struct Value;
struct TensorInfo;
struct KernelInfo;
struct KernelContext;
struct SessionOptions;
struct CustomOpDomain;
struct ShapeInferContext;

enum ErrorCode : int { kInvalidArgument = 2 };
enum ElementType : int { kFloat = 1, kUint8 = 2, kInt8 = 3, kInt32 = 6, kInt64 = 7 };
enum Characteristic : int { kRequired = 0, kOptional = 1 };
enum MemoryType : int { kDefaultMemory = 0 };

// Positions in OrtApi, by the names there.
namespace slot {
enum Slot : size_t {
  CreateStatus = 0,
  CreateCustomOpDomain = 26,
  CustomOpDomain_Add = 27,
  AddCustomOpDomain = 28,
  GetTensorMutableData = 51,
  GetDimensionsCount = 61,
  GetDimensions = 62,
  GetTensorTypeAndShape = 65,
  KernelInfoGetAttribute_float = 85,
  KernelInfoGetAttribute_int64 = 86,
  KernelContext_GetOutputCount = 89,
  KernelContext_GetInput = 90,
  KernelContext_GetOutput = 91,
  ReleaseStatus = 93,
  ReleaseTensorTypeAndShapeInfo = 99,
  KernelContext_ParallelFor = 274,
};
}  // namespace slot

// OrtApi: entries by position.
struct Api {
  const void* entries[280];

  template <typename Function>
  Function entry(slot::Slot slot) const {
    return reinterpret_cast<Function>(const_cast<void*>(entries[slot]));
  }

  Status* create_status(ErrorCode code, const char* message) const {
    return entry<Status* (*)(ErrorCode, const char*)>(slot::CreateStatus)(code, message);
  }
  Status* create_domain(const char* name, CustomOpDomain** domain) const {
    return entry<Status* (*)(const char*, CustomOpDomain**)>(slot::CreateCustomOpDomain)(name, domain);
  }
  Status* add_operator(CustomOpDomain* domain, const struct CustomOp* op) const {
    return entry<Status* (*)(CustomOpDomain*, const struct CustomOp*)>(slot::CustomOpDomain_Add)(domain, op);
  }
  Status* add_domain(SessionOptions* options, CustomOpDomain* domain) const {
    return entry<Status* (*)(SessionOptions*, CustomOpDomain*)>(slot::AddCustomOpDomain)(options, domain);
  }
  Status* data(Value* value, void** data) const {
    return entry<Status* (*)(Value*, void**)>(slot::GetTensorMutableData)(value, data);
  }
  Status* num_dimensions(const TensorInfo* info, size_t* count) const {
    return entry<Status* (*)(const TensorInfo*, size_t*)>(slot::GetDimensionsCount)(info, count);
  }
  Status* dimensions(const TensorInfo* info, int64_t* dimensions, size_t count) const {
    return entry<Status* (*)(const TensorInfo*, int64_t*, size_t)>(slot::GetDimensions)(info, dimensions, count);
  }
  Status* tensor_info(const Value* value, TensorInfo** info) const {
    return entry<Status* (*)(const Value*, TensorInfo**)>(slot::GetTensorTypeAndShape)(value, info);
  }
  Status* attribute(const KernelInfo* info, const char* name, float* value) const {
    return entry<Status* (*)(const KernelInfo*, const char*, float*)>(slot::KernelInfoGetAttribute_float)(info, name,
                                                                                                          value);
  }
  Status* attribute(const KernelInfo* info, const char* name, int64_t* value) const {
    return entry<Status* (*)(const KernelInfo*, const char*, int64_t*)>(slot::KernelInfoGetAttribute_int64)(info, name,
                                                                                                            value);
  }
  Status* num_outputs(const KernelContext* context, size_t* count) const {
    return entry<Status* (*)(const KernelContext*, size_t*)>(slot::KernelContext_GetOutputCount)(context, count);
  }
  Status* input(const KernelContext* context, size_t index, const Value** value) const {
    return entry<Status* (*)(const KernelContext*, size_t, const Value**)>(slot::KernelContext_GetInput)(context, index,
                                                                                                         value);
  }
  Status* output(KernelContext* context, size_t index, const int64_t* shape, size_t count, Value** value) const {
    return entry<Status* (*)(KernelContext*, size_t, const int64_t*, size_t, Value**)>(slot::KernelContext_GetOutput)(
        context, index, shape, count, value);
  }
  void release(Status* status) const { entry<void (*)(Status*)>(slot::ReleaseStatus)(status); }
  void release(TensorInfo* info) const { entry<void (*)(TensorInfo*)>(slot::ReleaseTensorTypeAndShapeInfo)(info); }
  Status* parallel_for(const KernelContext* context, void (*call)(void*, size_t), size_t total, size_t batches,
                       void* data) const {
    return entry<Status* (*)(const KernelContext*, void (*)(void*, size_t), size_t, size_t, void*)>(
        slot::KernelContext_ParallelFor)(context, call, total, batches, data);
  }
};

struct ApiBase {
  const Api* (*get_api)(uint32_t level);
  const char* (*get_version)();
};

// OrtCustomOp as of level 17. Entries left null are optional.
struct CustomOp {
  uint32_t version;
  void* (*create_kernel)(const CustomOp*, const Api*, const KernelInfo*);
  const char* (*name)(const CustomOp*);
  const char* (*execution_provider)(const CustomOp*);
  ElementType (*input_type)(const CustomOp*, size_t);
  size_t (*num_inputs)(const CustomOp*);
  ElementType (*output_type)(const CustomOp*, size_t);
  size_t (*num_outputs)(const CustomOp*);
  void (*compute)(void*, KernelContext*);
  void (*destroy)(void*);
  Characteristic (*input_characteristic)(const CustomOp*, size_t);
  Characteristic (*output_characteristic)(const CustomOp*, size_t);
  MemoryType (*input_memory)(const CustomOp*, size_t);
  int (*variadic_input_min)(const CustomOp*);
  int (*variadic_input_homogeneous)(const CustomOp*);
  int (*variadic_output_min)(const CustomOp*);
  int (*variadic_output_homogeneous)(const CustomOp*);
  Status* (*create_kernel_v2)(const CustomOp*, const Api*, const KernelInfo*, void**);
  Status* (*compute_v2)(void*, KernelContext*);
  Status* (*infer_shapes)(const CustomOp*, ShapeInferContext*);
  int (*start_version)(const CustomOp*);
  int (*end_version)(const CustomOp*);
  size_t (*may_inplace)(int**, int**);
  void (*release_may_inplace)(int*, int*);
  size_t (*alias_map)(int**, int**);
  void (*release_alias_map)(int*, int*);
};
static_assert(sizeof(CustomOp) == 26 * sizeof(void*), "OrtCustomOp has 26 slots");

}  // namespace onnx_api
