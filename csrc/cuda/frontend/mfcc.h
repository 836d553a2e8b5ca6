// mfcc on the GPU: log-mel [B, n_mels, T] -> [B, 3 * n_mfcc, T]: coefficients, their deltas, their delta-deltas.
//
// As librosa has them: the orthonormal DCT-II over the bands, its first n_mfcc coefficients; Savitzky-Golay derivatives
// of width 9 over time, the first of a line and the second of a parabola, whose first and last 4 frames take the fit of
// the nearest whole window ("interp").
#pragma once

#include <cstddef>
#include <vector>

#include "cuda/io.h"
#include "cuda/runtime.h"
#include "model/filters.h"
#include "model/melspec_config.h"

namespace fcntag {
namespace cuda {

class Mfcc {
 public:
  // Uploads the tables. scale, shift: of `normalization`, [1], [3 * n_mfcc] or [n_frames]; not kStandardize. Throws
  // std::invalid_argument unless 1 <= n_mfcc <= n_mels.
  Mfcc(int n_mels, int n_mfcc, Normalization normalization = Normalization::kNone, const std::vector<float>& scale = {},
       const std::vector<float>& shift = {});

  // Puts the work on `stream`: log_mel [batch, n_mels, n_frames] -> out [batch, 3 * n_mfcc, n_frames], float32.
  // n_frames is at least 9. Clips from io->count on are left alone.
  void run(const Io* io, const float* log_mel, int batch, int n_frames, float* out, Stream stream) const;

  int n_mels() const { return n_mels_; }
  int rows() const { return 3 * n_mfcc_; }
  std::size_t memory_bytes() const { return dct_.bytes() + scale_.bytes() + shift_.bytes(); }

 private:
  int n_mels_, n_mfcc_;
  Normalization normalization_;
  DeviceMemory dct_;  // [n_mels][n_mfcc, rounded up to whole blocks]
  DeviceMemory scale_, shift_;
};

}  // namespace cuda
}  // namespace fcntag
