// Reading memory and nothing else: what bounds every kernel whose weights come from memory.
#pragma once

#include <stdint.h>
#include <string.h>

#include <cstddef>

// Adds up `size` bytes, a multiple of 128, in order; prefetches as the kernels do.
inline uint64_t read_bytes(const uint8_t* data, size_t size) {
  typedef uint64_t Vector __attribute__((vector_size(32)));
  constexpr size_t kPrefetch = 4096;
  Vector sums[4] = {};
  for (size_t i = 0; i < size; i += sizeof sums) {
    __builtin_prefetch(data + i + kPrefetch);
    __builtin_prefetch(data + i + kPrefetch + 64);
    for (size_t j = 0; j < 4; ++j) {
      Vector v;
      memcpy(&v, data + i + j * sizeof v, sizeof v);
      sums[j] += v;
    }
  }
  const Vector sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  return sum[0] + sum[1] + sum[2] + sum[3];
}
