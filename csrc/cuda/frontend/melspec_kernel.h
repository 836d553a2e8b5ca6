// The melspec kernels. Real is double or float: what FFT, filters and log are computed in.
//
// A block makes the log-mel of kMelFrames frames. Half a warp has one frame: its 512 real samples are 256 complex ones,
// whose FFT is 16 x 16 points: 16 lanes with 16 points each in registers, a DFT of the columns, a transposition through
// shared memory, a DFT of the rows. Bin b = l + 16 k ends in register k of lane l; splitting it into the real signal's
// bins b and 256 - b needs register 15 - k of lane 16 - l (lane 0: its own register 16 - k). Then the warp turns to its
// two frames' powers, side by side in shared memory: a lane per mel band, both frames at once.
#pragma once

#include "cuda/device/device.h"
#include "cuda/io.h"
#include "cuda/frontend/scaling.h"

namespace fcntag {
namespace cuda {

constexpr int kMelWarps = 4;
constexpr int kMelThreads = 32 * kMelWarps;
constexpr int kMelFrames = 2 * kMelWarps;  // of a block
// Shared memory of a frame: 16 rows of 16 complex floats or doubles (then real and imaginary parts in turn), each row
// one element longer so that columns do not share banks; 512 samples at the edge of a clip; half of 257 pairs of
// powers.
constexpr int kMelRow = 17;
constexpr int kMelFrameBytes = 16 * kMelRow * 8;
// Floats per band of staged output: with an odd number, lanes that write neighbouring bands share no bank.
constexpr int kMelStage = kMelFrames + 1;
constexpr std::size_t kMelFixedBytes = kMelFrames * kMelFrameBytes + 16;

template <typename Real>
struct alignas(2 * sizeof(Real)) Complex {
  Real re, im;
};

struct alignas(8) MelBand {
  uint16_t begin, count;  // bins [begin, begin + count)
  int32_t offset;         // of the first weight; the next one lies 32 behind it: those of 32 bands are interleaved
};

template <typename Real>
struct MelParams {
  const Io* io;
  const float* waves;                   // [batch, n_samples], or null: io->waves
  float* out;                           // [batch, n_mels, n_frames] or [batch, n_frames, n_mels]
  float* maxima;                        // [batch, gridDim.x]: of each block's values, or null
  const Complex<Real>* window;          // [256]: halves of w[2 i], w[2 i + 1]; split() counts on the half
  const Complex<Real>* inner_twiddles;  // [16][16]: e^(-2 pi i j k / 256)
  const Complex<Real>* outer_twiddles;  // [128]: e^(-2 pi i k / 512)
  const MelBand* bands;                 // [n_mels]
  const Real* weights;
  MelScaling scaling;  // kNone where the values are not final
  int64_t n_samples, pad_left;
  int hop_length, n_frames, n_mels;
  int power_exponent;
  bool reflect, float16, db, time_mel;
  Real gain, amin;
};

// ---- the FFT ----

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

// Sample at position i of the clip extended beyond its ends, as numpy.pad does.
FCNTAG_DEVICE float sample(const float* wave, int64_t n_samples, int64_t i, bool reflect) {
  if (i < 0 || i >= n_samples) {
    if (!reflect) return 0;
    const int64_t period = 2 * (n_samples - 1);
    if (period == 0) return wave[0];
    i = (i < 0 ? -i : i) % period;
    if (i >= n_samples) i = period - i;
  }
  return wave[i];
}

// Windowed samples of the frame that starts at `start`; register i of lane l: samples 32 i + 2 l and the next.
// `inside`, the same in a whole block: no sample lies outside the clip.
template <typename Real>
FCNTAG_DEVICE void load_frame(const MelParams<Real>& p, const float* wave, int64_t start, bool inside, uint8_t* shared,
                              int l, Complex<Real> (&z)[16]) {
  if (inside) {
    const float* x = wave + start + 2 * l;
    FCNTAG_UNROLL for (int i = 0; i < 16; ++i) {
      const Complex<Real> w = p.window[16 * i + l];
      z[i] = {x[32 * i] * w.re, x[32 * i + 1] * w.im};
    }
    return;
  }
  float* samples = reinterpret_cast<float*>(shared);
  FCNTAG_NO_UNROLL for (int i = l; i < 512; i += 16) samples[i] = sample(wave, p.n_samples, start + i, p.reflect);
  dev::sync_warp();
  FCNTAG_UNROLL for (int i = 0; i < 16; ++i) {
    const Complex<float> x = reinterpret_cast<const Complex<float>*>(samples)[16 * i + l];
    const Complex<Real> w = p.window[16 * i + l];
    z[i] = {x.re * w.re, x.im * w.im};
  }
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

// ---- what follows it ----

FCNTAG_DEVICE float natural_log(float x) { return logf(x); }
FCNTAG_DEVICE double natural_log(double x) { return log(x); }

template <typename Real>
FCNTAG_DEVICE Real compress(const MelParams<Real>& p, Real power) {
  if (p.power_exponent == 2) power *= power;
  if (p.float16) {  // the original held float32 before; beyond 65504 it became infinite and its scores NaN
    const float kept = power < Real(65504) ? static_cast<float>(power) : 65504.0f;
    power = dev::from_float16(dev::to_float16(kept));
  }
  if (p.db) return natural_log(power > p.amin ? power : p.amin) * static_cast<Real>(4.34294481903251827651);
  return natural_log(power * p.gain + 1) * static_cast<Real>(0.434294481903251827651);
}

// The largest of all threads' `value`, for all of them; `slots` holds a float per warp.
template <int kWarps>
FCNTAG_DEVICE float block_maximum(float value, float* slots) {
  const int thread = static_cast<int>(threadIdx.x);
  FCNTAG_UNROLL for (int other = 16; other > 0; other /= 2) value = fmaxf(value, dev::shuffle_xor(value, other));
  if ((thread & 31) == 0) slots[thread >> 5] = value;
  dev::sync();
  FCNTAG_UNROLL for (int warp = 0; warp < kWarps; ++warp) value = fmaxf(value, slots[warp]);
  return value;
}

// Grid: (blocks of kMelFrames frames, clips). Shared memory: kMelFixedBytes + n_mels * kMelStage floats.
// The blocks per multiprocessor bound registers: in double to 128, one block more would spill; in float to 80, what the
// compiler takes by itself, kept so that it stays there.
template <typename Real>
FCNTAG_KERNEL(kMelThreads, sizeof(Real) == 4 ? 6 : 4)
melspec(const FCNTAG_GRID_CONSTANT MelParams<Real> p) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread & 31, warp = thread >> 5;
  const int clip = static_cast<int>(blockIdx.y), first = static_cast<int>(blockIdx.x) * kMelFrames;
  dev::release_successors();
  dev::wait_for_predecessors();
  const Io io = *p.io;
  if (clip >= io.count) return;
  const float* wave = dev::global(p.waves == nullptr ? io.waves + clip * io.wave_stride : p.waves + clip * p.n_samples);
  uint8_t* warp_bytes = dev::shared_memory() + 2 * warp * kMelFrameBytes;
  float* maxima = reinterpret_cast<float*>(dev::shared_memory() + kMelFrames * kMelFrameBytes);
  float* stage = maxima + kMelWarps;

  // Half a warp without a frame repeats the last one; nobody sees its result.
  const int last = first + kMelFrames < p.n_frames ? first + kMelFrames - 1 : p.n_frames - 1;
  const int pair = first + 2 * warp, own = pair + (lane >> 4) < last ? pair + (lane >> 4) : last;
  const bool inside = static_cast<int64_t>(first) * p.hop_length >= p.pad_left &&
                      static_cast<int64_t>(last) * p.hop_length - p.pad_left + 512 <= p.n_samples;
  Real* power = reinterpret_cast<Real*>(warp_bytes);
  {
    uint8_t* frame_bytes = warp_bytes + (lane >> 4) * kMelFrameBytes;
    const int l = lane & 15;
    Complex<Real> z[16];
    load_frame(p, wave, static_cast<int64_t>(own) * p.hop_length - p.pad_left, inside, frame_bytes, l, z);
    dft16(z);
    FCNTAG_UNROLL for (int k = 1; k < 16; ++k) {
      const Complex<Real> w = p.inner_twiddles[16 * k + l];
      z[k] = times(z[k], w.re, w.im);
    }
    transpose(z, frame_bytes, l);
    dft16(z);
    split(p.outer_twiddles, z, lane, power);
    dev::sync_warp();
  }

  float* out = p.out + static_cast<int64_t>(clip) * p.n_mels * p.n_frames;
  const Complex<Real>* bins = reinterpret_cast<const Complex<Real>*>(power);  // of two frames
  float maximum = -INFINITY;
  FCNTAG_NO_UNROLL for (int m = lane; m < p.n_mels; m += 32) {
    const MelBand band = p.bands[m];
    const Real* weight = p.weights + band.offset;
    Real sums[2] = {0, 0};
    for (int i = 0; i < band.count; ++i) {
      const Complex<Real> both = bins[band.begin + i];
      sums[0] += weight[32 * i] * both.re;
      sums[1] += weight[32 * i] * both.im;
    }
    FCNTAG_UNROLL for (int f = 0; f < 2; ++f) {
      const int t = pair + f;
      if (t > last) break;
      const float value = scaled(p.scaling, compress(p, sums[f]), m, t);
      maximum = fmaxf(maximum, value);
      if (p.time_mel) {
        out[static_cast<int64_t>(t) * p.n_mels + m] = value;
      } else {
        stage[m * kMelStage + 2 * warp + f] = value;
      }
    }
  }
  maximum = block_maximum<kMelWarps>(maximum, maxima);  // its barrier is the stage's too
  if (p.maxima != nullptr && thread == 0) p.maxima[static_cast<int64_t>(clip) * gridDim.x + blockIdx.x] = maximum;
  if (p.time_mel) return;
  for (int i = thread; i < p.n_mels * kMelFrames; i += kMelThreads) {
    const int m = i / kMelFrames, f = i % kMelFrames;
    if (first + f <= last) out[static_cast<int64_t>(m) * p.n_frames + first + f] = stage[m * kMelStage + f];
  }
}

// ---- what needs the whole clip ----

constexpr int kFinishWarps = 8;
constexpr int kFinishThreads = 32 * kFinishWarps;
constexpr int kMomentParts = 64;  // of a clip, each summed by one block

struct FinishParams {
  const Io* io;
  float* data;          // [batch][size], raw values; finish() turns them into the output
  const float* maxima;  // [batch][maxima_count], or null: no floor, no reference
  double* moments;      // [batch][kMomentParts]{sum, squares of deviations}, or null: not standardised
  MelScaling scaling;
  int size, maxima_count, n_mels, n_frames;
  bool ref_max, time_mel;
  float top_db;  // 0: no floor
};

// The clip's maximum; called by all threads of a block.
FCNTAG_DEVICE float clip_maximum(const FinishParams& p, int clip, float* slots) {
  float maximum = -INFINITY;
  const float* maxima = p.maxima + static_cast<int64_t>(clip) * p.maxima_count;
  for (int i = static_cast<int>(threadIdx.x); i < p.maxima_count; i += kFinishThreads)
    maximum = fmaxf(maximum, maxima[i]);
  return block_maximum<kFinishWarps>(maximum, slots);
}

// The sum of all threads' `value`, for all of them, in a fixed order.
FCNTAG_DEVICE double block_sum(double value, double* slots) {
  const int thread = static_cast<int>(threadIdx.x);
  FCNTAG_UNROLL for (int other = 16; other > 0; other /= 2) value += dev::shuffle_xor(value, other);
  dev::sync();  // who still reads the slots
  if ((thread & 31) == 0) slots[thread >> 5] = value;
  dev::sync();
  double sum = 0;
  FCNTAG_UNROLL for (int warp = 0; warp < kFinishWarps; ++warp) sum += slots[warp];
  return sum;
}

FCNTAG_DEVICE float above_floor(float value, float floor) { return value > floor ? value : floor; }

FCNTAG_DEVICE int part_size(int size) { return (size + kMomentParts - 1) / kMomentParts; }
// Values in `part`; 0 in the last ones where the clip is too small for all.
FCNTAG_DEVICE int part_count(int size, int part) {
  const int64_t left = size - static_cast<int64_t>(part) * part_size(size);
  return left <= 0 ? 0 : left < part_size(size) ? static_cast<int>(left) : part_size(size);
}

// Sum and squared deviations from the own mean of one part of a clip. Grid: (kMomentParts, clips).
FCNTAG_KERNEL(kFinishThreads, 1)
melspec_moments(const FCNTAG_GRID_CONSTANT FinishParams p) {
  const int thread = static_cast<int>(threadIdx.x), clip = static_cast<int>(blockIdx.y);
  const int part = static_cast<int>(blockIdx.x);
  dev::release_successors();
  dev::wait_for_predecessors();
  if (clip >= p.io->count) return;
  double* slots = reinterpret_cast<double*>(dev::shared_memory());
  float floor = -INFINITY;
  if (p.maxima != nullptr && p.top_db > 0) floor = clip_maximum(p, clip, reinterpret_cast<float*>(slots)) - p.top_db;
  const int count = part_count(p.size, part);
  const float* data = p.data + static_cast<int64_t>(clip) * p.size + static_cast<int64_t>(part) * part_size(p.size);
  double sum = 0, squares = 0;
  for (int i = thread; i < count; i += kFinishThreads) sum += above_floor(data[i], floor);
  sum = block_sum(sum, slots);
  const double mean = count == 0 ? 0 : sum / count;
  for (int i = thread; i < count; i += kFinishThreads) {
    const double d = above_floor(data[i], floor) - mean;
    squares += d * d;
  }
  squares = block_sum(squares, slots);
  double* moments = p.moments + 2 * (static_cast<int64_t>(clip) * kMomentParts + part);
  if (thread == 0) moments[0] = sum, moments[1] = squares;
}

// Mean and deviation of a clip from those of its parts; every warp finds them for itself.
FCNTAG_DEVICE void clip_moments(const FinishParams& p, int clip, double* mean, double* deviation) {
  static_assert(kMomentParts == 64, "a lane takes two parts");
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const double* moments = p.moments + 2 * static_cast<int64_t>(clip) * kMomentParts;
  double sum = moments[2 * lane] + moments[2 * (lane + 32)];
  FCNTAG_UNROLL for (int other = 16; other > 0; other /= 2) sum += dev::shuffle_xor(sum, other);
  *mean = sum / p.size;
  double squares = 0;
  FCNTAG_UNROLL for (int part = lane; part < kMomentParts; part += 32) {
    const int count = part_count(p.size, part);
    const double d = count == 0 ? 0 : moments[2 * part] / count - *mean;
    squares += moments[2 * part + 1] + count * d * d;
  }
  FCNTAG_UNROLL for (int other = 16; other > 0; other /= 2) squares += dev::shuffle_xor(squares, other);
  *deviation = sqrt(squares / p.size);
}

// Floor, reference and normalisation, in place. Grid: (any, clips).
template <typename Real>
FCNTAG_KERNEL(kFinishThreads, 1)
melspec_finish(const FCNTAG_GRID_CONSTANT FinishParams p) {
  const int clip = static_cast<int>(blockIdx.y);
  dev::release_successors();
  dev::wait_for_predecessors();
  if (clip >= p.io->count) return;
  float floor = -INFINITY;
  Real offset = 0, factor = 1;
  if (p.maxima != nullptr) {
    const float maximum = clip_maximum(p, clip, reinterpret_cast<float*>(dev::shared_memory()));
    if (p.top_db > 0) floor = maximum - p.top_db;
    if (p.ref_max) offset = maximum;
  }
  if (p.moments != nullptr) {  // a reference shifts values and mean alike
    double mean, deviation;
    clip_moments(p, clip, &mean, &deviation);
    offset = static_cast<Real>(mean);
    factor = static_cast<Real>(1 / (deviation + 1e-10));
  }
  float* data = p.data + static_cast<int64_t>(clip) * p.size;
  const int step = static_cast<int>(gridDim.x) * kFinishThreads;
  for (int64_t at = blockIdx.x * kFinishThreads + threadIdx.x; at < p.size; at += step) {
    const int i = static_cast<int>(at), row = p.time_mel ? p.n_mels : p.n_frames;
    const int slow = i / row, fast = i - slow * row;
    const Real value = (above_floor(data[i], floor) - offset) * factor;
    data[i] = scaled(p.scaling, value, p.time_mel ? fast : slow, p.time_mel ? slow : fast);
  }
}

}  // namespace cuda
}  // namespace fcntag
