// AVX-VNNI: AVX2 with VPDPBUSD but without AVX-512, Intel's client CPUs since 2021. A group is two registers.
#include <immintrin.h>

#include "arithmetic.h"
#include "vnni.h"

namespace embernet {
namespace {

struct AvxVnni {
  using Register = int32_t __attribute__((vector_size(32)));  // as in kernels_avx512_vnni.cpp

  static Register dot(Register sum, Register weights, Register codes) {
    return (Register)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)weights, (__m256i)codes);
  }
};

}  // namespace

extern const Kernels kAvxVnni;
const Kernels kAvxVnni = {"avx_vnni",
                          shared_quantize,
                          shared_normalize,
                          shared_rms_norm,
                          shared_dot,
                          shared_gate,
                          multiply<AvxVnni, Ternary>,
                          multiply<AvxVnni, Int8>,
                          multiply_row<AvxVnni, Ternary>,
                          multiply_row<AvxVnni, Int8>,
                          shared_dequantize,
                          gelu_avx2,
                          layer_norm_avx2,
                          attend_avx2};

}  // namespace embernet
