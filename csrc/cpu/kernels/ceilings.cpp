// Measures multiply-adds: enough independent chains of them hide their latency. This file is compiled once per
// instruction set (FCNTAG_ISA).
#include "cpu/ceilings.h"
#include "cpu/kernels/simd.h"

namespace fcntag {
namespace {

constexpr int kChains = 12;  // at least the latency of 4 to 5 cycles times two units

double multiply_adds(long rounds, float* sink) {
  Vec sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = splat(static_cast<float>(i));
  // The operands are volatile, or the compiler could fold the loop. 0.5 x + 0.5 stays finite.
  volatile float half = 0.5f;
  const Vec a = splat(half), b = splat(half);
  for (long r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sums[i] = fma(sums[i], a, b);
  }
  Vec total = sums[0];
  for (int i = 1; i < kChains; ++i) total = total + sums[i];
  store(sink, total);
  return 2.0 * kLanes * kChains * static_cast<double>(rounds);
}

}  // namespace

extern const CeilingKernels FCNTAG_TABLE(ceiling_kernels_);
const CeilingKernels FCNTAG_TABLE(ceiling_kernels_) = {multiply_adds};

}  // namespace fcntag
