// Complex transforms on vectors: every lane is a frame of its own, and the code is plain scalar code on them.
//
// Include it only in csrc/cpu/kernels/*.cpp: everything here has internal linkage, as in simd.h.
#pragma once

#include "cpu/fft_plan.h"
#include "cpu/kernels/simd.h"

namespace fcntag {
namespace {

// AVX-512 takes eight doubles here.
#if defined(__AVX512F__)
constexpr int kWide = 8;
#else
constexpr int kWide = kLanes64;
#endif
typedef double Wide __attribute__((vector_size(kWide * 8)));

// Passes go depth first until what they work on fits into a level-1 cache beside the tables.
constexpr int kBlockBytes = 24 * 1024;

struct Point {
  Wide re, im;
};

FCNTAG_INLINE Point operator+(Point a, Point b) { return {a.re + b.re, a.im + b.im}; }
FCNTAG_INLINE Point operator-(Point a, Point b) { return {a.re - b.re, a.im - b.im}; }
FCNTAG_INLINE Point times(Point a, double x) { return {a.re * x, a.im * x}; }
// a - i b and a + i b
FCNTAG_INLINE Point minus_i(Point a, Point b) { return {a.re + b.im, a.im - b.re}; }
FCNTAG_INLINE Point plus_i(Point a, Point b) { return {a.re - b.im, a.im + b.re}; }
// a e^(-i w), where `turn` holds cos w and sin w
FCNTAG_INLINE Point turned(Point a, const double* turn) {
  return {a.re * turn[0] + a.im * turn[1], a.im * turn[0] - a.re * turn[1]};
}

// x[R] becomes its transform.
template <int R>
FCNTAG_INLINE void butterfly(Point (&x)[R]);

template <>
FCNTAG_INLINE void butterfly<2>(Point (&x)[2]) {
  const Point a = x[0], b = x[1];
  x[0] = a + b;
  x[1] = a - b;
}

template <>
FCNTAG_INLINE void butterfly<3>(Point (&x)[3]) {
  const Point sum = x[1] + x[2], turn = times(x[1] - x[2], 0.866025403784438646763723170752936183);
  const Point middle = x[0] - times(sum, 0.5);
  x[0] = x[0] + sum;
  x[1] = minus_i(middle, turn);
  x[2] = plus_i(middle, turn);
}

template <>
FCNTAG_INLINE void butterfly<4>(Point (&x)[4]) {
  const Point a = x[0] + x[2], b = x[0] - x[2], c = x[1] + x[3], d = x[1] - x[3];
  x[0] = a + c;
  x[1] = minus_i(b, d);
  x[2] = a - c;
  x[3] = plus_i(b, d);
}

template <>
FCNTAG_INLINE void butterfly<5>(Point (&x)[5]) {
  constexpr double c1 = 0.309016994374947424102293417182819059, c2 = -0.809016994374947424102293417182819059;
  constexpr double s1 = 0.951056516295153572116439333379382143, s2 = 0.587785252292473129168705954639072769;
  const Point a = x[1] + x[4], b = x[2] + x[3], c = x[1] - x[4], d = x[2] - x[3];
  const Point m1 = x[0] + times(a, c1) + times(b, c2), m2 = x[0] + times(a, c2) + times(b, c1);
  const Point n1 = times(c, s1) + times(d, s2), n2 = times(c, s2) - times(d, s1);
  x[0] = x[0] + a + b;
  x[1] = minus_i(m1, n1);
  x[2] = minus_i(m2, n2);
  x[3] = plus_i(m2, n2);
  x[4] = plus_i(m1, n1);
}

template <>
FCNTAG_INLINE void butterfly<8>(Point (&x)[8]) {
  constexpr double kHalfRoot = 0.707106781186547524400844362104849039;
  Point even[4] = {x[0], x[2], x[4], x[6]}, odd[4] = {x[1], x[3], x[5], x[7]};
  butterfly<4>(even);
  butterfly<4>(odd);
  const Point one = {(odd[1].re + odd[1].im) * kHalfRoot, (odd[1].im - odd[1].re) * kHalfRoot};
  const Point three = {(odd[3].im - odd[3].re) * kHalfRoot, (odd[3].re + odd[3].im) * -kHalfRoot};
  x[0] = even[0] + odd[0];
  x[4] = even[0] - odd[0];
  x[1] = even[1] + one;
  x[5] = even[1] - one;
  x[2] = minus_i(even[2], odd[2]);
  x[6] = plus_i(even[2], odd[2]);
  x[3] = even[3] + three;
  x[7] = even[3] - three;
}

// One pass over `count` transforms that lie side by side.
template <int R>
void pass(Point* x, int length, int count, const double* twiddles) {
  const int m = length / R;
  for (Point* end = x + static_cast<int64_t>(length) * count; x != end; x += length) {
    const double* turn = twiddles;
    for (int j = 0; j < m; ++j) {
      Point y[R];
#pragma GCC unroll 8
      for (int q = 0; q < R; ++q) y[q] = x[j + q * m];
      butterfly<R>(y);
      x[j] = y[0];
#pragma GCC unroll 8
      for (int q = 1; q < R; ++q, turn += 2) x[j + q * m] = m == 1 ? y[q] : turned(y[q], turn);
    }
  }
}

// The same for any odd radix, R or, where that is 0, `radix`: outputs q and radix - q from sums and differences.
template <int R>
void odd_pass(Point* x, int length, int count, const double* twiddles, const double* roots, int any) {
  const int radix = R == 0 ? any : R, half = radix / 2, m = length / radix;
  Point sums[kMaxRadix / 2], differences[kMaxRadix / 2];
  for (Point* end = x + static_cast<int64_t>(length) * count; x != end; x += length) {
    for (int j = 0; j < m; ++j) {
      const double* turn = twiddles + static_cast<int64_t>(j) * 2 * (radix - 1);
      const Point first = x[j];
      Point total = first;
      for (int i = 1; i <= half; ++i) {
        const Point a = x[j + i * m], b = x[j + (radix - i) * m];
        sums[i - 1] = a + b;
        differences[i - 1] = a - b;
        total = total + sums[i - 1];
      }
      x[j] = total;
      for (int q = 1; q <= half; ++q) {
        Point even = first, odd = {};
        for (int i = 1, at = q; i <= half; ++i) {
          even = even + times(sums[i - 1], roots[2 * at]);
          odd = odd + times(differences[i - 1], roots[2 * at + 1]);
          at += q;
          at -= at >= radix ? radix : 0;
        }
        x[j + q * m] = turned(minus_i(even, odd), turn + 2 * (q - 1));
        x[j + (radix - q) * m] = turned(plus_i(even, odd), turn + 2 * (radix - q - 1));
      }
    }
  }
}

void run_pass(const ComplexPlan& plan, const FftPass& p, Point* x, int count) {
  const double* twiddles = plan.tables.data() + p.twiddles;
  const double* roots = plan.tables.data() + p.roots;
  switch (p.radix) {
    case 2:
      return pass<2>(x, p.length, count, twiddles);
    case 3:
      return pass<3>(x, p.length, count, twiddles);
    case 4:
      return pass<4>(x, p.length, count, twiddles);
    case 5:
      return pass<5>(x, p.length, count, twiddles);
    case 8:
      return pass<8>(x, p.length, count, twiddles);
    case 7:
      return odd_pass<7>(x, p.length, count, twiddles, roots, 7);
    default:
      return odd_pass<0>(x, p.length, count, twiddles, roots, p.radix);
  }
}

// The passes from number `first` on, of one transform of their length.
void run_passes(const ComplexPlan& plan, int first, Point* x) {
  if (first == plan.n_passes) return;
  const FftPass* pass = plan.passes.data() + first;
  const int length = pass->length;
  if (length * static_cast<int64_t>(sizeof(Point)) <= kBlockBytes) {
    for (; first < plan.n_passes; ++first, ++pass) run_pass(plan, *pass, x, length / pass->length);
    return;
  }
  run_pass(plan, *pass, x, 1);
  const int m = length / pass->radix;
  for (int q = 0; q < pass->radix; ++q) run_passes(plan, first + 1, x + static_cast<int64_t>(q) * m);
}

// The complex transform of x [plan.points]; output k is at plan.position[k] afterwards. x has room for plan.work().
void transform(const FftPlan& plan, Point* x) {
  if (!plan.convolves) return run_passes(plan.passes, 0, x);
  const double *chirp = plan.chirp.data(), *kernel = plan.kernel.data();
  const int* position = plan.passes.position.data();
  const int length = plan.passes.length, points = plan.points;
  for (int i = 0; i < points; ++i) x[i] = turned(x[i], chirp + 2 * i);
  for (int i = points; i < length; ++i) x[i] = Point{};
  run_passes(plan.passes, 0, x);
  // A transform of swapped parts is the inverse transform, swapped and times the length, which the kernel holds.
  Point* y = x + length;
  for (int k = 0; k < length; ++k) {
    const Point a = x[position[k]];
    const double* w = kernel + 2 * k;
    y[k] = Point{a.re * w[1] + a.im * w[0], a.re * w[0] - a.im * w[1]};
  }
  run_passes(plan.passes, 0, y);
  for (int k = 0; k < points; ++k) {
    const Point a = y[position[k]];
    x[k] = turned(Point{a.im, a.re}, chirp + 2 * k);
  }
}

// power [n_fft / 2 + 1] of the real frame whose samples, two by two or one by one, x was before its transform.
void powers(const FftPlan& plan, const Point* x, Wide* power) {
  const int* position = plan.position.data();
  if (plan.n_fft % 2) {
    for (int k = 0; k <= plan.n_fft / 2; ++k) {
      const Point a = x[position[k]];
      power[k] = a.re * a.re + a.im * a.im;
    }
    return;
  }
  const int half = plan.points;
  const Wide first = x[0].re + x[0].im, last = x[0].re - x[0].im;
  power[0] = first * first;
  power[half] = last * last;
  for (int k = 1; k <= half / 2; ++k) {
    const Point a = x[position[k]], b = x[position[half - k]];
    // Twice the even part E and the odd part O of the frame: X[k] = E + e^(-2 pi i k / n_fft) O, and X[half - k] is
    // the conjugate of E - ...
    const Point even = {a.re + b.re, a.im - b.im}, odd = {a.im + b.im, b.re - a.re};
    const Point turn = turned(odd, plan.split.data() + 2 * k), p = even + turn, q = even - turn;
    power[k] = (p.re * p.re + p.im * p.im) * 0.25;
    power[half - k] = (q.re * q.re + q.im * q.im) * 0.25;
  }
}

}  // namespace
}  // namespace fcntag
