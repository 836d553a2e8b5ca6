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
  float scale, shift;  // of MelScale::kScalar
  Real offset, factor;
};

template <typename Real>
FCNTAG_DEVICE Real above_floor(Real value, Real floor) {
  return value > floor ? value : floor;
}

// The clip's maximum, of ClipFinish or RowParams; called by all kFinishThreads threads of a block.
template <typename Maxima>
FCNTAG_DEVICE float clip_maximum(const Maxima& p, int clip, float* slots) {
  float maximum = -INFINITY;
  const float* maxima = p.maxima + static_cast<int64_t>(clip) * p.maxima_count;
  for (int i = static_cast<int>(threadIdx.x); i < p.maxima_count; i += kFinishThreads)
    maximum = fmaxf(maximum, maxima[i]);
  return block_maximum<kFinishWarps>(maximum, slots);
}

// Called by all kFinishThreads threads of a block; `slots` holds kFinishWarps floats, free since the last barrier.
template <typename Real>
FCNTAG_DEVICE ClipValues<Real> clip_values(const ClipFinish& p, int clip, float* slots) {
  ClipValues<Real> values = {-INFINITY, 1, 0, 0, 1};
  if (p.scaling.kind == MelScale::kScalar) {
    values.scale = p.scaling.scale[0];
    values.shift = p.scaling.shift[0];
  }
  if (p.maxima != nullptr) {
    const float maximum = clip_maximum(p, clip, slots);
    if (p.top_db > 0) values.floor = maximum - p.top_db;
    if (p.ref_max) values.offset = maximum;
  }
  if (p.moments != nullptr) {  // a reference shifts values and mean alike
    values.offset = static_cast<Real>(p.moments[clip].mean);
    values.factor = static_cast<Real>(p.moments[clip].factor);
  }
  return values;
}

// Whether finished() looks at the place of a value.
FCNTAG_DEVICE bool by_place(const ClipFinish& p) {
  return p.scaling.kind == MelScale::kPerMel || p.scaling.kind == MelScale::kPerFrame;
}

// The output at row and column of the log-mel as it is stored, from its raw value.
template <typename Real>
FCNTAG_DEVICE float finished(const ClipFinish& p, const ClipValues<Real>& clip, float raw, int row, int column) {
  const Real value = (above_floor(raw, clip.floor) - clip.offset) * clip.factor;
  if (by_place(p)) return scaled(p.scaling, value, p.time_mel ? column : row, p.time_mel ? row : column);
  return p.scaling.kind == MelScale::kNone ? static_cast<float>(value) : scaled_by(clip.scale, clip.shift, value);
}

}  // namespace cuda
}  // namespace fcntag
