// Which kernels this CPU runs.
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace embernet {

extern const Kernels kPortable;
#if defined(__x86_64__)
extern const Kernels kAvx2;
#elif defined(__aarch64__)
extern const Kernels kNeon, kNeonDot;
#endif

namespace {

struct Choice {
  const Kernels* kernels;
  bool supported;
};

constexpr int kMaxChoices = 4;

// All sets of this architecture, fastest first.
int list(Choice (&choices)[kMaxChoices]) {
  int count = 0;
#if defined(__x86_64__)
  __builtin_cpu_init();
  choices[count++] = {&kAvx2, __builtin_cpu_supports("avx2") != 0};
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
