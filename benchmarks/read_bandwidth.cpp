// How fast this machine reads memory in order: bytes per second of `threads` threads, each with a part of one mapping of
// 4 KiB pages that no cache holds.
//
//   read_bandwidth [threads [seconds]]   -> one number, of the median pass
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <vector>

#include "read.h"

int main(int count, char** arguments) {
  const size_t threads = count > 1 ? static_cast<size_t>(atoi(arguments[1])) : 1;
  const double seconds = count > 2 ? atof(arguments[2]) : 1.0;
  constexpr size_t kBytes = size_t{384} << 20;
  if (threads < 1 || threads > 256) return 2;
  const size_t part = kBytes / threads / 4096 * 4096;

  uint8_t* data = static_cast<uint8_t*>(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (data == MAP_FAILED) return 1;
  madvise(data, kBytes, MADV_NOHUGEPAGE);  // a mapped file has small pages
  memset(data, 1, kBytes);

  using Clock = std::chrono::steady_clock;
  std::vector<double> passes;
  uint64_t sink = 0;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  while (passes.size() < 3 || Clock::now() < end) {
    std::vector<uint64_t> sums(threads);
    const auto start = Clock::now();
    std::vector<std::thread> others;
    for (size_t t = 1; t < threads; ++t)
      others.emplace_back([&, t] { sums[t] = read_bytes(data + t * part, part); });
    sums[0] = read_bytes(data, part);
    for (std::thread& other : others) other.join();
    passes.push_back(std::chrono::duration<double>(Clock::now() - start).count());
    for (uint64_t sum : sums) sink += sum;
  }
  std::nth_element(passes.begin(), passes.begin() + passes.size() / 2, passes.end());
  printf("%.0f\n", static_cast<double>(part * threads) / passes[passes.size() / 2]);
  return sink == 0;  // so that the sums are needed
}
