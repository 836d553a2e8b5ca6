// What the kernels that make frames (melspec_kernel.h, melspec_general_kernel.h) are told alike.
#pragma once

#include "cuda/frontend/melspec_general.h"
#include "cuda/frontend/scaling.h"
#include "model/melspec_config.h"

namespace fcntag {
namespace cuda {

// The parameters of one run of either kernel; tables and what only one of them knows are left at zero.
template <template <typename> class Params, typename Real>
Params<Real> frame_params(const MelSpecConfig& c, const GeneralMel::Run& run) {
  Params<Real> p = {};
  p.io = run.io;
  p.waves = run.waves;
  p.out = run.out;
  p.maxima = run.maxima;
  p.scaling = {run.scale, run.shift, run.scaled ? scale_kind(c.normalization) : MelScale::kNone};
  p.n_samples = run.n_samples;
  p.pad_left = run.pad_left;
  p.hop_length = c.hop_length;
  p.n_frames = run.n_frames;
  p.n_mels = c.n_mels;
  p.power_exponent = c.power_exponent;
  p.reflect = c.pad_mode == PadMode::kReflect;
  p.float16 = c.float16;
  p.time_mel = c.time_mel;
  p.gain = static_cast<Real>(c.gain);
  p.amin = static_cast<Real>(c.amin);
  return p;
}

}  // namespace cuda
}  // namespace fcntag
