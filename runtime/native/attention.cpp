// The operators of `ai.embernet` that attend: TernaryAttention, one half of a decoder's layer, and MultiHeadAttention,
// which is the attention alone. docs/operators.md defines them. This file checks shapes, turns queries and keys by
// their positions, and divides heads among threads; attention.h computes.
#include "tiles.h"

namespace embernet {
namespace {

// Rows of queries that one call of a kernel takes at most: their scores stay in the L2 cache.
constexpr int64_t kQueriesPerCall = 48;
// Multiply-adds that take as long as it takes to multiply a byte of weights.
constexpr int64_t kProductsPerByte = 4;
constexpr int64_t kMaxHeadSize = 1024;

// Heads of one sequence, which may lie between those of others.
struct Heads {
  const float* data;
  int64_t head_stride, row_stride;

  const float* at(int64_t head, int64_t row) const { return data + head * head_stride + row * row_stride; }
};

// cos and sin (positions, size / 2): a position turns halves of a head against each other.
struct Rotary {
  const float *cos, *sin;
  int64_t half;

  void turn(const float* x, int64_t position, float* out) const {
    const float *c = cos + position * half, *s = sin + position * half;
    for (int64_t i = 0; i < half; ++i) out[i] = x[i] * c[i] - x[i + half] * s[i];
    for (int64_t i = 0; i < half; ++i) out[i + half] = x[i + half] * c[i] + x[i] * s[i];
  }
};

// One sequence: `tokens` new rows of `num_heads` queries against `keys` rows of num_kv_heads keys and values.
struct Sequence {
  Heads queries, keys, values;
  float* out;  // (tokens, num_heads, size)
  int64_t tokens, num_heads, num_kv_heads, size;
  int64_t first_visible;  // keys that the first token sees; each further one sees one more if it is causal
  bool causal;
  const Rotary* rotary;    // for the queries; null if they are not turned
  int64_t first_position;  // of the queries

  int64_t group() const { return num_heads / num_kv_heads; }
  int64_t visible(int64_t token) const { return first_visible + (causal ? token : 0); }
  int64_t tokens_per_call() const {
    const int64_t tokens = kQueriesPerCall / group();
    return tokens > 0 ? tokens : 1;
  }
  int64_t calls() const { return num_kv_heads * groups_of(tokens, tokens_per_call()); }
};

// Call number `call` of a sequence; false if there is no memory.
bool attend(const Kernels& kernels, const Sequence& s, int64_t call) {
  const int64_t kv_head = call % s.num_kv_heads, begin = call / s.num_kv_heads * s.tokens_per_call();
  const int64_t end = begin + s.tokens_per_call() < s.tokens ? begin + s.tokens_per_call() : s.tokens;
  const int64_t group = s.group(), rows = (end - begin) * group, keys = s.visible(end - 1);
  const int64_t width = attention_padded(s.size);
  Workspace workspace(Workspace::bytes<float>(rows * s.size) + Workspace::bytes<float>(rows * width) +
                      Workspace::bytes<int64_t>(rows) +
                      Workspace::bytes<float>(attention_scratch(rows, s.size, keys)));
  if (!workspace.ok()) return false;
  float* queries = workspace.take<float>(rows * s.size);
  float* out = workspace.take<float>(rows * width);
  int64_t* visible = workspace.take<int64_t>(rows);
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(s.size));
  for (int64_t token = begin, row = 0; token < end; ++token)
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head, ++row) {
      float* query = queries + row * s.size;
      const float* x = s.queries.at(head, token);
      if (s.rotary != nullptr)
        s.rotary->turn(x, s.first_position + token, query);
      else
        memcpy(query, x, sizeof(float) * static_cast<size_t>(s.size));
      for (int64_t i = 0; i < s.size; ++i) query[i] *= scale;
      visible[row] = s.visible(token);
    }
  kernels.attend({queries, s.keys.at(kv_head, 0), s.values.at(kv_head, 0), s.keys.row_stride, s.values.row_stride,
                  s.size, rows, visible},
                 workspace.take<float>(attention_scratch(rows, s.size, keys)), out);
  for (int64_t token = begin, row = 0; token < end; ++token)
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head, ++row)
      memcpy(s.out + (token * s.num_heads + head) * s.size, out + row * width,
             sizeof(float) * static_cast<size_t>(s.size));
  return true;
}

Status* attend(const Api* api, const KernelContext* context, const Kernels& kernels, const Sequence& sequence) {
  const int64_t rows = (sequence.tokens < sequence.tokens_per_call() ? sequence.tokens : sequence.tokens_per_call()) *
                       sequence.group();
  const int64_t cached = 2 * sequence.visible(sequence.tokens - 1) * sequence.size, products = rows * cached;
  bool enough_memory = true;
  const int64_t bytes = cached * int64_t{sizeof(float)}, work = products / kProductsPerByte;
  RETURN_IF_ERROR(parallel(api, context, sequence.calls(), work > bytes ? work : bytes, [&](int64_t begin, int64_t end) {
    for (int64_t call = begin; call < end; ++call)
      if (!attend(kernels, sequence, call)) __atomic_store_n(&enough_memory, false, __ATOMIC_RELAXED);
  }));
  return enough_memory ? nullptr : error(api, "no memory to attend to %lld keys",
                                         static_cast<long long>(sequence.visible(sequence.tokens - 1)));
}

// x must be (batch, rows, heads * size).
Status* require_heads(const Api* api, const Tensor& x, const char* name, int64_t batch, int64_t rows, int64_t columns) {
  if (x.rank != 3 || x.shape[0] != batch || x.shape[1] != rows || x.shape[2] != columns)
    return error(api, "%s must have the shape (%lld, %lld, %lld)", name, static_cast<long long>(batch),
                 static_cast<long long>(rows), static_cast<long long>(columns));
  return nullptr;
}

Status* head_size(const Api* api, const Tensor& query, int64_t num_heads, int64_t* size) {
  if (query.rank != 3 || query.shape[2] % num_heads != 0 || query.shape[2] / num_heads < 1 ||
      query.shape[2] / num_heads > kMaxHeadSize)
    return error(api, "query must have three axes, the last of num_heads times 1 to %lld elements",
                 static_cast<long long>(kMaxHeadSize));
  *size = query.shape[2] / num_heads;
  return nullptr;
}

// --- TernaryAttention -----------------------------------------------------------------------------------------------

// (batch, kv heads, rows, size)
struct Cache {
  float* data = nullptr;
  int64_t heads = 0, rows = 0, size = 0;

  float* at(int64_t batch, int64_t head, int64_t row) const {
    return data + ((batch * heads + head) * rows + row) * size;
  }
};

struct TernaryAttention {
  static constexpr const char* kName = "TernaryAttention";
  static constexpr ElementType kInputs[] = {
      onnx_api::kFloat, onnx_api::kFloat, onnx_api::kFloat, onnx_api::kFloat, onnx_api::kUint8,
      onnx_api::kUint8, onnx_api::kUint8, onnx_api::kUint8, onnx_api::kFloat, onnx_api::kFloat,
      onnx_api::kInt32, onnx_api::kInt32, onnx_api::kFloat, onnx_api::kFloat};
  static constexpr ElementType kOutputs[] = {onnx_api::kFloat, onnx_api::kFloat, onnx_api::kFloat};

  const Api* api;
  const Kernels* kernels;
  int64_t num_heads, num_kv_heads;
  Norm input_norm, norm;
  Activation activation;

  Status* create(const KernelInfo* info) {
    num_heads = attribute<int64_t>(api, info, "num_heads", 0);
    num_kv_heads = attribute<int64_t>(api, info, "kv_num_heads", 0);
    input_norm = norm_attributes(api, info, "input_norm");
    norm = norm_attributes(api, info, "norm");
    activation = activation_attributes(api, info);
    if (num_heads < 1 || num_kv_heads < 1 || num_heads % num_kv_heads != 0)
      return error(api, "num_heads must be a positive multiple of kv_num_heads");
    return require_activation(api, activation);
  }

  struct Inputs {
    Tensor x, input_norm, norms, scales, query, key, value, out, past_key, past_value, lengths, total_length, cos, sin;
    int64_t batch, tokens, hidden, size, past_rows, total;  // B, T, H, D, P

    int64_t count() const { return batch * tokens; }
    const float* norm(int64_t part) const { return norms.floats() + part * hidden; }
  };

  Status* read_inputs(const KernelContext* context, Inputs* in) const {
    RETURN_IF_ERROR(get_inputs(api, context,
                               {&in->x, &in->input_norm, &in->norms, &in->scales, &in->query, &in->key, &in->value,
                                &in->out, &in->past_key, &in->past_value, &in->lengths, &in->total_length, &in->cos,
                                &in->sin}));
    RETURN_IF_ERROR(require_rows(api, in->x));
    if (in->x.rank != 3 || in->x.columns() % num_heads != 0)
      return error(api, "x must have three axes, the last a multiple of num_heads");
    in->batch = in->x.shape[0];
    in->tokens = in->x.shape[1];
    in->hidden = in->x.columns();
    in->size = in->hidden / num_heads;
    const int64_t H = in->hidden, kv = num_kv_heads * in->size;
    RETURN_IF_ERROR(require_size(api, in->input_norm, "input_norm", H));
    RETURN_IF_ERROR(require_size(api, in->norms, "norms", 4 * H));
    RETURN_IF_ERROR(require_size(api, in->scales, "scales", 4));
    RETURN_IF_ERROR(require_matrix(api, in->query, "query", H, H, kTernaryInputs));
    RETURN_IF_ERROR(require_matrix(api, in->key, "key", kv, H, kTernaryInputs));
    RETURN_IF_ERROR(require_matrix(api, in->value, "value", kv, H, kTernaryInputs));
    RETURN_IF_ERROR(require_matrix(api, in->out, "out", H, H, kTernaryInputs));
    const Tensor& past = in->past_key;
    if (past.rank != 4 || past.shape[0] != in->batch || past.shape[1] != num_kv_heads || past.shape[3] != in->size ||
        in->past_value.rank != 4 || memcmp(past.shape, in->past_value.shape, 4 * sizeof in->size) != 0)
      return error(api, "past_key and past_value must have the shape (%lld, %lld, past, %lld)",
                   static_cast<long long>(in->batch), static_cast<long long>(num_kv_heads),
                   static_cast<long long>(in->size));
    in->past_rows = past.shape[2];
    RETURN_IF_ERROR(require_size(api, in->lengths, "seqlens_k", in->batch));
    RETURN_IF_ERROR(require_size(api, in->total_length, "total_sequence_length", 1));
    if (in->size % 2 != 0 || in->cos.rank != 2 || in->cos.shape[1] != in->size / 2)
      return error(api, "cos_cache must have the shape (positions, %lld), and heads an even size",
                   static_cast<long long>(in->size / 2));
    RETURN_IF_ERROR(require_size(api, in->sin, "sin_cache", in->cos.size()));
    in->total = static_cast<const int32_t*>(in->total_length.data)[0];
    if (in->total < in->tokens || in->total > in->cos.shape[0])
      return error(api, "total_sequence_length is %lld: it must be at least the new tokens and at most %lld positions",
                   static_cast<long long>(in->total), static_cast<long long>(in->cos.shape[0]));
    for (int64_t b = 0; b < in->batch; ++b) {
      const int64_t past_length = past_of(*in, b);
      if (past_length < 0 || past_length > in->past_rows || past_length + in->tokens > in->total)
        return error(api, "seqlens_k says %d: the past has %lld positions, %lld are new, %lld are the total",
                     static_cast<const int32_t*>(in->lengths.data)[b], static_cast<long long>(in->past_rows),
                     static_cast<long long>(in->tokens), static_cast<long long>(in->total));
    }
    return nullptr;
  }

  // A first prompt begins at 0, whatever its length: the padding behind it is computed, and seen by nothing before it.
  static int64_t past_of(const Inputs& in, int64_t b) {
    return in.tokens == in.total ? 0 : static_cast<const int32_t*>(in.lengths.data)[b] + int64_t{1} - in.tokens;
  }

  Status* compute(KernelContext* context) const {
    Inputs in;
    RETURN_IF_ERROR(read_inputs(context, &in));
    const int64_t present_rows = in.past_rows > in.total ? in.past_rows : in.total;
    float* y = nullptr;
    Cache keys, values;
    RETURN_IF_ERROR(get_output(api, context, 0, in.x, in.hidden, &y));
    RETURN_IF_ERROR(get_cache(context, 1, in.past_key, present_rows, &keys));
    RETURN_IF_ERROR(get_cache(context, 2, in.past_value, present_rows, &values));
    const int64_t count = in.count(), H = in.hidden, kv = num_kv_heads * in.size;
    if (count == 0) return nullptr;

    Workspace workspace(3 * codes_bytes(count, H) + 2 * Workspace::bytes<float>(count * H) +
                        2 * Workspace::bytes<float>(count * kv));
    if (!workspace.ok()) return error(api, "no memory for %lld tokens", static_cast<long long>(count));
    const Codes codes[] = {take_codes(workspace, count, H), take_codes(workspace, count, H),
                           take_codes(workspace, count, H)};
    float* normed = workspace.take<float>(count * H);  // later what the heads found
    float* query = workspace.take<float>(count * H);
    float* key = workspace.take<float>(count * kv);
    float* value = workspace.take<float>(count * kv);
    RETURN_IF_ERROR(parallel(api, context, count, 4 * H * kBytesPerElement, [&](int64_t begin, int64_t end) {
      for (int64_t m = begin; m < end; ++m) {
        float* row = normed + m * H;
        kernels->rms_norm(in.x.floats() + m * H, in.input_norm.floats(), H, input_norm, row);
        kernels->normalize(row, H, norm, row);
        for (int64_t part = 0; part < 3; ++part)
          codes[part].rows[m] =
              kernels->quantize(row, in.norm(part), H, activation, codes[part].codes + m * codes[part].stride);
      }
    }));
    const Product products[] = {
        {&in.query, codes[0], in.scales.floats()[0], H, query, nullptr},
        {&in.key, codes[1], in.scales.floats()[1], kv, key, nullptr},
        {&in.value, codes[2], in.scales.floats()[2], kv, value, nullptr},
    };
    RETURN_IF_ERROR(multiply(api, context, *kernels, products, 3, count, H));

    const Rotary rotary = {in.cos.floats(), in.sin.floats(), in.size / 2};
    for (int64_t b = 0; b < in.batch; ++b) {
      const int64_t past = past_of(in, b), first = b * in.tokens;
      for (int64_t t = 0; t < in.tokens; ++t)
        for (int64_t h = 0; h < num_kv_heads; ++h) {
          const int64_t from = (first + t) * kv + h * in.size;
          rotary.turn(key + from, past + t, keys.at(b, h, past + t));
          memcpy(values.at(b, h, past + t), value + from, sizeof(float) * static_cast<size_t>(in.size));
        }
      const int64_t head = present_rows * in.size;
      RETURN_IF_ERROR(attend(api, context, *kernels,
                             {{query + first * H, in.size, H},
                              {keys.at(b, 0, 0), head, in.size},
                              {values.at(b, 0, 0), head, in.size},
                              normed + first * H,
                              in.tokens,
                              num_heads,
                              num_kv_heads,
                              in.size,
                              past + 1,
                              true,
                              &rotary,
                              past}));
    }
    RETURN_IF_ERROR(
        quantize(api, context, *kernels, normed, in.norm(3), count, H, norm, activation, normed, codes[0]));
    const Product product = {&in.out, codes[0], in.scales.floats()[3], H, y, in.x.floats()};
    return multiply(api, context, *kernels, &product, 1, count, H);
  }

 private:
  // A caller who binds one buffer as past and present appends in place; for anybody else the past is copied.
  Status* get_cache(KernelContext* context, size_t index, const Tensor& past, int64_t rows, Cache* cache) const {
    const int64_t shape[] = {past.shape[0], past.shape[1], rows, past.shape[3]};
    RETURN_IF_ERROR(get_output(api, context, index, shape, 4, &cache->data));
    if (cache->data == nullptr) return error(api, "output %zu is missing", index);
    cache->heads = shape[1];
    cache->rows = rows;
    cache->size = shape[3];
    if (cache->data == past.data) return nullptr;
    const int64_t past_head = past.shape[2] * past.shape[3], head = rows * past.shape[3];
    for (int64_t i = 0; i < past.shape[0] * past.shape[1]; ++i) {
      memcpy(cache->data + i * head, past.floats() + i * past_head, sizeof(float) * static_cast<size_t>(past_head));
      memset(cache->data + i * head + past_head, 0, sizeof(float) * static_cast<size_t>(head - past_head));
    }
    return nullptr;
  }
};

// --- MultiHeadAttention ---------------------------------------------------------------------------------------------

struct MultiHeadAttention {
  static constexpr const char* kName = "MultiHeadAttention";
  static constexpr ElementType kInputs[] = {onnx_api::kFloat, onnx_api::kFloat, onnx_api::kFloat};
  static constexpr ElementType kOutputs[] = {onnx_api::kFloat};

  const Api* api;
  const Kernels* kernels;
  int64_t num_heads;

  Status* create(const KernelInfo* info) {
    num_heads = attribute<int64_t>(api, info, "num_heads", 0);
    return num_heads < 1 ? error(api, "num_heads must be positive") : nullptr;
  }

  Status* compute(KernelContext* context) const {
    Tensor query, key, value;
    RETURN_IF_ERROR(get_inputs(api, context, {&query, &key, &value}));
    int64_t size = 0;
    RETURN_IF_ERROR(head_size(api, query, num_heads, &size));
    const int64_t batch = query.shape[0], tokens = query.shape[1], hidden = num_heads * size;
    const int64_t keys = key.rank == 3 ? key.shape[1] : 0;
    if (keys < 1) return error(api, "key must have three axes and at least one row");
    RETURN_IF_ERROR(require_heads(api, key, "key", batch, keys, hidden));
    RETURN_IF_ERROR(require_heads(api, value, "value", batch, keys, hidden));
    float* y = nullptr;
    RETURN_IF_ERROR(get_output(api, context, 0, query, hidden, &y));
    if (tokens == 0) return nullptr;
    for (int64_t b = 0; b < batch; ++b)
      RETURN_IF_ERROR(attend(api, context, *kernels,
                             {{query.floats() + b * tokens * hidden, size, hidden},
                              {key.floats() + b * keys * hidden, size, hidden},
                              {value.floats() + b * keys * hidden, size, hidden},
                              y + b * tokens * hidden,
                              tokens,
                              num_heads,
                              num_heads,
                              size,
                              keys,
                              false,
                              nullptr,
                              0}));
    return nullptr;
  }
};

}  // namespace

const CustomOp* ternary_attention() { return custom_op<TernaryAttention>(); }
const CustomOp* multi_head_attention() { return custom_op<MultiHeadAttention>(); }

}  // namespace embernet
