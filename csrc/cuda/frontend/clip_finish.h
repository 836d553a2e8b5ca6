// What is left to do to a log-mel whose values depend on the clip's maximum, mean or deviation. The kernel that makes
// the log-mel leaves raw values and each of its blocks' maximum. Whoever reads the raw values can finish them on the
// way: the first block of a network does, so that no launch stands between it and the log-mel. melspec_finish
// (melspec_finish.h) writes the finished values for everybody else. Both call clip_values.h, so that the bits are the
// same.
#pragma once

namespace fcntag {
namespace cuda {

enum class MelScale : int { kNone, kScalar, kPerMel, kPerFrame };

// Value of row m, frame t: scale * x + shift.
struct MelScaling {
  const float *scale, *shift;  // [1], [n_rows] or [n_frames]
  MelScale kind;
};

struct ClipMoments {
  double mean, factor;  // 1 over the deviation
};

struct ClipFinish {
  const float* maxima;         // [batch][maxima_count], or null: no floor, no reference
  const ClipMoments* moments;  // [batch], or null: not standardised
  MelScaling scaling;
  int size;  // values of a clip
  int maxima_count;
  float top_db;  // 0: no floor
  bool needed;   // false: the values are final already, and nothing else here counts
  bool ref_max, time_mel;
  bool in_double;  // what the values are computed in
};

}  // namespace cuda
}  // namespace fcntag
