// Compiles if runtime/native/onnx_api.h is what ONNX Runtime's own header says. The test adds SLOT(name) for every slot.
#include <onnxruntime_c_api.h>

#include "../../runtime/native/onnx_api.h"

static_assert(ORT_API_VERSION >= onnx_api::kLevel, "the header is too old to compare with");

#define SLOT(name) \
  static_assert(offsetof(OrtApi, name) == onnx_api::slot::name * sizeof(void*), #name " has another position");
#define MEMBER(ours, theirs) \
  static_assert(offsetof(onnx_api::CustomOp, ours) == offsetof(OrtCustomOp, theirs), #theirs " has another position");
#define VALUE(ours, theirs) static_assert(onnx_api::ours == static_cast<int>(theirs), #theirs " has another value");

MEMBER(version, version)
MEMBER(create_kernel, CreateKernel)
MEMBER(name, GetName)
MEMBER(execution_provider, GetExecutionProviderType)
MEMBER(input_type, GetInputType)
MEMBER(num_inputs, GetInputTypeCount)
MEMBER(output_type, GetOutputType)
MEMBER(num_outputs, GetOutputTypeCount)
MEMBER(compute, KernelCompute)
MEMBER(destroy, KernelDestroy)
MEMBER(input_characteristic, GetInputCharacteristic)
MEMBER(output_characteristic, GetOutputCharacteristic)
MEMBER(input_memory, GetInputMemoryType)
MEMBER(variadic_input_min, GetVariadicInputMinArity)
MEMBER(variadic_input_homogeneous, GetVariadicInputHomogeneity)
MEMBER(variadic_output_min, GetVariadicOutputMinArity)
MEMBER(variadic_output_homogeneous, GetVariadicOutputHomogeneity)
MEMBER(create_kernel_v2, CreateKernelV2)
MEMBER(compute_v2, KernelComputeV2)
MEMBER(infer_shapes, InferOutputShapeFn)
MEMBER(start_version, GetStartVersion)
MEMBER(end_version, GetEndVersion)
MEMBER(may_inplace, GetMayInplace)
MEMBER(release_may_inplace, ReleaseMayInplace)
MEMBER(alias_map, GetAliasMap)
MEMBER(release_alias_map, ReleaseAliasMap)
static_assert(sizeof(onnx_api::CustomOp) <= sizeof(OrtCustomOp), "later versions only add members");

static_assert(offsetof(onnx_api::ApiBase, get_api) == offsetof(OrtApiBase, GetApi), "");
static_assert(offsetof(onnx_api::ApiBase, get_version) == offsetof(OrtApiBase, GetVersionString), "");

VALUE(kInvalidArgument, ORT_INVALID_ARGUMENT)
VALUE(kFloat, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT)
VALUE(kUint8, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8)
VALUE(kInt8, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8)
VALUE(kInt64, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64)
VALUE(kRequired, INPUT_OUTPUT_REQUIRED)
VALUE(kOptional, INPUT_OUTPUT_OPTIONAL)
VALUE(kDefaultMemory, OrtMemTypeDefault)
