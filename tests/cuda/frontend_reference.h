// The front end from its definitions, in double, for check_frontend.cpp: slow, and nothing of the engine's.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

namespace fcntag {
namespace reference {

using Doubles = std::vector<double>;

constexpr double kPi = 3.14159265358979323846;

// numpy.pad, mode "reflect", sample by sample: walk away from the clip and turn round at its ends.
inline double padded_sample(const float* wave, int n, int64_t i, bool reflect) {
  if (i >= 0 && i < n) return wave[i];
  if (!reflect) return 0;
  if (n == 1) return wave[0];
  int at = i < 0 ? 0 : n - 1, step = i < 0 ? 1 : -1;
  for (int64_t left = i < 0 ? -i : i - (n - 1); left > 0; --left) {
    at += step;
    if (at == 0 || at == n - 1) step = -step;
  }
  return wave[at];
}

// |DFT|^2 of a real frame [n]: [n / 2 + 1].
inline Doubles power_spectrum(const Doubles& frame) {
  const int n = static_cast<int>(frame.size());
  Doubles cosines(n), sines(n), power(n / 2 + 1);
  for (int i = 0; i < n; ++i) cosines[i] = std::cos(2 * kPi * i / n), sines[i] = std::sin(2 * kPi * i / n);
  for (int k = 0; k <= n / 2; ++k) {
    double re = 0, im = 0;
    for (int i = 0, at = 0; i < n; ++i) {
      re += frame[i] * cosines[at];
      im += frame[i] * sines[at];
      at = at + k < n ? at + k : at + k - n;
    }
    power[k] = re * re + im * im;
  }
  return power;
}

// The nearest half-precision value, ties to even, after rounding to float as the original did; nothing beyond 65504.
inline double to_float16(double x) {
  x = static_cast<float>(std::min(x, 65504.0));
  const double unit = std::ldexp(1.0, std::max(x > 0 ? std::ilogb(x) : -14, -14) - 10);
  return std::nearbyint(x / unit) * unit;
}

// The `order`-th derivative at position `at` of the polynomial of that degree closest to y [9] at 0 ... 8.
inline double fitted_derivative(const double* y, int order, double at) {
  const int n = order + 1;
  double a[3][4] = {};
  for (int i = 0; i < 9; ++i) {
    for (int r = 0; r < n; ++r) {
      for (int q = 0; q < n; ++q) a[r][q] += std::pow(i - at, r + q);
      a[r][3] += std::pow(i - at, r) * y[i];
    }
  }
  for (int r = 0; r < n; ++r) {  // Gauss-Jordan
    int pivot = r;
    for (int q = r + 1; q < n; ++q) pivot = std::fabs(a[q][r]) > std::fabs(a[pivot][r]) ? q : pivot;
    std::swap(a[r], a[pivot]);
    for (int q = 0; q < n; ++q) {
      if (q == r) continue;
      const double factor = a[q][r] / a[r][r];
      for (int i = 0; i < 4; ++i) a[q][i] -= factor * a[r][i];
    }
  }
  return (order == 2 ? 2 : 1) * a[order][3] / a[order][order];
}

// numpy.mean of float32 [n], n <= 128: in order, and from 8 values on pairwise.
inline float numpy_mean(const float* x, int n) {
  float sum = x[0];
  int i = 1;
  if (n >= 8) {
    std::vector<float> r(x, x + 8);
    for (i = 8; i + 8 <= n; i += 8) {
      for (int j = 0; j < 8; ++j) r[j] += x[i + j];
    }
    sum = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]));
  }
  for (; i < n; ++i) sum += x[i];
  return sum / static_cast<float>(n);
}

}  // namespace reference
}  // namespace fcntag
