// The DFT of n complex points of any number by a group of lanes: one pass for each factor of n.
//
// A pass takes its points from one buffer and leaves them in the other, in such an order that the last one leaves the
// DFT in order (Stockham). Where a factor of n is a large prime, the DFT is a convolution (Bluestein), made of two
// transforms of a power of two of points.
#pragma once

#include <cstdint>

#include "cuda/device/device.h"
#include "cuda/frontend/melspec_fft.h"

namespace fcntag {
namespace cuda {

constexpr int kMaxFftPasses = 12;  // 3^8 <= 8191 < 3^9, and 4^7 is the largest convolution

struct FftPass {
  int radix;
  int before;             // product of the radices of the passes before
  int step;               // points / (before * radix): twiddles from one butterfly to the next
  uint32_t by_before;     // floor(2^32 / before) + 1; not used where before is 1
  uint32_t by_butterfly;  // the same of before * radix
  int apart;              // points / radix: from one point of a butterfly to the next
};

template <typename Real>
struct Fft {
  int size;    // points of the DFT
  int points;  // of the passes: size, or that of the convolution
  bool convolution;
  int n_passes;
  FftPass passes[kMaxFftPasses];
  const Complex<Real>* twiddles;  // [points]: e^(-2 pi i k / points)
  const Complex<Real>* chirp;     // convolution: [size], e^(-pi i k^2 / size)
  const Complex<Real>* kernel;    // convolution: [points], the DFT of the conjugate chirp, divided by `points`
};

// value / divisor of small integers: value * divisor < 2^32, and `inverse` is floor(2^32 / divisor) + 1.
FCNTAG_DEVICE int divided(int value, uint32_t inverse) {
  return static_cast<int>(static_cast<uint64_t>(static_cast<uint32_t>(value)) * inverse >> 32);
}

template <typename Real>
FCNTAG_DEVICE Complex<Real> product(Complex<Real> a, Complex<Real> b) {
  return times(a, b.re, b.im);
}

template <typename Real>
FCNTAG_DEVICE void small_dft(Complex<Real> (&z)[2]) {
  const Complex<Real> a = z[0];
  z[0] = {a.re + z[1].re, a.im + z[1].im};
  z[1] = {a.re - z[1].re, a.im - z[1].im};
}
template <typename Real>
FCNTAG_DEVICE void small_dft(Complex<Real> (&z)[3]) {
  const Real sine = static_cast<Real>(0.86602540378443864676);
  const Complex<Real> sum = {z[1].re + z[2].re, z[1].im + z[2].im};
  const Complex<Real> turned = {sine * (z[1].im - z[2].im), sine * (z[2].re - z[1].re)};  // -i sine (z1 - z2)
  const Complex<Real> middle = {z[0].re - sum.re / 2, z[0].im - sum.im / 2};
  z[0] = {z[0].re + sum.re, z[0].im + sum.im};
  z[1] = {middle.re + turned.re, middle.im + turned.im};
  z[2] = {middle.re - turned.re, middle.im - turned.im};
}
template <typename Real>
FCNTAG_DEVICE void small_dft(Complex<Real> (&z)[4]) {
  dft4(z[0], z[1], z[2], z[3]);
}
template <typename Real>
FCNTAG_DEVICE void small_dft(Complex<Real> (&z)[5]) {
  const Real c1 = static_cast<Real>(0.30901699437494742410), s1 = static_cast<Real>(0.95105651629515357212);
  const Real c2 = static_cast<Real>(-0.80901699437494742410), s2 = static_cast<Real>(0.58778525229247312917);
  const Complex<Real> a = {z[1].re + z[4].re, z[1].im + z[4].im}, b = {z[2].re + z[3].re, z[2].im + z[3].im};
  const Complex<Real> d = {z[1].im - z[4].im, z[4].re - z[1].re}, e = {z[2].im - z[3].im, z[3].re - z[2].re};
  const Complex<Real> p = {z[0].re + c1 * a.re + c2 * b.re, z[0].im + c1 * a.im + c2 * b.im};
  const Complex<Real> q = {z[0].re + c2 * a.re + c1 * b.re, z[0].im + c2 * a.im + c1 * b.im};
  const Complex<Real> r = {s1 * d.re + s2 * e.re, s1 * d.im + s2 * e.im};
  const Complex<Real> t = {s2 * d.re - s1 * e.re, s2 * d.im - s1 * e.im};
  z[0] = {z[0].re + a.re + b.re, z[0].im + a.im + b.im};
  z[1] = {p.re + r.re, p.im + r.im};
  z[4] = {p.re - r.re, p.im - r.im};
  z[2] = {q.re + t.re, q.im + t.im};
  z[3] = {q.re - t.re, q.im - t.im};
}

// The pass of a radix that has a DFT above: a lane takes whole butterflies.
template <int kRadix, typename Real>
FCNTAG_DEVICE void butterflies(const Fft<Real>& fft, const FftPass& pass, const Complex<Real>* from, Complex<Real>* to,
                               int lane, int lanes) {
  const int count = fft.points / kRadix;
  FCNTAG_NO_UNROLL for (int j = lane; j < count; j += lanes) {
    Complex<Real> z[kRadix];
    FCNTAG_UNROLL for (int q = 0; q < kRadix; ++q) z[q] = from[j + q * count];
    int group = j, k = 0;  // in the first pass all twiddles are 1
    if (pass.before > 1) {
      group = divided(j, pass.by_before);
      k = j - group * pass.before;
      FCNTAG_UNROLL for (int q = 1; q < kRadix; ++q) z[q] = product(z[q], fft.twiddles[q * k * pass.step]);
    }
    small_dft(z);
    Complex<Real>* out = to + group * (pass.before * kRadix) + k;
    FCNTAG_UNROLL for (int q = 0; q < kRadix; ++q) out[q * pass.before] = z[q];
  }
}

// The pass of any radix, by its definition: a lane takes whole sums.
template <typename Real>
FCNTAG_DEVICE void direct_sums(const Fft<Real>& fft, const FftPass& pass, const Complex<Real>* from, Complex<Real>* to,
                               int lane, int lanes) {
  const int whole = pass.before * pass.radix, apart = pass.apart;
  FCNTAG_NO_UNROLL for (int o = lane; o < fft.points; o += lanes) {
    const int group = divided(o, pass.by_butterfly), inside = o - group * whole;
    const int k = pass.before > 1 ? inside - divided(inside, pass.by_before) * pass.before : 0;
    const Complex<Real>* in = from + group * pass.before + k;
    const int turn = inside * pass.step;  // of the twiddle from one summand to the next
    Complex<Real> sum = in[0];
    int at = turn;
    FCNTAG_NO_UNROLL for (int q = 1; q < pass.radix; ++q) {
      const Complex<Real> term = product(in[q * apart], fft.twiddles[at]);
      sum = {sum.re + term.re, sum.im + term.im};
      at += turn;
      if (at >= fft.points) at -= fft.points;
    }
    to[o] = sum;
  }
}

// All passes; returns the buffer that has the DFT. Called by all threads of a block: lane of lanes shares in the points
// of its own group, and barriers are the block's. The points of `from` are there after a barrier.
template <typename Real>
FCNTAG_DEVICE Complex<Real>* run_passes(const Fft<Real>& fft, Complex<Real>* from, Complex<Real>* to, int lane,
                                        int lanes) {
  FCNTAG_NO_UNROLL for (int i = 0; i < fft.n_passes; ++i) {
    const FftPass& pass = fft.passes[i];
    switch (pass.radix) {
      case 2:
        butterflies<2>(fft, pass, from, to, lane, lanes);
        break;
      case 3:
        butterflies<3>(fft, pass, from, to, lane, lanes);
        break;
      case 4:
        butterflies<4>(fft, pass, from, to, lane, lanes);
        break;
      case 5:
        butterflies<5>(fft, pass, from, to, lane, lanes);
        break;
      default:
        direct_sums(fft, pass, from, to, lane, lanes);
    }
    dev::sync();
    Complex<Real>* const other = from;
    from = to;
    to = other;
  }
  return from;
}

// The DFT of `size` points in `from`; `from` and `to` have room for `points`. As run_passes otherwise.
template <typename Real>
FCNTAG_DEVICE Complex<Real>* transform(const Fft<Real>& fft, Complex<Real>* from, Complex<Real>* to, int lane,
                                       int lanes) {
  if (!fft.convolution) return run_passes(fft, from, to, lane, lanes);
  // j k = (j^2 + k^2 - (k - j)^2) / 2: a product with the chirp before and behind a convolution with its conjugate.
  for (int k = lane; k < fft.points; k += lanes) {
    from[k] = k < fft.size ? product(from[k], fft.chirp[k]) : Complex<Real>{0, 0};
  }
  dev::sync();
  Complex<Real>* z = nullptr;
  FCNTAG_NO_UNROLL for (int way = 0; way < 2; ++way) {  // one copy of the passes' code serves both ways
    z = run_passes(fft, from, to, lane, lanes);
    // The inverse is the conjugate of the DFT of the conjugates.
    const int count = way == 0 ? fft.points : fft.size;
    for (int k = lane; k < count; k += lanes) {
      const Complex<Real> w = way == 0 ? fft.kernel[k] : fft.chirp[k], x = z[k];
      if (way == 0) {
        const Complex<Real> both = product(x, w);
        z[k] = {both.re, -both.im};
      } else {
        z[k] = product(Complex<Real>{x.re, -x.im}, w);
      }
    }
    dev::sync();
    if (z != from) to = from, from = z;
  }
  return z;
}

}  // namespace cuda
}  // namespace fcntag
