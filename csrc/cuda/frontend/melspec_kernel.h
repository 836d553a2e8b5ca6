// The melspec kernel: the log-mel of kMelFrames frames by one block. Real is double or float: the type that FFT,
// filters and log are computed in.
//
// Half a warp makes the spectrum of one frame (melspec_fft.h). Then the warp turns to its two frames' powers, side by
// side in shared memory: a lane per mel band, both frames at once.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/device/device.h"
#include "cuda/frontend/block_maximum.h"
#include "cuda/frontend/melspec_fft.h"
#include "cuda/frontend/sample.h"
#include "cuda/frontend/scaling.h"
#include "cuda/open_io.h"

namespace fcntag {
namespace cuda {

constexpr int kMelWarps = 4;
constexpr int kMelThreads = 32 * kMelWarps;
constexpr int kMelFrames = 2 * kMelWarps;  // of a block
// Floats per band of staged output: with an odd number, lanes that write neighbouring bands share no bank.
constexpr int kMelStage = kMelFrames + 1;
constexpr std::size_t kMelFixedBytes = kMelFrames * kMelFrameBytes + 16;

struct alignas(8) MelBand {
  uint16_t begin, count;  // bins [begin, begin + count)
  int32_t offset;         // of the first weight; the next one lies 32 behind it: those of 32 bands are interleaved
};

template <typename Real>
struct MelParams {
  IoSource io;
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

template <typename Real>
FCNTAG_DEVICE Real compress(const MelParams<Real>& p, Real power) {
  if (p.power_exponent == 2) power *= power;
  if (p.float16) power = in_half_precision(power);
  if (p.db) return natural_log(power > p.amin ? power : p.amin) * static_cast<Real>(4.34294481903251827651);
  return natural_log(power * p.gain + 1) * static_cast<Real>(0.434294481903251827651);
}

// Grid: (blocks of kMelFrames frames, clips). Shared memory: kMelFixedBytes + n_mels * kMelStage floats.
// The blocks per multiprocessor bound the registers of a thread. In double they are 128, and one block more would
// spill. In float they are 80: the compiler takes as many by itself, and the bound keeps it there.
template <typename Real>
FCNTAG_KERNEL(kMelThreads, sizeof(Real) == 4 ? 6 : 4)
melspec(const FCNTAG_GRID_CONSTANT MelParams<Real> p) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread & 31, warp = thread >> 5;
  const int clip = static_cast<int>(blockIdx.y), first = static_cast<int>(blockIdx.x) * kMelFrames;
  dev::release_successors();
  dev::wait_for_predecessors();
  const Io io = open_io(p.io);
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

}  // namespace cuda
}  // namespace fcntag
