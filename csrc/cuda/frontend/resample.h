// PCM at any rate -> mono at the model's rate, on the GPU: mean over the channels, then a polyphase FIR
// (fcntag/engine/resample_filter.py designs it and says what its taps mean).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cuda/first_launch.h"
#include "cuda/runtime.h"

namespace fcntag {
namespace cuda {

constexpr int kMaxChannels = 64;

// How outputs are shared out. Eight consecutive outputs are a group, made by one thread. Groups `unique` apart see the
// same phases; `period` groups (a multiple of `unique`) later a whole number of input samples has passed, so that a
// block takes `groups` groups of `rows` periods and each weight serves several periods.
struct ResamplePlan {
  int unique, period, groups, rows;
  int period_in;  // input samples of a period
  int taps;       // of a group: the filter's, and room for eight positions; a multiple of 4
  // Shared memory, in floats: one row where the periods' inputs adjoin, else one for each.
  int staged_rows, staged_length, row_pitch;
  bool padded;  // groups start at multiples of 4, and a float is left free after every 32: see staged_at()

  int threads() const { return (groups * 4 + 31) / 32 * 32; }
  std::size_t shared_bytes() const;
};

class Resampler {
 public:
  // From `down` to `up` samples, coprime; phases [up, n_taps], n_taps even: output n, at input position
  // n * down / up = i + p / up, is sum_k phases[p][k] x[i + 1 - n_taps / 2 + k]. Uploads the table.
  // Throws std::invalid_argument for sizes that do not fit, or a filter too long for shared memory: rates some 50
  // apart.
  Resampler(int up, int down, const std::vector<float>& phases);

  // Puts the work on `stream`: PCM io->waves, clips of [n_in, n_channels] io->wave_stride floats apart, n_channels from
  // 1 to 64 -> out [batch, n_out] float32. Clips from io->count on are left alone. Samples outside the clip are zero,
  // so that n_out may be any length; librosa's is ceil(n_in * up / down). Channels are mixed as numpy.mean does,
  // float32. The result is for graphs that begin with this; empty if nothing was put on the stream.
  Repoint run(const IoSource& io, int batch, int64_t n_in, int n_channels, float* out, int64_t n_out,
              Stream stream) const;

  std::size_t memory_bytes() const { return weights_.bytes(); }
  const ResamplePlan& plan() const { return plan_; }

 private:
  int up_, down_, n_taps_;
  ResamplePlan plan_;
  DeviceMemory weights_;  // [taps][unique][8]
};

}  // namespace cuda
}  // namespace fcntag
