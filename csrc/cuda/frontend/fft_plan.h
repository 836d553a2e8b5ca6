// The host's part of fft.h: how a number of points is taken apart, and its tables, computed in double.
#pragma once

#include <complex>
#include <vector>

namespace fcntag {
namespace cuda {

// Beyond it a factor is no pass of its own: its sums would take longer than a convolution.
constexpr int kLargestRadix = 31;

struct FftTables {
  std::vector<int> radices;                                   // their product is fft_points()
  std::vector<std::complex<double>> twiddles, chirp, kernel;  // as Fft in fft.h; the last two empty without convolution
};

// e^(-2 pi i numerator / denominator), for a numerator that may be many turns.
std::complex<double> turn(long long numerator, long long denominator);

// Points of the passes: size, or the power of two of a convolution.
int fft_points(int size);
FftTables fft_tables(int size);

}  // namespace cuda
}  // namespace fcntag
