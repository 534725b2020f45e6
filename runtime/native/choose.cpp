// Which kernels this CPU runs.
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace embernet {

extern const Kernels kPortable;
#if defined(__x86_64__)
extern const Kernels kAvx512Vnni, kAvxVnni, kAvx2;
#elif defined(__aarch64__)
extern const Kernels kNeon, kNeonDot;
#endif

namespace {

struct Choice {
  const Kernels* kernels;
  bool supported;
};

constexpr int kMaxChoices = 4;

#if defined(__x86_64__)
// The compiler's checks ask the operating system, too, whether it saves the registers.
bool has_avx2() { return __builtin_cpu_supports("avx2") != 0; }

#if defined(EMULATE_VNNI)
bool has_avx512_vnni() { return true; }
bool has_avx_vnni() { return true; }
#else
[[maybe_unused]] bool has_avx512_vnni() {
  return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl");
}

// Few compilers have a check for AVX-VNNI; it uses the registers of AVX2.
[[maybe_unused]] bool has_avx_vnni() {
  unsigned a = 0, b, c, d;
  return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & 1u << 4) != 0;
}
#endif
#endif

// All sets of this architecture, fastest first.
int list(Choice (&choices)[kMaxChoices]) {
  int count = 0;
#if defined(__x86_64__)
  __builtin_cpu_init();
#if defined(HAVE_AVX512_VNNI)
  choices[count++] = {&kAvx512Vnni, has_avx512_vnni()};
#endif
#if defined(HAVE_AVX_VNNI)
  choices[count++] = {&kAvxVnni, has_avx_vnni()};
#endif
  choices[count++] = {&kAvx2, has_avx2()};
#elif defined(__aarch64__)
  constexpr unsigned long kHwcapDot = 1UL << 20;  // HWCAP_ASIMDDP
  choices[count++] = {&kNeonDot, (getauxval(AT_HWCAP) & kHwcapDot) != 0};
  choices[count++] = {&kNeon, true};
#endif
  choices[count++] = {&kPortable, true};
  return count;
}

}  // namespace

const Kernels* choose_kernels() {
  const char* wanted = getenv("EMBERNET_ISA");
  const bool any = wanted == nullptr || *wanted == '\0';
  Choice choices[kMaxChoices];
  const int count = list(choices);
  for (int i = 0; i < count; ++i)
    if (choices[i].supported && (any || strcmp(choices[i].kernels->name, wanted) == 0)) return choices[i].kernels;
  return nullptr;
}

const char* supported_kernels() {
  static char names[kMaxChoices * 16];
  Choice choices[kMaxChoices];
  const int count = list(choices);
  names[0] = '\0';
  for (int i = 0; i < count; ++i)
    if (choices[i].supported) {
      if (names[0] != '\0') strcat(names, " ");
      strcat(names, choices[i].kernels->name);
    }
  return names;
}

}  // namespace embernet
