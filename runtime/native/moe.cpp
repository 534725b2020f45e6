// The operator TernaryMoE of `ai.embernet`: docs/operators.md defines it. An expert that no row chose is never touched.
#include "tiles.h"

namespace embernet {
namespace {

struct TernaryMoE {
  static constexpr const char* kName = "TernaryMoE";
  static constexpr ElementType kInputs[] = {onnx_api::kFloat, onnx_api::kFloat, onnx_api::kFloat, onnx_api::kFloat,
                                            onnx_api::kFloat, onnx_api::kFloat, onnx_api::kFloat, onnx_api::kFloat,
                                            onnx_api::kFloat, onnx_api::kUint8};
  static constexpr ElementType kOutputs[] = {onnx_api::kFloat, onnx_api::kInt64, onnx_api::kFloat};

  const Api* api;
  const Kernels* kernels;
  int64_t top_k;
  Norm input_norm, norm;
  Activation activation;
  float gate_clip, hidden_clip, output_clip;

  Status* create(const KernelInfo* info) {
    top_k = attribute<int64_t>(api, info, "top_k", 0);
    input_norm = norm_attributes(api, info, "input_norm");
    norm = norm_attributes(api, info, "norm");
    activation = activation_attributes(api, info);
    gate_clip = attribute(api, info, "gate_clip", 20.0f);
    hidden_clip = attribute(api, info, "hidden_clip", 1000.0f);
    output_clip = attribute(api, info, "output_clip", 1e4f);
    if (top_k < 1) return error(api, "top_k must be positive");
    return require_activation(api, activation);
  }

  struct Inputs {
    Tensor x, input_norm, router_weight, router_bias, gate_norm, up_norm, hidden_norm, down_norm, scales, packed;
    int64_t count, hidden, intermediate, routed, total;  // T, H, F, E, X
    bool has_hidden_norm;
  };

  Status* read_inputs(const KernelContext* context, Inputs* in) const {
    RETURN_IF_ERROR(get_inputs(api, context,
                               {&in->x, &in->input_norm, &in->router_weight, &in->router_bias, &in->gate_norm,
                                &in->up_norm, &in->hidden_norm, &in->down_norm, &in->scales, &in->packed}));
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
    RETURN_IF_ERROR(require_size(api, in->input_norm, "input_norm", in->hidden));
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
    Workspace workspace(Workspace::bytes<float>(in.count * H) + Workspace::bytes<int64_t>(in.count * top_k) +
                        Workspace::bytes<float>(in.count * top_k) + Workspace::bytes<float>(in.count * in.routed) +
                        Workspace::bytes<Job>(in.total) + Workspace::bytes<int64_t>(rows) +
                        Workspace::bytes<float>(rows) + codes_bytes(rows, H) * 2 + codes_bytes(rows, F) +
                        Workspace::bytes<float>(rows * F) + Workspace::bytes<float>(rows * H));
    if (!workspace.ok()) return error(api, "no memory for %lld tokens", static_cast<long long>(in.count));
    float* normed = workspace.take<float>(in.count * H);
    int64_t* chosen = workspace.take<int64_t>(in.count * top_k);
    float* weights = workspace.take<float>(in.count * top_k);
    float* probabilities = workspace.take<float>(in.count * in.routed);
    RETURN_IF_ERROR(parallel(api, context, in.count, H * kBytesPerElement, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        float* x = normed + t * H;
        kernels->rms_norm(in.x.floats() + t * H, in.input_norm.floats(), H, input_norm, x);
        route(in, x, chosen + t * top_k, weights + t * top_k, probabilities + t * in.routed);
        kernels->normalize(x, H, norm, x);
      }
    }));
    if (chosen_out != nullptr) memcpy(chosen_out, chosen, sizeof(int64_t) * static_cast<size_t>(in.count * top_k));
    if (weights_out != nullptr) memcpy(weights_out, weights, sizeof(float) * static_cast<size_t>(in.count * top_k));

    Job* jobs = workspace.take<Job>(in.total);
    int64_t* tokens = workspace.take<int64_t>(rows);
    float* mix = workspace.take<float>(rows);
    const int64_t num_jobs = group_by_expert(in, chosen, weights, jobs, tokens, mix);

    const Codes gate_codes = take_codes(workspace, rows, H), up_codes = take_codes(workspace, rows, H);
    const Codes down_codes = take_codes(workspace, rows, F);
    float* hidden = workspace.take<float>(rows * F);
    float* parts = workspace.take<float>(rows * H);

    RETURN_IF_ERROR(for_rows(context, jobs, num_jobs, rows, H, [&](const Job& job, int64_t row) {
      const float* x = normed + tokens[row] * H;
      gate_codes.rows[row] = kernels->quantize(x, in.gate_norm.floats() + job.expert * H, H, activation,
                                               gate_codes.codes + row * gate_codes.stride);
      up_codes.rows[row] = kernels->quantize(x, in.up_norm.floats() + job.expert * H, H, activation,
                                             up_codes.codes + row * up_codes.stride);
    }));

    const int64_t h_tiles = hidden_tiles(in), f_tiles = intermediate_tiles(in);
    const uint8_t* packed = static_cast<const uint8_t*>(in.packed.data);
    const auto gate_up = [&](const Job& job, int64_t begin, int64_t end) {
      const GateUp matrices = {packed + job.expert * in.packed.shape[1], h_tiles,
                               in.scales.floats() + job.expert * 3, F, gate_codes.from(job.begin),
                               up_codes.from(job.begin)};
      if (job.count == 1)
        hidden_of_row(matrices, begin, end, hidden + job.begin * F);
      else
        hidden_of_rows(matrices, job.count, begin, end, hidden + job.begin * F);
    };
    RETURN_IF_ERROR(for_tiles(context, jobs, num_jobs, f_tiles, 2 * h_tiles * kGroupBytes, gate_up));

    RETURN_IF_ERROR(for_rows(context, jobs, num_jobs, rows, F, [&](const Job& job, int64_t row) {
      float* h = hidden + row * F;
      if (in.has_hidden_norm) kernels->rms_norm(h, in.hidden_norm.floats() + job.expert * F, F, norm, h);
      kernels->normalize(h, F, norm, h);
      down_codes.rows[row] = kernels->quantize(h, in.down_norm.floats() + job.expert * F, F, activation,
                                               down_codes.codes + row * down_codes.stride);
    }));

    const auto down = [&](const Job& job, int64_t begin, int64_t end) {
      ternary_tiles(*kernels, packed + job.expert * in.packed.shape[1] + gate_up_bytes(in), begin, end, f_tiles,
                    down_codes.from(job.begin), job.count, in.scales.floats()[job.expert * 3 + 2],
                    parts + job.begin * H, H);
    };
    RETURN_IF_ERROR(for_tiles(context, jobs, num_jobs, h_tiles, f_tiles * kGroupBytes, down));

    memset(y, 0, sizeof(float) * static_cast<size_t>(in.count * H));
    for (int64_t row = 0; row < rows; ++row) {
      float* out = y + tokens[row] * H;
      const float* part = parts + row * H;
      for (int64_t i = 0; i < H; ++i) out[i] += mix[row] * part[i];
    }
    for (int64_t i = 0; i < in.count * H; ++i) {
      float sum = y[i] > -output_clip ? y[i] : -output_clip;
      sum = sum < output_clip ? sum : output_clip;
      y[i] = in.x.floats()[i] + sum;
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

  // Gate and up of one expert, whose tiles alternate, and the codes of its rows.
  struct GateUp {
    const uint8_t* tiles;
    int64_t groups;  // of a tile
    const float* scales;
    int64_t outputs;
    Codes gate, up;

    const uint8_t* tile(int64_t t) const { return tiles + t * 2 * groups * kGroupBytes; }
  };

  // hidden (outputs) of one row, for tiles begin .. end; gate and up of some tiles meet in the nearest cache.
  void hidden_of_row(const GateUp& m, int64_t begin, int64_t end, float* hidden) const {
    const RowPair rows = {{m.gate.codes, m.up.codes}, {m.gate.rows->sum, m.up.rows->sum}};
    const float gate_step = m.gate.rows->step * m.scales[0], up_step = m.up.rows->step * m.scales[1];
    for_tile_blocks(begin, end, [&](int64_t t, int64_t tiles) {
      int32_t products[2 * kRowsPerCall * kTileRows];
      float gate[kRowsPerCall * kTileRows], up[kRowsPerCall * kTileRows];
      kernels->ternary_row(m.tile(t), 2 * tiles, m.groups, rows, products);
      for (int64_t i = 0; i < tiles; ++i)
        for (int64_t r = 0; r < kTileRows; ++r) {
          gate[i * kTileRows + r] = static_cast<float>(products[2 * i * kTileRows + r]) * gate_step;
          up[i * kTileRows + r] = static_cast<float>(products[(2 * i + 1) * kTileRows + r]) * up_step;
        }
      kernels->gate(gate, up, tiles_width(t, tiles, m.outputs), gate_clip, hidden_clip, hidden + t * kTileRows);
    });
  }

  // hidden (count, outputs) for tiles begin .. end; gate and up of some rows meet in the nearest cache.
  void hidden_of_rows(const GateUp& m, int64_t count, int64_t begin, int64_t end, float* hidden) const {
    float gate[kRowsPerCall * kTileRows], up[kRowsPerCall * kTileRows];
    for (int64_t t = begin; t < end; ++t)
      for_row_blocks(count, [&](int64_t first, int64_t rows) {
        ternary_tile(*kernels, m.tile(t), m.groups, m.gate.from(first), rows, m.scales[0], gate, kTileRows, kTileRows);
        ternary_tile(*kernels, m.tile(t) + m.groups * kGroupBytes, m.groups, m.up.from(first), rows, m.scales[1], up,
                     kTileRows, kTileRows);
        kernels->gate(gate, up, rows * kTileRows, gate_clip, hidden_clip, gate);
        for (int64_t row = 0; row < rows; ++row)
          copy_tile(gate + row * kTileRows, tiles_width(t, 1, m.outputs),
                    hidden + (first + row) * m.outputs + t * kTileRows);
      });
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

  // body(job, first tile, end) for the tiles of every job: a thread reads its part of the weights in order.
  template <typename Body>
  Status* for_tiles(const KernelContext* context, const Job* jobs, int64_t num_jobs, int64_t tiles, int64_t tile_bytes,
                    const Body& body) const {
    int64_t most = 1;
    for (int64_t j = 0; j < num_jobs; ++j) most = jobs[j].count > most ? jobs[j].count : most;
    return parallel(api, context, num_jobs * tiles, tile_bytes * most, [&](int64_t begin, int64_t end) {
      for (int64_t j = begin / tiles; j * tiles < end; ++j) {
        const int64_t first = begin - j * tiles, last = end - j * tiles;
        body(jobs[j], first > 0 ? first : 0, last < tiles ? last : tiles);
      }
    });
  }
};

}  // namespace

const CustomOp* ternary_moe() { return custom_op<TernaryMoE>(); }

}  // namespace embernet
