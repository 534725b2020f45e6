// AVX-512 with VNNI: servers since 2019, AMD's CPUs since Zen 4. A group is one register.
#include <immintrin.h>

#include "arithmetic.h"
#include "vnni.h"

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
                             shared_rms_norm,
                             shared_dot,
                             shared_gate,
                             multiply<Avx512Vnni, Ternary>,
                             multiply<Avx512Vnni, Int8>,
                             gelu_avx2,
                             layer_norm_avx2,
                             attend_avx2};

}  // namespace embernet
