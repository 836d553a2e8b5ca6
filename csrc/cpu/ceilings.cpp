#include "cpu/ceilings.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <vector>

#include "cpu/aligned_buffer.h"
#include "cpu/kernel_table.h"
#include "cpu/thread_pool.h"

namespace fcntag {

namespace {

// The best trial counts, because a ceiling is the speed of a machine that nothing disturbs.
constexpr int kTrials = 7;

template <typename Work>
double best_rate(ThreadPool& pool, double amount, const Work& work) {
  double best = 0;
  for (int trial = 0; trial < kTrials; ++trial) {
    const auto start = std::chrono::steady_clock::now();
    pool.run(pool.threads(), work);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::max(best, amount / seconds.count());
  }
  return best * 1e-9;
}

}  // namespace

double fma_peak(int threads) {
  ThreadPool pool(threads);
  const CeilingKernels& ceilings = *kernels(choose_isa()).ceilings;
  std::vector<float> sinks(static_cast<std::size_t>(threads) * 64);
  constexpr long kRounds = 400'000;
  const double operations = ceilings.multiply_adds(kRounds, sinks.data());
  return best_rate(pool, operations * threads,
                   [&](int64_t i, int) { ceilings.multiply_adds(kRounds, sinks.data() + i * 64); });
}

double copy_bandwidth(int threads) {
  ThreadPool pool(threads);
  constexpr std::size_t kFloats = std::size_t{16} << 20;  // 64 MB each way, beyond any cache
  AlignedBuffer from(kFloats), to(kFloats);
  std::fill_n(from.data(), kFloats, 1.0f);
  const std::size_t part = kFloats / threads;
  return best_rate(pool, 2.0 * part * threads * sizeof(float), [&](int64_t i, int) {
    std::memcpy(to.data() + i * part, from.data() + i * part, part * sizeof(float));
  });
}

}  // namespace fcntag
