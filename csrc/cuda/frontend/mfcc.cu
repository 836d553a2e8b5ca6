#include "cuda/frontend/mfcc.h"

#include <algorithm>
#include <vector>

#include "check.h"
#include "cuda/device/device.h"
#include "cuda/frontend/scaling.h"
#include "cuda/launch.h"
#include "cuda/upload.h"

namespace fcntag {
namespace cuda {

namespace {

constexpr int kReach = kDeltaWidth / 2;
constexpr int kTile = 32;            // coefficients of a block
constexpr int kStagedFrames = 64;    // whose coefficients a block computes: two warps' lanes
constexpr int kBefore = 2 * kReach;  // of them in front of its own: a window at the end of the clip reaches back so far
constexpr int kFrames = kStagedFrames - kBefore - kReach;
constexpr int kThreadCoefficients = 8;
constexpr int kThreads = kStagedFrames * kTile / kThreadCoefficients;
constexpr int kBands = 32;  // staged at a time
constexpr std::size_t kSharedBytes = sizeof(float) * (kBands * kStagedFrames + kBands * kTile + kTile * kStagedFrames);
constexpr int kMaxClips = 65535;  // gridDim.y

struct MfccParams {
  const Io* io;
  const float* log_mel;  // [batch][n_mels][n_frames]
  const float* dct;      // [n_mels][padded]
  float* out;            // [batch][3][n_mfcc][n_frames]
  MelScaling scaling;
  int n_mels, n_mfcc, padded, n_frames, frame_blocks;
};

// A block has kFrames frames of kTile coefficients. A thread sums eight coefficients of one frame, band after band.
FCNTAG_KERNEL(kThreads, 1)
mfcc(const FCNTAG_GRID_CONSTANT MfccParams p) {
  const int thread = static_cast<int>(threadIdx.x), clip = static_cast<int>(blockIdx.y);
  const int first = static_cast<int>(blockIdx.x) % p.frame_blocks * kFrames;
  const int tile = static_cast<int>(blockIdx.x) / p.frame_blocks * kTile;
  dev::release_successors();
  dev::wait_for_predecessors();
  if (clip >= p.io->count) return;
  float* bands = reinterpret_cast<float*>(dev::shared_memory());  // [kBands][kStagedFrames]
  float* dct = bands + kBands * kStagedFrames;                    // [kBands][kTile]
  float* coefficients = dct + kBands * kTile;                     // [kTile][kStagedFrames]

  const int frame = thread % kStagedFrames, own = thread / kStagedFrames * kThreadCoefficients;
  const float* log_mel = p.log_mel + static_cast<int64_t>(clip) * p.n_mels * p.n_frames;
  float totals[kThreadCoefficients] = {};  // of stages: shorter sums in float, smaller errors
  for (int begin = 0; begin < p.n_mels; begin += kBands) {
    const int count = begin + kBands < p.n_mels ? kBands : p.n_mels - begin;
    dev::sync();  // other threads may still read the last ones
    for (int i = thread; i < count * kStagedFrames; i += kThreads) {
      const int t = first - kBefore + i % kStagedFrames;
      const bool inside = t >= 0 && t < p.n_frames;
      bands[i] = inside ? log_mel[static_cast<int64_t>(begin + i / kStagedFrames) * p.n_frames + t] : 0.0f;
    }
    for (int i = thread; i < count * kTile; i += kThreads) {
      dct[i] = p.dct[static_cast<int64_t>(begin + i / kTile) * p.padded + tile + i % kTile];
    }
    dev::sync();
    float sums[kThreadCoefficients] = {};
    for (int m = 0; m < count; ++m) {
      const float x = bands[m * kStagedFrames + frame];
      const float4 a = reinterpret_cast<const float4*>(dct + m * kTile + own)[0];
      const float4 b = reinterpret_cast<const float4*>(dct + m * kTile + own)[1];
      sums[0] = fmaf(a.x, x, sums[0]);
      sums[1] = fmaf(a.y, x, sums[1]);
      sums[2] = fmaf(a.z, x, sums[2]);
      sums[3] = fmaf(a.w, x, sums[3]);
      sums[4] = fmaf(b.x, x, sums[4]);
      sums[5] = fmaf(b.y, x, sums[5]);
      sums[6] = fmaf(b.z, x, sums[6]);
      sums[7] = fmaf(b.w, x, sums[7]);
    }
    FCNTAG_UNROLL for (int i = 0; i < kThreadCoefficients; ++i) totals[i] += sums[i];
  }
  FCNTAG_UNROLL for (int i = 0; i < kThreadCoefficients; ++i) {
    coefficients[(own + i) * kStagedFrames + frame] = totals[i];
  }
  dev::sync();

  const int64_t plane = static_cast<int64_t>(p.n_mfcc) * p.n_frames;
  float* out = p.out + clip * 3 * plane;
  for (int i = thread; i < kTile * kStagedFrames; i += kThreads) {
    const int c = tile + i / kStagedFrames, f = i % kStagedFrames, t = first + f;
    if (f >= kFrames || t >= p.n_frames || c >= p.n_mfcc) continue;
    const int row = i / kStagedFrames * kStagedFrames + kBefore - first;  // coefficients[row + t]: frame t
    // The derivative of a fit, of the order of its polynomial, is the same all over its window: frames near an end have
    // that of the nearest frame with a whole window.
    int centre = t < kReach ? kReach : t;
    centre = centre < p.n_frames - kReach ? centre : p.n_frames - kReach - 1;
    float slope = 0, curve = -20 * coefficients[row + centre];
    FCNTAG_UNROLL for (int x = 1; x <= kReach; ++x) {
      const float later = coefficients[row + centre + x], earlier = coefficients[row + centre - x];
      slope = fmaf(static_cast<float>(x), later - earlier, slope);               // sum of x y / sum of x^2
      curve = fmaf(static_cast<float>(3 * x * x - 20), later + earlier, curve);  // twice the parabola's coefficient
    }
    const int64_t at = static_cast<int64_t>(c) * p.n_frames + t;
    out[at] = scaled(p.scaling, coefficients[row + t], c, t);
    out[plane + at] = scaled(p.scaling, slope / 60.0f, p.n_mfcc + c, t);
    out[2 * plane + at] = scaled(p.scaling, curve / 462.0f, 2 * p.n_mfcc + c, t);
  }
}

}  // namespace

Mfcc::Mfcc(int n_mels, int n_mfcc, Normalization normalization, const std::vector<float>& scale,
           const std::vector<float>& shift)
    : n_mels_(n_mels), n_mfcc_(n_mfcc), normalization_(normalization) {
  FCNTAG_CHECK(n_mels >= 1 && n_mfcc >= 1 && n_mfcc <= n_mels, "mfcc: n_mfcc=", n_mfcc,
               "; allowed: 1 to n_mels=", n_mels);
  const int padded = (n_mfcc + kTile - 1) / kTile * kTile;
  std::vector<float> dct(static_cast<std::size_t>(n_mels) * padded);
  const std::vector<double> table = dct_table(n_mels, n_mfcc);
  for (int m = 0; m < n_mels; ++m) {
    std::copy_n(table.data() + static_cast<std::size_t>(m) * n_mfcc, n_mfcc,
                dct.data() + static_cast<std::size_t>(m) * padded);
  }
  dct_ = upload(dct);
  scale_ = upload(scale);
  shift_ = upload(shift);
}

void Mfcc::run(const Io* io, const float* log_mel, int batch, int n_frames, float* out, Stream stream) const {
  FCNTAG_CHECK(n_frames >= kDeltaWidth, "mfcc: n_frames=", n_frames, "; deltas need at least ", kDeltaWidth);
  FCNTAG_CHECK(batch >= 0 && batch <= kMaxClips, "mfcc: ", batch, " clips; at most ", kMaxClips);
  if (batch == 0) return;
  MfccParams p = {};
  p.io = io;
  p.log_mel = log_mel;
  p.dct = dct_.as<float>();
  p.out = out;
  p.scaling = {scale_.as<float>(), shift_.as<float>(), scale_kind(normalization_)};
  p.n_mels = n_mels_;
  p.n_mfcc = n_mfcc_;
  p.padded = (n_mfcc_ + kTile - 1) / kTile * kTile;
  p.n_frames = n_frames;
  p.frame_blocks = (n_frames + kFrames - 1) / kFrames;
  const int64_t blocks = static_cast<int64_t>(p.frame_blocks) * (p.padded / kTile);
  FCNTAG_CHECK(blocks <= INT32_MAX, "mfcc: n_frames=", n_frames, " is too long for one launch");
  launch(&mfcc, {dim3(static_cast<unsigned>(blocks), batch), kThreads, kSharedBytes}, stream, p);
}

}  // namespace cuda
}  // namespace fcntag
