// The front end of frames of any length, and of every setting: spectra by fft.h, filters, logarithm. Real is double or
// float: the type that all of it is computed in.
//
// A block has one frame, or several short ones; each has a group of its threads. They share in a frame's points, and
// then in its bands: several lanes sum one band, which may span thousands of bins.
#pragma once

#include <cstdint>

#include "cuda/device/device.h"
#include "cuda/frontend/block_maximum.h"
#include "cuda/frontend/fft.h"
#include "cuda/frontend/sample.h"
#include "cuda/frontend/scaling.h"
#include "cuda/open_io.h"
#include "model/melspec_config.h"

namespace fcntag {
namespace cuda {

constexpr int kGeneralWarps = 8;
constexpr int kGeneralThreads = 32 * kGeneralWarps, kGeneralShift = 8;  // 1 << 8 threads
static_assert(kGeneralThreads == 1 << kGeneralShift, "shifts take the place of divisions");
constexpr int kGeneralHead = 64;  // bytes of shared memory in front of the buffers: a float per warp

struct WideBand {
  int32_t begin, count;  // bins [begin, begin + count)
  int32_t offset;        // of the first weight; the others follow it
};

template <typename Real>
struct GeneralParams {
  IoSource io;
  const float* waves;  // [batch, n_samples], or null: io->waves
  float* out;          // [batch, n_mels, n_frames] or [batch, n_frames, n_mels]; not used with `raw`
  Real* raw;           // [batch, n_mels, n_frames], or null: values that a kernel behind this one finishes
  float* maxima;       // [batch, gridDim.x]: of each block's values, or null
  uint8_t* buffers;    // [gridDim.y][gridDim.x][frames][2][points] complex numbers; not used where they are shared
  Fft<Real> fft;
  // [n_fft] samples' weights. A DFT of half the points takes pairs of samples, and halves of the weights.
  const Real* window;
  const Complex<Real>* halves;  // [size / 2 + 1]: e^(-2 pi i k / n_fft); null where the DFT has n_fft points
  const WideBand* bands;        // [n_mels]
  const Real* weights;
  MelScaling scaling;  // kNone where the values are not final
  int64_t n_samples, pad_left;
  int batch, n_fft, hop_length, n_frames, n_mels;
  int frames;                   // of a block; a power of two
  int band_lanes;               // that sum one band; a power of two, at most 32 and at most the threads of a frame
  int frame_shift, band_shift;  // of which power
  int power_exponent;
  bool reflect, float16, magnitude, time_mel;
  LogKind log;
  Real gain, amin, offset;
};

FCNTAG_DEVICE float square_root(float x) { return sqrtf(x); }
FCNTAG_DEVICE double square_root(double x) { return sqrt(x); }
FCNTAG_DEVICE float log_above_one(float x) { return log1pf(x); }
FCNTAG_DEVICE double log_above_one(double x) { return log1p(x); }

// The windowed samples of the frame at `start`, as points of the DFT.
template <typename Real>
FCNTAG_DEVICE void load_points(const GeneralParams<Real>& p, const float* wave, int64_t start, int lane, int lanes,
                               Complex<Real>* points) {
  const bool inside = start >= 0 && start + p.n_fft <= p.n_samples;
  for (int j = lane; j < p.fft.size; j += lanes) {
    const int i = p.halves != nullptr ? 2 * j : j;
    Complex<Real> z = {0, 0};
    z.re = (inside ? wave[start + i] : sample(wave, p.n_samples, start + i, p.reflect)) * p.window[i];
    if (p.halves != nullptr) {
      z.im = (inside ? wave[start + i + 1] : sample(wave, p.n_samples, start + i + 1, p.reflect)) * p.window[i + 1];
    }
    points[j] = z;
  }
}

// Power or magnitude [n_fft / 2 + 1] from the DFT z. With E and O the DFTs of the even and the odd samples, those of a
// pair's halves give X[b] = E + e^(-2 pi i b / n_fft) O and X[size - b] = conj(E - the same).
template <typename Real>
FCNTAG_DEVICE void split_bins(const GeneralParams<Real>& p, const Complex<Real>* z, int lane, int lanes, Real* bins) {
  const int size = p.fft.size;
  for (int b = lane; b <= size / 2; b += lanes) {
    Complex<Real> low = z[b], high = {0, 0};
    if (p.halves != nullptr) {
      const Complex<Real> one = z[b], other = z[b == 0 ? 0 : size - b];
      const Complex<Real> even = {one.re + other.re, one.im - other.im};
      const Complex<Real> turned = product({one.im + other.im, other.re - one.re}, p.halves[b]);
      low = {even.re + turned.re, even.im + turned.im};
      high = {even.re - turned.re, even.im - turned.im};
    }
    Real first = low.re * low.re + low.im * low.im, last = high.re * high.re + high.im * high.im;
    if (p.magnitude) first = square_root(first), last = square_root(last);
    if (p.halves != nullptr) bins[size - b] = last;
    bins[b] = first;  // of its own partner too
  }
}

template <typename Real>
FCNTAG_DEVICE Real compressed(const GeneralParams<Real>& p, Real value) {
  if (p.power_exponent == 2) value *= value;
  if (p.float16) value = in_half_precision(value);
  const Real above = value > p.amin ? value : p.amin;
  switch (p.log) {
    case LogKind::kDb:
      return natural_log(above) * static_cast<Real>(4.34294481903251827651);
    case LogKind::kLog10p1:
      return natural_log(value * p.gain + 1) * static_cast<Real>(0.434294481903251827651);
    case LogKind::kLog1p:
      return log_above_one(value * p.gain);
    case LogKind::kLn:
      return natural_log(above + p.offset);
    case LogKind::kLog10:
      return natural_log(above + p.offset) * static_cast<Real>(0.434294481903251827651);
    default:
      return value;
  }
}

// The bands of frame t of `clip`; returns the largest of this lane's values. All lanes of a warp call it together.
template <typename Real>
FCNTAG_DEVICE float write_bands(const GeneralParams<Real>& p, const Real* bins, int64_t clip, int t, bool exists,
                                int lane, int lanes) {
  const int part = lane & (p.band_lanes - 1), first = lane >> p.band_shift, step = lanes >> p.band_shift;
  const int64_t image = clip * p.n_mels * p.n_frames;
  float maximum = -INFINITY;
  FCNTAG_NO_UNROLL for (int begin = 0; begin < p.n_mels; begin += step) {
    const int m = begin + first;
    Real sum = 0;
    if (m < p.n_mels) {
      const WideBand band = p.bands[m];
      const Real* weight = p.weights + band.offset;
      for (int i = part; i < band.count; i += p.band_lanes) sum += weight[i] * bins[band.begin + i];
    }
    FCNTAG_NO_UNROLL for (int other = p.band_lanes / 2; other > 0; other /= 2) sum += dev::shuffle_xor(sum, other);
    if (part != 0 || m >= p.n_mels || !exists) continue;
    const Real raw = compressed(p, sum);
    const int64_t by_mel = image + static_cast<int64_t>(m) * p.n_frames + t;
    const float value = scaled(p.scaling, raw, m, t);
    maximum = fmaxf(maximum, value);
    if (p.raw != nullptr) {
      p.raw[by_mel] = raw;
    } else {
      p.out[p.time_mel ? image + static_cast<int64_t>(t) * p.n_mels + m : by_mel] = value;
    }
  }
  return maximum;
}

// Grid: (blocks that share a clip's frames, blocks that share the clips). Shared memory: kGeneralHead bytes, and with
// kShared the two buffers of every frame of a block.
template <typename Real, bool kShared>
FCNTAG_KERNEL(kGeneralThreads, 1)
melspec_general(const FCNTAG_GRID_CONSTANT GeneralParams<Real> p) {
  const int thread = static_cast<int>(threadIdx.x);
  const int lanes = kGeneralThreads >> p.frame_shift, lane = thread & (lanes - 1);
  const int group = thread >> (kGeneralShift - p.frame_shift);
  dev::release_successors();
  dev::wait_for_predecessors();
  const Io io = open_io(p.io);
  float* slots = reinterpret_cast<float*>(dev::shared_memory());
  const int64_t own = kShared ? 0 : static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x;
  uint8_t* memory = kShared ? dev::shared_memory() + kGeneralHead : p.buffers;
  Complex<Real>* const a = reinterpret_cast<Complex<Real>*>(memory) + (own * p.frames + group) * 2 * p.fft.points;
  Complex<Real>* const b = a + p.fft.points;
  const int clips = io.count < p.batch ? io.count : p.batch;
  FCNTAG_NO_UNROLL for (int clip = static_cast<int>(blockIdx.y); clip < clips; clip += static_cast<int>(gridDim.y)) {
    const float* wave =
        dev::global(p.waves == nullptr ? io.waves + clip * io.wave_stride : p.waves + clip * p.n_samples);
    float maximum = -INFINITY;
    const int all = static_cast<int>(gridDim.x) * p.frames;
    FCNTAG_NO_UNROLL for (int64_t first = blockIdx.x * p.frames; first < p.n_frames; first += all) {
      // A group without a frame repeats the last one; nobody sees its result.
      const bool exists = first + group < p.n_frames;
      const int t = exists ? static_cast<int>(first) + group : p.n_frames - 1;
      load_points(p, wave, static_cast<int64_t>(t) * p.hop_length - p.pad_left, lane, lanes, a);
      dev::sync();
      const Complex<Real>* z = transform(p.fft, a, b, lane, lanes);
      Real* bins = reinterpret_cast<Real*>(z == a ? b : a);
      split_bins(p, z, lane, lanes, bins);
      dev::sync();
      maximum = fmaxf(maximum, write_bands(p, bins, clip, t, exists, lane, lanes));
      dev::sync();  // the next frame's points take the place of the bins
    }
    maximum = block_maximum<kGeneralWarps>(maximum, slots);
    if (p.maxima != nullptr && thread == 0) p.maxima[static_cast<int64_t>(clip) * gridDim.x + blockIdx.x] = maximum;
  }
}

}  // namespace cuda
}  // namespace fcntag
