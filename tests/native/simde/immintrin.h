// In place of the compiler's header when CMake is given EMULATE_VNNI: AVX-512 and AVX-VNNI on CPUs without them.
#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#define _mm256_dpbusd_avx_epi32 simde_mm256_dpbusd_epi32  // SIMDe has the instruction, but not this name for it
