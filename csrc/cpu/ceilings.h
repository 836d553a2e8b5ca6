// Measures the limits of the machine. A benchmark gives its results as percentages of them.
#pragma once

namespace fcntag {

double fma_peak(int threads);        // GFLOP/s, float32
double copy_bandwidth(int threads);  // GB/s, bytes read plus bytes written

// The kernel of one instruction set: it does `rounds` rounds of independent multiply-adds and returns the number of
// floating-point operations.
struct CeilingKernels {
  double (*multiply_adds)(long rounds, float* sink);
};

}  // namespace fcntag
