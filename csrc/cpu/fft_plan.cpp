#include "cpu/fft_plan.h"

#include <cmath>
#include <complex>
#include <cstdint>

namespace fcntag {

namespace {

using Complex = std::complex<long double>;

constexpr long double kPi = 3.141592653589793238462643383279502884L;

// e^(-2 pi i numerator / denominator). The numerator is reduced while it is an integer.
Complex turn(int64_t numerator, int64_t denominator) {
  const long double angle = 2 * kPi * static_cast<long double>(numerator % denominator) / denominator;
  return {std::cos(angle), -std::sin(angle)};
}

void append(std::vector<double>* table, Complex value) {
  table->push_back(static_cast<double>(value.real()));
  table->push_back(static_cast<double>(-value.imag()));
}

// Factors of `length` in the order of the passes: the largest first, so that what follows works in small blocks.
std::vector<int> factors(int length) {
  std::vector<int> odd, found;
  int rest = length;
  for (int p = 3; p * p <= rest; p += 2) {
    for (; rest % p == 0; rest /= p) odd.push_back(p);
  }
  int twos = 0;
  for (; rest % 2 == 0; rest /= 2) ++twos;
  if (rest > 1) odd.push_back(rest);
  for (; twos >= 5 || twos == 3; twos -= 3) found.push_back(8);
  for (; twos >= 2; twos -= 2) found.push_back(4);
  if (twos == 1) found.push_back(2);
  found.insert(found.begin(), odd.rbegin(), odd.rend());
  return found;
}

int largest_factor(int length) {
  int largest = 1;
  for (int radix : factors(length)) largest = radix > largest ? radix : largest;
  return largest;
}

// The cheapest length of at least `least` points: about log2 of the radix a pass, and the moves of a pass.
int smooth_length(int least) {
  int best = 0;
  double best_cost = 0;
  for (int length = least; best == 0 || length <= 2 * least; ++length) {
    double cost = 0;
    for (int radix : factors(length)) cost += radix > 8 || radix == 7 ? 1e9 : radix % 2 ? radix : std::log2(radix) + 1;
    cost *= length;
    if (best == 0 || cost < best_cost) best = length, best_cost = cost;
  }
  return best;
}

// In place of x its transform, from the definition of every factor's. It is for tables: nothing is timed here.
void transform(std::vector<Complex>* x) {
  const int n = static_cast<int>(x->size());
  if (n == 1) return;
  const int radix = factors(n)[0], m = n / radix;
  std::vector<std::vector<Complex>> parts(radix, std::vector<Complex>(m));
  for (int i = 0; i < n; ++i) parts[i % radix][i / radix] = (*x)[i];
  for (auto& part : parts) transform(&part);
  for (int k = 0; k < n; ++k) {
    Complex sum = 0;
    for (int q = 0; q < radix; ++q) sum += parts[q][k % m] * turn(static_cast<int64_t>(q) * k, n);
    (*x)[k] = sum;
  }
}

int complex_points(int n_fft) { return n_fft % 2 ? n_fft : n_fft / 2; }

int pass_points(int n_fft) {
  const int points = complex_points(n_fft);
  return largest_factor(points) > kMaxRadix ? smooth_length(2 * points - 1) : points;
}

}  // namespace

ComplexPlan::ComplexPlan(int n) : length(n), position(n) {
  int block = n;
  for (int radix : factors(n)) {
    FftPass pass{radix, block, tables.size(), 0};
    for (int j = 0; j < block / radix; ++j) {
      for (int q = 1; q < radix; ++q) append(&tables, turn(static_cast<int64_t>(j) * q, block));
    }
    pass.roots = tables.size();
    for (int q = 0; q < radix; ++q) append(&tables, turn(q, radix));
    passes.push_back(pass);
    block /= radix;
  }
  n_passes = static_cast<int>(passes.size());
  for (int k = 0; k < n; ++k) {
    int rest = k;
    for (const FftPass& pass : passes) {
      position[k] += rest % pass.radix * (pass.length / pass.radix);
      rest /= pass.radix;
    }
  }
}

FftPlan::FftPlan(int n)
    : n_fft(n),
      points(complex_points(n)),
      passes(pass_points(n)),
      convolves(passes.length != points),
      position(passes.position) {
  if (n_fft % 2 == 0) {
    for (int k = 0; k <= n_fft / 4; ++k) append(&split, turn(k, n_fft));
  }
  if (!convolves) return;
  const int m = passes.length;
  std::vector<Complex> wave(m);
  for (int i = 0; i < points; ++i) {
    const Complex w = turn(static_cast<int64_t>(i) * i, 2 * points);
    append(&chirp, w);
    wave[i] = wave[(m - i) % m] = std::conj(w) / static_cast<long double>(m);
  }
  transform(&wave);
  for (const Complex& value : wave) {
    kernel.push_back(static_cast<double>(value.real()));
    kernel.push_back(static_cast<double>(value.imag()));
  }
  position.resize(points);
  for (int k = 0; k < points; ++k) position[k] = k;
}

std::size_t FftPlan::memory_bytes() const {
  return (passes.tables.size() + chirp.size() + kernel.size() + split.size()) * sizeof(double) +
         (passes.position.size() + position.size()) * sizeof(int);
}

}  // namespace fcntag
