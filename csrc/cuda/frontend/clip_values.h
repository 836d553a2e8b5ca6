// The arithmetic of clip_finish.h, by a block of kFinishThreads threads.
#pragma once

#include <cstdint>

#include "cuda/device/device.h"
#include "cuda/frontend/block_maximum.h"
#include "cuda/frontend/clip_finish.h"
#include "cuda/frontend/scaling.h"

namespace fcntag {
namespace cuda {

constexpr int kFinishWarps = 8;
constexpr int kFinishThreads = 32 * kFinishWarps;

// What a clip does to its raw values: (above_floor(raw, floor) - offset) * factor, and then the scaling.
template <typename Real>
struct ClipValues {
  float floor;
  Real offset, factor;
};

FCNTAG_DEVICE float above_floor(float value, float floor) { return value > floor ? value : floor; }

// The clip's maximum, of ClipFinish or RowParams; called by all kFinishThreads threads of a block.
template <typename Maxima>
FCNTAG_DEVICE float clip_maximum(const Maxima& p, int clip, float* slots) {
  float maximum = -INFINITY;
  const float* maxima = p.maxima + static_cast<int64_t>(clip) * p.maxima_count;
  for (int i = static_cast<int>(threadIdx.x); i < p.maxima_count; i += kFinishThreads)
    maximum = fmaxf(maximum, maxima[i]);
  return block_maximum<kFinishWarps>(maximum, slots);
}

FCNTAG_DEVICE int part_size(int size) { return (size + kMomentParts - 1) / kMomentParts; }
// Values in `part`; 0 in the last ones where the clip is too small for all.
FCNTAG_DEVICE int part_count(int size, int part) {
  const int64_t left = size - static_cast<int64_t>(part) * part_size(size);
  return left <= 0 ? 0 : left < part_size(size) ? static_cast<int>(left) : part_size(size);
}

// Mean and deviation of a clip from those of its parts; every warp finds them for itself.
FCNTAG_DEVICE void clip_moments(const ClipFinish& p, int clip, double* mean, double* deviation) {
  static_assert(kMomentParts == 64, "a lane takes two parts");
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const PartMoments* parts = p.moments + static_cast<int64_t>(clip) * kMomentParts;
  double sum = parts[lane].sum + parts[lane + 32].sum;
  FCNTAG_UNROLL for (int other = 16; other > 0; other /= 2) sum += dev::shuffle_xor(sum, other);
  *mean = sum / p.size;
  double squares = 0;
  FCNTAG_UNROLL for (int part = lane; part < kMomentParts; part += 32) {
    const int count = part_count(p.size, part);
    const double d = count == 0 ? 0 : parts[part].mean - *mean;
    squares += parts[part].squares + count * d * d;
  }
  FCNTAG_UNROLL for (int other = 16; other > 0; other /= 2) squares += dev::shuffle_xor(squares, other);
  *deviation = sqrt(squares / p.size);
}

// Called by all kFinishThreads threads of a block; `slots` holds kFinishWarps floats, free since the last barrier.
template <typename Real>
FCNTAG_DEVICE ClipValues<Real> clip_values(const ClipFinish& p, int clip, float* slots) {
  ClipValues<Real> values = {-INFINITY, 0, 1};
  if (p.maxima != nullptr) {
    const float maximum = clip_maximum(p, clip, slots);
    if (p.top_db > 0) values.floor = maximum - p.top_db;
    if (p.ref_max) values.offset = maximum;
  }
  if (p.moments != nullptr) {  // a reference shifts values and mean alike
    double mean, deviation;
    clip_moments(p, clip, &mean, &deviation);
    values.offset = static_cast<Real>(mean);
    values.factor = static_cast<Real>(1 / (deviation + 1e-10));
  }
  return values;
}

// The output at row and column of the log-mel as it is stored, from its raw value.
template <typename Real>
FCNTAG_DEVICE float finished(const ClipFinish& p, const ClipValues<Real>& clip, float raw, int row, int column) {
  const Real value = (above_floor(raw, clip.floor) - clip.offset) * clip.factor;
  return scaled(p.scaling, value, p.time_mel ? column : row, p.time_mel ? row : column);
}

}  // namespace cuda
}  // namespace fcntag
