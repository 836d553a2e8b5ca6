#include "cuda/frontend/fft_plan.h"

#include <cmath>
#include <utility>

namespace fcntag {
namespace cuda {

namespace {

constexpr double kPi = 3.14159265358979323846;

// The DFT in place; a power of two of points, and their twiddles.
void power_of_two_dft(std::vector<std::complex<double>>* points, const std::vector<std::complex<double>>& twiddles) {
  std::vector<std::complex<double>>& z = *points;
  const std::size_t n = z.size();
  for (std::size_t i = 1, j = 0; i < n; ++i) {  // j: the bits of i in reverse
    std::size_t bit = n / 2;
    for (; j & bit; bit /= 2) j ^= bit;
    j ^= bit;
    if (i < j) std::swap(z[i], z[j]);
  }
  for (std::size_t half = 1; half < n; half *= 2) {
    for (std::size_t begin = 0; begin < n; begin += 2 * half) {
      for (std::size_t k = 0; k < half; ++k) {
        const std::complex<double> a = z[begin + k], b = z[begin + k + half] * twiddles[k * (n / (2 * half))];
        z[begin + k] = a + b;
        z[begin + k + half] = a - b;
      }
    }
  }
}

// The radices of passes over n points; false where a factor is too large for one.
bool factors(int n, std::vector<int>* radices) {
  for (const int radix : {4, 2, 3, 5}) {
    for (; n % radix == 0; n /= radix) radices->push_back(radix);
  }
  for (int radix = 7; n > 1 && radix <= kLargestRadix; radix += 2) {
    for (; n % radix == 0; n /= radix) radices->push_back(radix);
  }
  return n == 1;
}

}  // namespace

std::complex<double> turn(long long numerator, long long denominator) {
  const double angle = 2 * kPi * static_cast<double>(numerator % denominator) / static_cast<double>(denominator);
  return {std::cos(angle), -std::sin(angle)};
}

int fft_points(int size) {
  std::vector<int> radices;
  if (factors(size, &radices)) return size;
  int points = 1;  // of a cyclic convolution, so many that no product comes round to where another one is
  while (points < 2 * size - 1) points *= 2;
  return points;
}

FftTables fft_tables(int size) {
  FftTables tables;
  const int points = fft_points(size);
  factors(points, &tables.radices);
  for (int k = 0; k < points; ++k) tables.twiddles.push_back(turn(k, points));
  if (points == size) return tables;
  tables.kernel.assign(points, 0);
  for (int k = 0; k < size; ++k) {
    tables.chirp.push_back(turn(static_cast<long long>(k) * k, 2LL * size));
    const std::complex<double> w = std::conj(tables.chirp.back()) / static_cast<double>(points);
    tables.kernel[k] = w;
    if (k > 0) tables.kernel[points - k] = w;
  }
  power_of_two_dft(&tables.kernel, tables.twiddles);
  return tables;
}

}  // namespace cuda
}  // namespace fcntag
