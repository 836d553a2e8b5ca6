// The last step of a front end: a value times a scale plus a shift, of everything, of its row or of its frame.
#pragma once

#include "cuda/device/device.h"
#include "cuda/frontend/clip_finish.h"
#include "model/melspec_config.h"

namespace fcntag {
namespace cuda {

inline MelScale scale_kind(Normalization normalization) {
  return normalization == Normalization::kScalar     ? MelScale::kScalar
         : normalization == Normalization::kPerMel   ? MelScale::kPerMel
         : normalization == Normalization::kPerFrame ? MelScale::kPerFrame
                                                     : MelScale::kNone;
}

template <typename Real>
FCNTAG_DEVICE float scaled_by(float scale, float shift, Real value) {
  return static_cast<float>(scale * value + shift);
}

template <typename Real>
FCNTAG_DEVICE float scaled(const MelScaling& s, Real value, int m, int t) {
  if (s.kind == MelScale::kNone) return static_cast<float>(value);
  const int at = s.kind == MelScale::kPerMel ? m : s.kind == MelScale::kPerFrame ? t : 0;
  return scaled_by(s.scale[at], s.shift[at], value);
}

}  // namespace cuda
}  // namespace fcntag
