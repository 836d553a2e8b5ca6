// The discrete Fourier transform of a real frame of any length, as tables that csrc/cpu/kernels/fft.h follows.
//
// A frame of even length is a complex transform of half its length, of even and odd samples, and a split. One of odd
// length is a complex transform whose imaginary parts are 0. The complex transform is a chain of passes, one for every
// factor of its length, decimated in frequency and in place: its outputs lie in an order of their own. A length with a
// large prime factor is a convolution with a chirp instead (Bluestein, IEEE Transactions on Audio 18, 1970), which
// passes of a longer, smooth length compute.
#pragma once

#include <cstddef>
#include <vector>

namespace fcntag {

// Prime factors above it go through a chirp: a pass of radix p costs about p operations a point.
constexpr int kMaxRadix = 61;

struct FftPass {
  int radix;
  int length;            // of the transforms that this pass begins; they lie side by side
  std::size_t twiddles;  // where its own begin: [length / radix][radix - 1] of cos, sin of 2 pi j q / length
  std::size_t roots;     // of an odd radix without code of its own: [radix] of cos, sin of 2 pi q / radix
};

struct ComplexPlan {
  int length, n_passes;
  std::vector<FftPass> passes;
  std::vector<double> tables;
  std::vector<int> position;  // of output k after the passes

  explicit ComplexPlan(int length);
};

struct FftPlan {
  int n_fft;
  int points;  // of the complex transform: n_fft / 2, or n_fft where that is odd
  // Passes of `points`, or of a length for the convolution of a chirp.
  ComplexPlan passes;
  bool convolves;  // with a chirp, which has the two tables
  // chirp [points]: cos, sin of pi n^2 / points. kernel [passes.length]: the transform of the chirp
  // that is convolved with, over the length.
  std::vector<double> chirp, kernel;
  std::vector<double> split;  // [n_fft / 4 + 1] of cos, sin of 2 pi k / n_fft; empty for an odd n_fft
  std::vector<int> position;  // of output k of the complex transform

  explicit FftPlan(int n_fft);

  // Complex numbers that a transform works in.
  std::size_t work() const { return static_cast<std::size_t>(passes.length) * (convolves ? 2 : 1); }
  std::size_t memory_bytes() const;
};

}  // namespace fcntag
