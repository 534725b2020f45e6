// AVX-512 with VNNI: servers since 2019, AMD's CPUs since Zen 4. A group is one register.
#include "lanes_avx2.h"
#include "vnni.h"

namespace embernet {

// Sixteen floats in one register; otherwise as columns.h has them.
struct Columns {
  __m512 v;
};

static inline Columns no_columns() { return {_mm512_setzero_ps()}; }
static inline Columns load_columns(const float* p) { return {_mm512_loadu_ps(p)}; }
static inline void store_columns(float* p, const Columns& x) { _mm512_storeu_ps(p, x.v); }

template <int i>
static inline void multiply_add(Factors f, const Columns& b, Columns& sums) {
  sums.v = _mm512_fmadd_ps(_mm512_set1_ps(f.p[i]), b.v, sums.v);
}

constexpr int kQueriesPerTile = 12;

}  // namespace embernet

#include "attention.h"

namespace embernet {
namespace {

struct Avx512Vnni {
  // Not __m512i: that is int64 lanes, and with those gcc copies every sum around every VPDPBUSD.
  using Register = int32_t __attribute__((vector_size(64)));

  static Register dot(Register sum, Register weights, Register codes) {
    return (Register)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)weights, (__m512i)codes);
  }
};

}  // namespace

extern const Kernels kAvx512Vnni;
const Kernels kAvx512Vnni = {"avx512_vnni",
                             shared_quantize,
                             shared_normalize,
                             shared_rms_norm,
                             shared_dot,
                             shared_gate,
                             multiply<Avx512Vnni, Ternary>,
                             multiply<Avx512Vnni, Int8>,
                             multiply_row<Avx512Vnni, Ternary>,
                             multiply_row<Avx512Vnni, Int8>,
                             shared_dequantize,
                             shared_gelu,
                             shared_layer_norm,
                             shared_attend};

}  // namespace embernet
