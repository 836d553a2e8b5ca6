// The machine's own limits, measured: what a benchmark's percentages refer to.
#pragma once

namespace fcntag {

double fma_peak(int threads);        // GFLOP/s, float32
double copy_bandwidth(int threads);  // GB/s, bytes read plus bytes written

// `rounds` rounds of independent multiply-adds; returns how many floating-point operations that was.
struct CeilingKernels {
  double (*multiply_adds)(long rounds, float* sink);
};

}  // namespace fcntag
