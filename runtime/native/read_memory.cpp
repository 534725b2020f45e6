// A pass over memory that does nothing but read: `embernet bench` compares the reading of weights with it.
#include <stddef.h>
#include <stdint.h>

namespace {

constexpr size_t kLineWords = 8;             // a cache line, and a group of weights: 64 bytes
// As far ahead as the kernels ask for their weights: what is fastest.
#if defined(__x86_64__)
constexpr size_t kPrefetchWords = 8192 / 8;
#else
constexpr size_t kPrefetchWords = 1024 / 8;
#endif

}  // namespace

// Reads whole lines of 64 bytes; what is left of `bytes` is not read. `data` is aligned to 8 bytes. The exclusive or of
// all words is returned, so that no compiler can leave the reading out.
extern "C" __attribute__((visibility("default"))) uint64_t embernet_read_memory(const uint64_t* data, size_t bytes) {
  uint64_t sums[kLineWords] = {};
  for (size_t line = 0; line < bytes / (8 * kLineWords); ++line) {
    const uint64_t* words = data + line * kLineWords;
    __builtin_prefetch(words + kPrefetchWords);
    for (size_t i = 0; i < kLineWords; ++i) sums[i] ^= words[i];
  }
  uint64_t sum = 0;
  for (size_t i = 0; i < kLineWords; ++i) sum ^= sums[i];
  return sum;
}
