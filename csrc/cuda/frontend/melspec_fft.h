// The FFT of one frame by half a warp: 512 real samples as 256 complex ones, in 16 x 16 points.
//
// Each of the 16 lanes holds 16 points in registers: a DFT of the columns, a transposition through shared memory, a DFT
// of the rows. Bin b = l + 16 k ends in register k of lane l. Splitting it into the real signal's bins b and 256 - b
// needs register 15 - k of lane 16 - l (lane 0: its own register 16 - k).
#pragma once

#include <cstdint>

#include "cuda/device/device.h"

namespace fcntag {
namespace cuda {

// Shared memory of a frame: 16 rows of 16 complex floats or doubles (then real and imaginary parts in turn), each row
// one element longer so that columns do not share banks; 512 samples at the edge of a clip; half of 257 pairs of
// powers.
constexpr int kMelRow = 17;
constexpr int kMelFrameBytes = 16 * kMelRow * 8;

template <typename Real>
struct alignas(2 * sizeof(Real)) Complex {
  Real re, im;
};

// a * (c + i s)
template <typename Real>
FCNTAG_DEVICE Complex<Real> times(Complex<Real> a, Real c, Real s) {
  return {a.re * c - a.im * s, a.re * s + a.im * c};
}

template <typename Real>
FCNTAG_DEVICE void dft4(Complex<Real>& a, Complex<Real>& b, Complex<Real>& c, Complex<Real>& d) {
  const Complex<Real> s = {a.re + c.re, a.im + c.im}, t = {a.re - c.re, a.im - c.im};
  const Complex<Real> u = {b.re + d.re, b.im + d.im}, v = {b.im - d.im, d.re - b.re};  // v = -i (b - d)
  a = {s.re + u.re, s.im + u.im};
  b = {t.re + v.re, t.im + v.im};
  c = {s.re - u.re, s.im - u.im};
  d = {t.re - v.re, t.im - v.im};
}

// In order, in place: four DFTs of four, twiddles e^(-2 pi i j k / 16), four DFTs of four, transposed. Every index is
// known when compiling: the transposition renames registers.
template <typename Real>
FCNTAG_DEVICE void dft16(Complex<Real> (&z)[16]) {
  const Real c1 = static_cast<Real>(0.92387953251128675613), s1 = static_cast<Real>(0.38268343236508977173);
  const Real r = static_cast<Real>(0.70710678118654752440);
  FCNTAG_UNROLL for (int j = 0; j < 4; ++j) dft4(z[j], z[j + 4], z[j + 8], z[j + 12]);
  z[5] = times(z[5], c1, -s1);
  z[6] = times(z[6], r, -r);
  z[7] = times(z[7], s1, -c1);
  z[9] = times(z[9], r, -r);
  z[10] = {z[10].im, -z[10].re};
  z[11] = times(z[11], -r, -r);
  z[13] = times(z[13], s1, -c1);
  z[14] = times(z[14], -r, -r);
  z[15] = times(z[15], -c1, s1);
  FCNTAG_UNROLL for (int k = 0; k < 4; ++k) dft4(z[4 * k], z[4 * k + 1], z[4 * k + 2], z[4 * k + 3]);
  FCNTAG_UNROLL for (int k = 0; k < 4; ++k) {
    FCNTAG_UNROLL for (int j = k + 1; j < 4; ++j) {
      const Complex<Real> t = z[4 * k + j];
      z[4 * k + j] = z[4 * j + k];
      z[4 * j + k] = t;
    }
  }
}

// Register k of lane l -> register l of lane k, within half a warp.
FCNTAG_DEVICE void transpose(Complex<float> (&z)[16], uint8_t* shared, int l) {
  Complex<float>* rows = reinterpret_cast<Complex<float>*>(shared);
  FCNTAG_UNROLL for (int k = 0; k < 16; ++k) rows[l * kMelRow + k] = z[k];
  dev::sync_warp();
  FCNTAG_UNROLL for (int k = 0; k < 16; ++k) z[k] = rows[k * kMelRow + l];
  dev::sync_warp();
}
FCNTAG_DEVICE void transpose(Complex<double> (&z)[16], uint8_t* shared, int l) {
  double* rows = reinterpret_cast<double*>(shared);
  FCNTAG_UNROLL for (int k = 0; k < 16; ++k) rows[l * kMelRow + k] = z[k].re;
  dev::sync_warp();
  FCNTAG_UNROLL for (int k = 0; k < 16; ++k) z[k].re = rows[k * kMelRow + l];
  dev::sync_warp();
  FCNTAG_UNROLL for (int k = 0; k < 16; ++k) rows[l * kMelRow + k] = z[k].im;
  dev::sync_warp();
  FCNTAG_UNROLL for (int k = 0; k < 16; ++k) z[k].im = rows[k * kMelRow + l];
  dev::sync_warp();
}

// power [257][2 frames], of which this half warp writes its own, from the FFT z of the halved samples: with E and O the
// DFTs of the even and the odd ones, X[b] = E + e^(-2 pi i b / 512) O and X[256 - b] = conj(E - the same).
template <typename Real>
FCNTAG_DEVICE void split(const Complex<Real>* twiddles, const Complex<Real> (&z)[16], int lane, Real* power) {
  const int l = lane & 15, half = lane >> 4, partner = (lane & 16) | ((16 - l) & 15);
  FCNTAG_UNROLL for (int k = 0; k < 8; ++k) {
    const Complex<Real> given = l == 0 ? z[(16 - k) & 15] : z[15 - k];
    const Complex<Real> other = {dev::shuffle(given.re, partner), dev::shuffle(given.im, partner)};
    const Complex<Real> even = {z[k].re + other.re, z[k].im - other.im};
    const Complex<Real> odd = {z[k].im + other.im, other.re - z[k].re};
    const int b = l + 16 * k;
    const Complex<Real> w = twiddles[b], turned = times(odd, w.re, w.im);
    const Complex<Real> low = {even.re + turned.re, even.im + turned.im};
    const Complex<Real> high = {even.re - turned.re, even.im - turned.im};
    power[2 * b + half] = low.re * low.re + low.im * low.im;
    power[2 * (256 - b) + half] = high.re * high.re + high.im * high.im;
  }
  if (l == 0) power[2 * 128 + half] = 4 * (z[8].re * z[8].re + z[8].im * z[8].im);  // its own partner
}

}  // namespace cuda
}  // namespace fcntag
