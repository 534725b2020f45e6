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
// What the CPU has and the operating system saves: as __builtin_cpu_supports, but that needs libgcc, which zig has not.
struct Cpu {
  unsigned saved = 0;  // XCR0: the registers that are saved
  bool fma = false;
  unsigned leaf7[4] = {}, leaf7_1[4] = {};

  Cpu() {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return;
    fma = c & bit_FMA;
    __asm__("xgetbv" : "=a"(saved), "=d"(d) : "c"(0));
    __get_cpuid_count(7, 0, &leaf7[0], &leaf7[1], &leaf7[2], &leaf7[3]);
    __get_cpuid_count(7, 1, &leaf7_1[0], &leaf7_1[1], &leaf7_1[2], &leaf7_1[3]);
  }
  bool avx2() const {
    constexpr unsigned kXmmYmm = 0x6;
    return (saved & kXmmYmm) == kXmmYmm && (leaf7[1] & bit_AVX2) && fma;
  }
#if defined(EMULATE_VNNI)
  bool avx512_vnni() const { return true; }
  bool avx_vnni() const { return true; }
#else
  [[maybe_unused]] bool avx512_vnni() const {
    constexpr unsigned kXmmYmmZmm = 0xe6, kSets = bit_AVX512F | bit_AVX512BW | bit_AVX512VL;
    return avx2() && (saved & kXmmYmmZmm) == kXmmYmmZmm && (leaf7[1] & kSets) == kSets && (leaf7[2] & bit_AVX512VNNI);
  }
  [[maybe_unused]] bool avx_vnni() const { return avx2() && (leaf7_1[0] & 1u << 4); }
#endif
};
#endif

// All sets of this architecture, fastest first.
int list(Choice (&choices)[kMaxChoices]) {
  int count = 0;
#if defined(__x86_64__)
  const Cpu cpu;
#if defined(HAVE_AVX512_VNNI)
  choices[count++] = {&kAvx512Vnni, cpu.avx512_vnni()};
#endif
#if defined(HAVE_AVX_VNNI)
  choices[count++] = {&kAvxVnni, cpu.avx_vnni()};
#endif
  choices[count++] = {&kAvx2, cpu.avx2()};
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
