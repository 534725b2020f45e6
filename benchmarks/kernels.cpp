// Times matrix kernels one against another: ours of every instruction set this CPU runs, ggml's where it was built, and a
// loop that only reads. Every call takes the next matrix of a pool that no cache holds; contestants take turns; the clock
// is the thread's own, so what else runs on the core costs caches but no time. First, all are checked on one matrix.
//
//   kernels [rounds]   -> JSON: microseconds of each call
//
// What is timed begins with quantised activations and ends with float results.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <functional>
#include <string>
#include <vector>

#include "../runtime/native/kernels.h"

#ifdef WITH_GGML
#include "ggml-cpu.h"
#include "ggml.h"

// Not in a public header: what llama.cpp uses for Q4_0 on x86, after it has rearranged the weights at load.
extern "C" {
void ggml_gemv_q4_0_8x8_q8_0(int n, float* s, size_t bs, const void* vx, const void* vy, int nr, int nc);
void ggml_gemm_q4_0_8x8_q8_0(int n, float* s, size_t bs, const void* vx, const void* vy, int nr, int nc);
void ggml_quantize_mat_q8_0_4x8(const float* x, void* vy, int64_t k);
}
#endif

extern "C" uint64_t embernet_read_memory(const uint64_t* data, size_t bytes);  // read_memory.cpp

namespace {

using embernet::Kernels;
using embernet::kGroupBytes;
using embernet::kTernaryInputs;
using embernet::kTileRows;

constexpr size_t kPoolBytes = size_t{256} << 20;
constexpr int64_t kRowsPerCall = 64;  // as in operators.cpp
using Bytes = std::vector<uint8_t>;

[[noreturn]] void fail(const std::string& message) {
  fprintf(stderr, "kernels: %s\n", message.c_str());
  exit(1);
}

double thread_microseconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) * 1e6 + static_cast<double>(t.tv_nsec) * 1e-3;
}

uint32_t random_number() {
  static uint64_t state = 88172645463325252u;  // xorshift
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return static_cast<uint32_t>(state >> 32);
}

// One problem: y (M, N) = codes (M, K) times ternary weights (N, K).
struct Problem {
  int64_t N, K, M;
  std::vector<int8_t> weights, codes;
  std::vector<float> expected;

  Problem(int64_t n, int64_t k, int64_t m)
      : N(n), K(k), M(m), weights(static_cast<size_t>(n * k)), codes(static_cast<size_t>(m * k)) {
    for (int8_t& w : weights) w = static_cast<int8_t>(random_number() % 3) - 1;
    for (int8_t& a : codes) a = static_cast<int8_t>(random_number() % 255) - 127;
    // The largest in every block: then each format of activations has these very codes.
    for (size_t i = 0; i < codes.size(); i += 32) codes[i] = -127;
    expected.resize(static_cast<size_t>(M * N));
    for (int64_t i = 0; i < M; ++i)
      for (int64_t j = 0; j < N; ++j) {
        int32_t sum = 0;
        for (int64_t l = 0; l < K; ++l) sum += codes[i * K + l] * weights[j * K + l];
        expected[i * N + j] = static_cast<float>(sum);
      }
  }
};

// Copies of one matrix, one after another, on pages of 4 KiB as in a mapped file.
class Pool {
 public:
  explicit Pool(const Bytes& matrix) : matrix_bytes_(matrix.size()), count_(kPoolBytes / matrix.size()) {
    void* data = mmap(nullptr, kPoolBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) fail("no memory for the weights");
    madvise(data, kPoolBytes, MADV_NOHUGEPAGE);
    data_ = static_cast<uint8_t*>(data);
    for (size_t i = 0; i < count_; ++i) memcpy(data_ + i * matrix_bytes_, matrix.data(), matrix_bytes_);
  }
  ~Pool() { munmap(data_, kPoolBytes); }
  Pool(const Pool&) = delete;
  const uint8_t* matrix(size_t i) const { return data_ + i % count_ * matrix_bytes_; }
  size_t count() const { return count_; }
  size_t matrix_bytes() const { return matrix_bytes_; }

 private:
  size_t matrix_bytes_, count_;
  uint8_t* data_;
};

struct Contestant {
  std::string name;
  const Pool* pool;
  std::function<void(const uint8_t* weights, float* y)> multiply;
  double tolerance;  // of the check, relative to the largest result; negative = it does not multiply
  size_t next = 0;
  std::vector<double> microseconds{};
};

// --- ours -----------------------------------------------------------------------------------------------------------

Bytes pack_r16k16(const Problem& p) {  // docs/bundle-format.md
  Bytes packed(static_cast<size_t>(p.N * p.K / 4));
  for (int64_t row = 0; row < p.N; ++row)
    for (int64_t k = 0; k < p.K; ++k) {
      const int64_t group = row / kTileRows * (p.K / kTernaryInputs) + k / kTernaryInputs;
      const int64_t byte = group * kGroupBytes + row % kTileRows * 4 + k % 4;
      packed[byte] |= static_cast<uint8_t>((p.weights[row * p.K + k] + 1) << (2 * (k % kTernaryInputs / 4)));
    }
  return packed;
}

// As BitLinear does it.
void multiply_ours(const Kernels& kernels, const Problem& p, const int8_t* codes, const embernet::Row* rows,
                   const uint8_t* weights, float* y) {
  const int64_t groups = p.K / kTernaryInputs, tiles = p.N / kTileRows;
  int32_t products[kRowsPerCall * kTileRows];
  if (p.M == 1) {
    const embernet::RowPair row = {{codes, codes}, {rows->sum, rows->sum}};
    for (int64_t tile = 0; tile < tiles; tile += kRowsPerCall) {
      const int64_t count = tile + kRowsPerCall < tiles ? kRowsPerCall : tiles - tile;
      kernels.ternary_row(weights + tile * groups * kGroupBytes, count, groups, row, products);
      for (int64_t i = 0; i < count * kTileRows; ++i)
        y[tile * kTileRows + i] = static_cast<float>(products[i]) * rows->step;
    }
    return;
  }
  float scales[kTileRows], biases[kTileRows] = {};
  for (float& scale : scales) scale = 1.0f;
  for (int64_t tile = 0; tile < tiles; ++tile)
    for (int64_t begin = 0; begin < p.M; begin += kRowsPerCall) {
      const int64_t size = begin + kRowsPerCall < p.M ? kRowsPerCall : p.M - begin;
      kernels.ternary(weights + tile * groups * kGroupBytes, groups, codes + begin * p.K, p.K, rows + begin, size,
                      products);
      kernels.dequantize(products, rows + begin, size, scales, biases, y + begin * p.N + tile * kTileRows, p.N);
    }
}

// --- ggml's ---------------------------------------------------------------------------------------------------------

#ifdef WITH_GGML
Bytes quantize_weights(const Problem& p, ggml_type type) {
  std::vector<float> floats(p.weights.begin(), p.weights.end());
  Bytes quantized(ggml_row_size(type, p.K) * static_cast<size_t>(p.N));
  ggml_quantize_chunk(type, floats.data(), quantized.data(), 0, p.N, p.K, nullptr);
  return quantized;
}

Bytes quantize_activations(const Problem& p, ggml_type type) {
  const std::vector<float> floats(p.codes.begin(), p.codes.end());
  const size_t stride = ggml_row_size(type, p.K);
  Bytes quantized(stride * static_cast<size_t>(p.M));
  for (int64_t m = 0; m < p.M; ++m)
    ggml_get_type_traits_cpu(type)->from_float(floats.data() + m * p.K, quantized.data() + m * stride, p.K);
  return quantized;
}

// As llama.cpp multiplies where nothing was rearranged: blocks of 16 rows by 16 rows of activations.
void multiply_vec_dot(const Problem& p, ggml_type type, const Bytes& activations, const uint8_t* weights, float* y) {
  constexpr int64_t kBlock = 16;
  const ggml_type_traits_cpu& traits = *ggml_get_type_traits_cpu(type);
  const size_t weight_stride = ggml_row_size(type, p.K), stride = ggml_row_size(traits.vec_dot_type, p.K);
  for (int64_t m0 = 0; m0 < p.M; m0 += kBlock)
    for (int64_t n0 = 0; n0 < p.N; n0 += kBlock)
      for (int64_t m = m0; m < m0 + kBlock && m < p.M; ++m)
        for (int64_t n = n0; n < n0 + kBlock && n < p.N; ++n)
          traits.vec_dot(static_cast<int>(p.K), y + m * p.N + n, 0, weights + n * weight_stride, 0,
                         activations.data() + m * stride, 0, 1);
}

// Q4_0 as llama.cpp rearranges it for AVX2: 8 rows interleaved by 8 bytes, the sign bits flipped.
Bytes interleave_q4_0(const Problem& p, const Bytes& q4_0) {
  constexpr size_t kScale = 2, kCodes = 16, kBlock = kScale + kCodes, kRows = 8;
  const size_t blocks = static_cast<size_t>(p.K) / 32;
  Bytes out;
  out.reserve(q4_0.size());
  for (size_t row = 0; row < static_cast<size_t>(p.N); row += kRows)
    for (size_t b = 0; b < blocks; ++b) {
      const auto block = [&](size_t r) { return q4_0.data() + ((row + r) * blocks + b) * kBlock; };
      for (size_t r = 0; r < kRows; ++r) out.insert(out.end(), block(r), block(r) + kScale);
      for (size_t half = 0; half < kCodes; half += 8)
        for (size_t r = 0; r < kRows; ++r)
          for (size_t i = 0; i < 8; ++i) out.push_back(block(r)[kScale + half + i] ^ 0x88);
    }
  return out;
}

// Activations for it: one row as it is, or four rows interleaved.
Bytes interleave_activations(const Problem& p) {
  if (p.M == 1) return quantize_activations(p, GGML_TYPE_Q8_0);
  const std::vector<float> floats(p.codes.begin(), p.codes.end());
  const size_t stride = ggml_row_size(GGML_TYPE_Q8_0, p.K);
  Bytes quantized(stride * static_cast<size_t>(p.M));
  for (int64_t m = 0; m < p.M; m += 4)
    ggml_quantize_mat_q8_0_4x8(floats.data() + m * p.K, quantized.data() + m * stride, p.K);
  return quantized;
}
#endif

// --- the race -------------------------------------------------------------------------------------------------------

void check(const Contestant& contestant, const Problem& p) {
  if (contestant.tolerance < 0) return;
  std::vector<float> y(p.expected.size());
  contestant.multiply(contestant.pool->matrix(0), y.data());
  float largest = 0.0f, difference = 0.0f;
  for (size_t i = 0; i < y.size(); ++i) {
    largest = fmaxf(largest, fabsf(p.expected[i]));
    difference = fmaxf(difference, fabsf(y[i] - p.expected[i]));
  }
  fprintf(stderr, "%s, %lld x %lld, %lld rows: off by %g of the largest\n", contestant.name.c_str(),
          static_cast<long long>(p.N), static_cast<long long>(p.K), static_cast<long long>(p.M), difference / largest);
  if (!(difference <= contestant.tolerance * largest)) fail(contestant.name + " computes something else");
}

void race(const Problem& p, int rounds, bool last) {
  const Bytes packed = pack_r16k16(p);
  const Pool ours(packed);
  std::vector<embernet::Row> rows(static_cast<size_t>(p.M));
  for (int64_t m = 0; m < p.M; ++m) {
    rows[m] = {1.0f, 0};
    for (int64_t k = 0; k < p.K; ++k) rows[m].sum += p.codes[m * p.K + k];
  }
  std::vector<Contestant> contestants;
  uint64_t sink = 0;
  contestants.push_back({"read", &ours, [&](const uint8_t* w, float*) {
                           sink += embernet_read_memory(reinterpret_cast<const uint64_t*>(w), packed.size());
                         },
                         -1});
  std::string names = embernet::supported_kernels();
  for (size_t begin = 0, end; begin < names.size(); begin = end + 1) {
    end = names.find(' ', begin);
    end = end == std::string::npos ? names.size() : end;
    const std::string isa = names.substr(begin, end - begin);
    setenv("EMBERNET_ISA", isa.c_str(), 1);
    const Kernels* kernels = embernet::choose_kernels();
    contestants.push_back(
        {"embernet " + isa, &ours,
         [&, kernels](const uint8_t* w, float* y) { multiply_ours(*kernels, p, p.codes.data(), rows.data(), w, y); }, 0});
  }
#ifdef WITH_GGML
  const Pool tq2_0(quantize_weights(p, GGML_TYPE_TQ2_0));
  const Bytes q8_k = quantize_activations(p, GGML_TYPE_Q8_K);
  contestants.push_back(
      {"ggml TQ2_0", &tq2_0,
       [&](const uint8_t* w, float* y) { multiply_vec_dot(p, GGML_TYPE_TQ2_0, q8_k, w, y); }, 1e-5});
  const Bytes q4_0_weights = quantize_weights(p, GGML_TYPE_Q4_0);
  const Pool q4_0(q4_0_weights);
  const Bytes q8_0 = quantize_activations(p, GGML_TYPE_Q8_0);
  contestants.push_back({"ggml Q4_0", &q4_0,
                         [&](const uint8_t* w, float* y) { multiply_vec_dot(p, GGML_TYPE_Q4_0, q8_0, w, y); }, 0.2});
#if defined(__x86_64__)
  const Pool interleaved(interleave_q4_0(p, q4_0_weights));
  const Bytes q8_0x4 = interleave_activations(p);
  contestants.push_back({"ggml Q4_0 interleaved", &interleaved,
                         [&](const uint8_t* w, float* y) {
                           const auto multiply = p.M == 1 ? ggml_gemv_q4_0_8x8_q8_0 : ggml_gemm_q4_0_8x8_q8_0;
                           multiply(static_cast<int>(p.K), y, static_cast<size_t>(p.N), w, q8_0x4.data(),
                                    static_cast<int>(p.M), static_cast<int>(p.N));
                         },
                         0.2});
#endif
#endif
  for (const Contestant& contestant : contestants) check(contestant, p);

  // Those that share a pool begin far apart, so that none finds in the L3 cache what another has just read.
  for (size_t i = 0; i < contestants.size(); ++i)
    contestants[i].next = contestants[i].pool->count() * i / contestants.size();
  const size_t calls = p.M == 1 ? 8 : 1;  // per turn: the clock takes a fraction of a microsecond
  std::vector<float> y(p.expected.size());
  for (int round = 0; round < rounds; ++round)
    for (size_t i = 0; i < contestants.size(); ++i) {
      Contestant& c = contestants[(i + static_cast<size_t>(round)) % contestants.size()];
      const double start = thread_microseconds();
      for (size_t call = 0; call < calls; ++call) c.multiply(c.pool->matrix(c.next++), y.data());
      c.microseconds.push_back((thread_microseconds() - start) / static_cast<double>(calls));
    }

  for (size_t i = 0; i < contestants.size(); ++i) {
    const Contestant& c = contestants[i];
    printf("  {\"contestant\": \"%s\", \"rows\": %lld, \"inputs\": %lld, \"activations\": %lld, \"matrix_bytes\": %zu, "
           "\"microseconds\": [",
           c.name.c_str(), static_cast<long long>(p.N), static_cast<long long>(p.K), static_cast<long long>(p.M),
           c.pool->matrix_bytes());
    for (size_t s = 0; s < c.microseconds.size(); ++s) printf("%s%.2f", s > 0 ? ", " : "", c.microseconds[s]);
    printf("]}%s\n", last && i + 1 == contestants.size() ? "" : ",");
  }
  fprintf(stderr, "what was read adds up to %llx\n", static_cast<unsigned long long>(sink));
}

}  // namespace

int main(int count, char** arguments) {
  const int rounds = count > 1 ? atoi(arguments[1]) : 40;
  if (rounds < 1) fail("at least one round is needed");
#ifdef WITH_GGML
  ggml_cpu_init();
#endif
  printf("[\n");
  race(Problem(2048, 768, 1), rounds, false);
  race(Problem(768, 2048, 1), rounds, false);
  race(Problem(2048, 768, 84), rounds, false);
  race(Problem(768, 2048, 84), rounds, true);
  printf("]\n");
  return 0;
}
