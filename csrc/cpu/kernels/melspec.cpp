// melspec on a CPU, up to the log. kLanes64 frames lie side by side, one per vector lane, so that the FFT is plain
// scalar code on vectors. This file is compiled once per instruction set (FCNTAG_ISA).
//
// The 512-point real FFT is a 256-point complex FFT of even and odd samples, in four radix-4 passes decimated in
// frequency, and the usual split. A lane's arithmetic does not depend on its neighbours, so that a frame's result is
// the same in every lane.
// Frames of another length go through the transforms of fft.h, kWide at a time.
#include "cpu/melspec.h"
#include "cpu/kernels/fft.h"
#include "cpu/kernels/simd.h"

namespace fcntag {
namespace {

constexpr int kHalf = kFft / 2;

// The position of output k after the radix-4 passes: the base-4 digits of k in reverse.
FCNTAG_INLINE int reversed(int k) { return (k & 3) << 6 | (k >> 2 & 3) << 4 | (k >> 4 & 3) << 2 | k >> 6; }

// Four points q of a radix-4 butterfly: sums of x[q] times powers of -i.
struct Radix4 {
  Vec64 r0, i0, r1, i1, r2, i2, r3, i3;
};

FCNTAG_INLINE Radix4 butterfly(const Vec64* re, const Vec64* im, int quarter) {
  const Vec64 ar = re[0] + re[2 * quarter], ai = im[0] + im[2 * quarter];
  const Vec64 br = re[0] - re[2 * quarter], bi = im[0] - im[2 * quarter];
  const Vec64 cr = re[quarter] + re[3 * quarter], ci = im[quarter] + im[3 * quarter];
  const Vec64 dr = re[quarter] - re[3 * quarter], di = im[quarter] - im[3 * quarter];
  return {ar + cr, ai + ci, br + di, bi - dr, ar - cr, ai - ci, br - di, bi + dr};
}

// Replaces re, im [256] by their DFT, with output k at reversed(k).
void fft256(Vec64* re, Vec64* im, const double* twiddles) {
  for (int size = kHalf; size > 4; size /= 4) {
    const int quarter = size / 4;
    const int step = kFft / size;  // twiddle e^(-2 pi i j / size) is entry j * step
    for (int j = 0; j < quarter; ++j) {
      const double *t1 = twiddles + 2 * (j * step), *t2 = twiddles + 2 * (2 * j * step),
                   *t3 = twiddles + 2 * (3 * j * step);
      const Vec64 c1 = splat64(t1[0]), s1 = splat64(t1[1]), c2 = splat64(t2[0]), s2 = splat64(t2[1]),
                  c3 = splat64(t3[0]), s3 = splat64(t3[1]);
      for (int base = j; base < kHalf; base += size) {
        Vec64 *r = re + base, *i = im + base;
        const Radix4 p = butterfly(r, i, quarter);
        r[0] = p.r0;
        i[0] = p.i0;
        r[quarter] = p.r1 * c1 + p.i1 * s1;
        i[quarter] = p.i1 * c1 - p.r1 * s1;
        r[2 * quarter] = p.r2 * c2 + p.i2 * s2;
        i[2 * quarter] = p.i2 * c2 - p.r2 * s2;
        r[3 * quarter] = p.r3 * c3 + p.i3 * s3;
        i[3 * quarter] = p.i3 * c3 - p.r3 * s3;
      }
    }
  }
  for (int base = 0; base < kHalf; base += 4) {  // the last pass has no twiddles
    Vec64 *r = re + base, *i = im + base;
    const Radix4 p = butterfly(r, i, 1);
    r[0] = p.r0, i[0] = p.i0, r[1] = p.r1, i[1] = p.i1, r[2] = p.r2, i[2] = p.i2, r[3] = p.r3, i[3] = p.i3;
  }
}

// power [257] of the 512-point real signal whose even and odd samples were the complex input.
void split_power(const Vec64* re, const Vec64* im, const double* twiddles, Vec64* power) {
  const Vec64 first = re[0] + im[0], last = re[0] - im[0];
  power[0] = first * first;
  power[kHalf] = last * last;
  for (int k = 1; k <= kHalf / 2; ++k) {
    const int a = reversed(k), b = reversed(kHalf - k);
    const Vec64 c = splat64(twiddles[2 * k]), s = splat64(twiddles[2 * k + 1]);
    // Even part E and odd part O of the signal: X[k] = E + e^(-2 pi i k / 512) O, X[256 - k] = conj(E - ...).
    const Vec64 er = (re[a] + re[b]) * 0.5, ei = (im[a] - im[b]) * 0.5;
    const Vec64 or_ = (im[a] + im[b]) * 0.5, oi = (re[b] - re[a]) * 0.5;
    const Vec64 tr = or_ * c + oi * s, ti = oi * c - or_ * s;
    const Vec64 pr = er + tr, pi = ei + ti, qr = er - tr, qi = ei - ti;
    power[k] = pr * pr + pi * pi;
    power[kHalf - k] = qr * qr + qi * qi;
  }
}

// Rounds x >= 0 to `digits` binary digits, ties to even, with subnormals below 2^min_exponent. The FPU does it when
// 1.5 * 2^52 units in the last place are added and taken away.
FCNTAG_INLINE Vec64 round_digits(Vec64 x, int digits, int64_t min_exponent) {
  VecInt64 exponent = (VecInt64)x & 0x7ff0000000000000LL;
  const VecInt64 least = VecInt64{} + ((min_exponent + 1023) << 52);
  exponent = exponent > least ? exponent : least;
  const Vec64 magic = (Vec64)(exponent - (static_cast<int64_t>(digits - 1) << 52)) * 6755399441055744.0;
  return x + magic - magic;
}

// The nearest half-precision value, after rounding to float as the original did. Values beyond 65504 become 65504; the
// original's float16 became infinite there, and its scores NaN.
FCNTAG_INLINE Vec64 round_float16(Vec64 x) {
  const Vec64 largest = splat64(65504.0);
  x = x < largest ? x : largest;
  return round_digits(round_digits(x, 24, -126), 11, -14);
}

// The sample at position i of the signal, which is extended beyond its ends.
FCNTAG_INLINE double sample(const MelSpecTask& t, int64_t i) {
  const int64_t n = t.n_samples;
  if (i >= 0 && i < n) return t.wave[i];
  if (t.config->pad_mode == PadMode::kConstant) return 0;
  if (i < 0) i = -i;
  if (i >= n) i = 2 * (n - 1) - i;
  return i >= 0 && i < n ? t.wave[i] : 0;
}

// Windows kLanes64 frames that begin at samples `start[lane]`: re [256] takes even samples and im [256] odd ones.
void load_frames(const MelSpecTask& t, const int64_t* start, bool inside, Vec64* re, Vec64* im) {
  const double* window = t.config->window.data();
#if defined(__AVX2__)
  if (inside) {
    // Four samples of four frames at a time, transposed in registers.
    for (int k = 0; k < kFft; k += 4) {
      Vec64 w;
      std::memcpy(&w, window + k, sizeof w);
      Vec64 f[4];
#pragma GCC unroll 4
      for (int lane = 0; lane < 4; ++lane) f[lane] = (Vec64)_mm256_cvtps_pd(_mm_loadu_ps(t.wave + start[lane] + k)) * w;
      const __m256d a = _mm256_unpacklo_pd((__m256d)f[0], (__m256d)f[1]);
      const __m256d b = _mm256_unpackhi_pd((__m256d)f[0], (__m256d)f[1]);
      const __m256d c = _mm256_unpacklo_pd((__m256d)f[2], (__m256d)f[3]);
      const __m256d d = _mm256_unpackhi_pd((__m256d)f[2], (__m256d)f[3]);
      re[k / 2] = (Vec64)_mm256_permute2f128_pd(a, c, 0x20);
      im[k / 2] = (Vec64)_mm256_permute2f128_pd(b, d, 0x20);
      re[k / 2 + 1] = (Vec64)_mm256_permute2f128_pd(a, c, 0x31);
      im[k / 2 + 1] = (Vec64)_mm256_permute2f128_pd(b, d, 0x31);
    }
    return;
  }
#endif
  for (int lane = 0; lane < kLanes64; ++lane) {
    double* r = reinterpret_cast<double*>(re) + lane;
    double* i = reinterpret_cast<double*>(im) + lane;
    if (inside) {
      const float* x = t.wave + start[lane];
      for (int k = 0; k < kHalf; ++k) {
        r[k * kLanes64] = x[2 * k] * window[2 * k];
        i[k * kLanes64] = x[2 * k + 1] * window[2 * k + 1];
      }
    } else {
      for (int k = 0; k < kHalf; ++k) {
        r[k * kLanes64] = sample(t, start[lane] + 2 * k) * window[2 * k];
        i[k * kLanes64] = sample(t, start[lane] + 2 * k + 1) * window[2 * k + 1];
      }
    }
  }
}

// Normalises the log-mel values of band m and frames [frame, frame + lanes), and writes them to the output.
FCNTAG_INLINE void store_normalized(const MelSpecTask& t, int m, int frame, int lanes, Vec64 value) {
  const MelSpecConfig& c = *t.config;
  for (int lane = 0; lane < lanes; ++lane) {
    const int64_t f = frame + lane;
    double scale = 1, shift = 0;
    if (c.normalization != Normalization::kNone) {
      const int64_t at = c.normalization == Normalization::kPerMel     ? m
                         : c.normalization == Normalization::kPerFrame ? f
                                                                       : 0;
      scale = c.scale.data()[at];
      shift = c.shift.data()[at];
    }
    const int64_t to = c.time_mel ? f * c.n_mels + m : static_cast<int64_t>(m) * t.n_frames + f;
    t.out[to] = static_cast<float>(scale * value[lane] + shift);
  }
}

FCNTAG_INLINE Vec64 logarithm(const MelSpecConfig& c, Vec64 power) {
  const Vec64 floor = splat64(c.amin);
  switch (c.log) {
    case LogKind::kDb:
      return log64(power > floor ? power : floor) * 4.34294481903251827651;  // 10 / ln 10
    case LogKind::kLog10p1:
      return log64(power * splat64(c.gain) + 1.0) * 0.434294481903251827651;
    case LogKind::kLog1p:
      return log64(power * splat64(c.gain) + 1.0);
    case LogKind::kLn:
      return log64((power > floor ? power : floor) + splat64(c.offset));
    case LogKind::kLog10:
      return log64((power > floor ? power : floor) + splat64(c.offset)) * 0.434294481903251827651;
    case LogKind::kNone:
      break;
  }
  return power;
}

// The rows of frames [frame, frame + lanes), lanes <= kLanes64, of their spectrum: bin k lies at spectrum[k * kStride].
template <int kStride>
FCNTAG_INLINE void finish_frames(const MelSpecTask& t, int frame, int lanes, const Vec64* spectrum) {
  const MelSpecConfig& c = *t.config;
  for (int m = 0; m < c.n_mels; ++m) {
    const double* weights = t.filters->weights.data() + t.filters->offset.data()[m];
    const Vec64* bins = spectrum + t.filters->begin.data()[m] * kStride;
    const int count = t.filters->count.data()[m];
    Vec64 sum = {};
    for (int k = 0; k < count; ++k) sum += bins[k * kStride] * splat64(weights[k]);
    if (c.power_exponent == 2) sum *= sum;
    if (c.float16) sum = round_float16(sum);
    const Vec64 value = logarithm(c, sum);
    if (t.log_mel == nullptr) {
      store_normalized(t, m, frame, lanes, value);
      continue;
    }
    double* out = t.log_mel + static_cast<int64_t>(frame - t.frame_begin) * c.n_mels + m;
    for (int lane = 0; lane < lanes; ++lane) out[static_cast<int64_t>(lane) * c.n_mels] = value[lane];
  }
}

void log_mel(const MelSpecTask& t) {
  const MelSpecConfig& c = *t.config;
  const uintptr_t aligned = (reinterpret_cast<uintptr_t>(t.scratch) + 63) / 64 * 64;
  Vec64* re = reinterpret_cast<Vec64*>(aligned);
  Vec64* im = re + kHalf;
  Vec64* power = im + kHalf;
  for (int frame = t.frame_begin; frame < t.frame_end; frame += kLanes64) {
    const int lanes = t.frame_end - frame < kLanes64 ? t.frame_end - frame : kLanes64;
    int64_t start[kLanes64];
    bool inside = true;
    for (int lane = 0; lane < kLanes64; ++lane) {
      // A lane without a frame repeats the last one; its result is dropped.
      start[lane] = static_cast<int64_t>(frame + (lane < lanes ? lane : lanes - 1)) * c.hop_length - t.pad_left;
      inside = inside && start[lane] >= 0 && start[lane] + kFft <= t.n_samples;
    }
    load_frames(t, start, inside, re, im);
    fft256(re, im, t.twiddles);
    split_power(re, im, t.twiddles, power);
    if (c.magnitude)
      for (int k = 0; k < kBins; ++k) power[k] = sqrt64(power[k]);
    finish_frames<1>(t, frame, lanes, power);
  }
}

// Windows kWide frames of n samples: sample k of lane l goes to out[k * stride][l].
void load_windowed(const float* const (&frames)[kWide], const double* window, int n, int stride, Wide* out) {
  int k = 0;
#if defined(__AVX2__)
  for (; k + 4 <= n; k += 4) {
    const __m256d w = _mm256_loadu_pd(window + k);
    for (int first = 0; first < kWide; first += 4) {
      __m256d f[4];
#pragma GCC unroll 4
      for (int lane = 0; lane < 4; ++lane)
        f[lane] = _mm256_mul_pd(_mm256_cvtps_pd(_mm_loadu_ps(frames[first + lane] + k)), w);
      const __m256d a = _mm256_unpacklo_pd(f[0], f[1]), b = _mm256_unpackhi_pd(f[0], f[1]);
      const __m256d c = _mm256_unpacklo_pd(f[2], f[3]), d = _mm256_unpackhi_pd(f[2], f[3]);
      double* to = reinterpret_cast<double*>(out + static_cast<int64_t>(k) * stride) + first;
      _mm256_store_pd(to, _mm256_permute2f128_pd(a, c, 0x20));
      _mm256_store_pd(to + stride * kWide, _mm256_permute2f128_pd(b, d, 0x20));
      _mm256_store_pd(to + 2 * stride * kWide, _mm256_permute2f128_pd(a, c, 0x31));
      _mm256_store_pd(to + 3 * stride * kWide, _mm256_permute2f128_pd(b, d, 0x31));
    }
  }
#endif
  for (; k < n; ++k) {
    Wide v;
    for (int lane = 0; lane < kWide; ++lane) v[lane] = frames[lane][k] * window[k];
    out[static_cast<int64_t>(k) * stride] = v;
  }
}

// As log_mel, for any length of the frames.
void log_mel_any(const MelSpecTask& t) {
  constexpr int kParts = kWide / kLanes64;
  const MelSpecConfig& c = *t.config;
  const FftPlan& plan = *t.fft;
  const int n = c.n_fft, n_bins = n / 2 + 1;
  const uintptr_t aligned = (reinterpret_cast<uintptr_t>(t.scratch) + 63) / 64 * 64;
  Point* points = reinterpret_cast<Point*>(aligned);
  Wide* power = reinterpret_cast<Wide*>(points + plan.passes.length * (plan.convolves ? 2 : 1));
  float* edges = reinterpret_cast<float*>(power + n_bins);  // [kWide][n]
  for (int frame = t.frame_begin; frame < t.frame_end; frame += kWide) {
    const int lanes = t.frame_end - frame < kWide ? t.frame_end - frame : kWide;
    const float* frames[kWide];
    for (int lane = 0; lane < kWide; ++lane) {
      if (lane >= lanes) {  // it repeats the last one; its result is dropped
        frames[lane] = frames[lanes - 1];
        continue;
      }
      const int64_t start = static_cast<int64_t>(frame + lane) * c.hop_length - t.pad_left;
      if (start >= 0 && start + n <= t.n_samples) {
        frames[lane] = t.wave + start;
        continue;
      }
      float* edge = edges + static_cast<int64_t>(lane) * n;
      for (int k = 0; k < n; ++k) edge[k] = static_cast<float>(sample(t, start + k));
      frames[lane] = edge;
    }
    Wide* samples = reinterpret_cast<Wide*>(points);
    if (n % 2) {
      load_windowed(frames, c.window.data(), n, 2, samples);
      for (int k = 0; k < n; ++k) points[k].im = Wide{};
    } else {
      load_windowed(frames, c.window.data(), n, 1, samples);
    }
    transform(plan, points);
    powers(plan, points, power);
    Vec64* parts = reinterpret_cast<Vec64*>(power);
    if (c.magnitude)
      for (int k = 0; k < n_bins * kParts; ++k) parts[k] = sqrt64(parts[k]);
    for (int part = 0; part < kParts && part * kLanes64 < lanes; ++part) {
      const int first = part * kLanes64, rest = lanes - first;
      finish_frames<kParts>(t, frame + first, rest < kLanes64 ? rest : kLanes64, parts + part);
    }
  }
}

}  // namespace

extern const MelSpecKernels FCNTAG_TABLE(melspec_kernels_);
const MelSpecKernels FCNTAG_TABLE(melspec_kernels_) = {log_mel, log_mel_any, kWide};

}  // namespace fcntag
