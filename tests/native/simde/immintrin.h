// In place of the compiler's header when CMake is given EMULATE_VNNI: AVX-512 and AVX-VNNI on CPUs without them.
#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <math.h>
#include <string.h>
#include <simde/x86/avx512.h>

#define _mm256_dpbusd_avx_epi32 simde_mm256_dpbusd_epi32  // SIMDe has the instruction, but not this name for it

// SIMDe rounds twice; our kernels count on one rounding.
template <typename Register>
static inline Register fused_multiply_add(Register a, Register b, Register c) {
  constexpr size_t kFloats = sizeof(Register) / sizeof(float);
  float x[kFloats], y[kFloats], z[kFloats];
  memcpy(x, &a, sizeof a);
  memcpy(y, &b, sizeof b);
  memcpy(z, &c, sizeof c);
  for (size_t i = 0; i < kFloats; ++i) z[i] = fmaf(x[i], y[i], z[i]);
  memcpy(&c, z, sizeof c);
  return c;
}

#undef _mm256_fmadd_ps
#undef _mm512_fmadd_ps
#define _mm256_fmadd_ps fused_multiply_add<simde__m256>
#define _mm512_fmadd_ps fused_multiply_add<simde__m512>
