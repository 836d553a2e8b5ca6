// The front end as its model file describes it, for every device.
#pragma once

#include <vector>

namespace fcntag {

// Points of the frames that the devices have kernels of their own for. Other lengths go through general transforms.
constexpr int kFft = 512;
constexpr int kBins = kFft / 2 + 1;
constexpr int kMinFft = 64, kMaxFft = 8192;

enum class PadMode { kConstant, kReflect };
enum class LogKind { kDb, kLog10p1, kLog1p, kLn, kLog10, kNone };
enum class Normalization { kNone, kScalar, kPerMel, kPerFrame, kStandardize, kStandardizePerMel };

struct MelSpecConfig {
  int hop_length;
  PadMode pad_mode;
  std::vector<double> window;   // [n_fft], with the zeros around a shorter one
  std::vector<double> filters;  // [n_mels, n_bins()]
  int n_mels;
  int power_exponent;  // 1 or 2: of what the filters give
  bool float16;        // round that to half precision
  LogKind log;
  double gain;    // log10p1, log1p: log10 or ln of gain * m + 1
  double amin;    // db: 10 log10(max(m, amin)); ln, log10: of max(m, amin) + offset
  bool ref_max;   // db: minus the segment's maximum
  double top_db;  // db: floor at maximum - top_db; <= 0: none
  Normalization normalization;
  std::vector<float> scale, shift;  // [1], [n_rows] or [n_frames]
  bool time_mel;                    // output [n_frames, n_mels] instead of [n_mels, n_frames]
  int n_mfcc = 0;                   // 0: rows are the log-mel; else so many coefficients of it, and their deltas
  int n_fft = kFft;                 // kMinFft to kMaxFft
  bool magnitude = false;           // the filters take the square roots of the powers
  double offset = 0;                // ln, log10

  int n_bins() const { return n_fft / 2 + 1; }
  int n_rows() const { return n_mfcc > 0 ? 3 * n_mfcc : n_mels; }
  // Whether a frame's values do not depend on the other frames: no delta, maximum, mean or deviation.
  bool frames_stand_alone() const {
    return n_mfcc == 0 && normalization != Normalization::kStandardize &&
           normalization != Normalization::kStandardizePerMel && !(log == LogKind::kDb && (ref_max || top_db > 0));
  }
};

// Sparse mel filters: band m takes bins [begin[m], begin[m] + count[m]), with the weights from offset[m] on.
struct MelFilters {
  std::vector<int> begin, count, offset;
  std::vector<double> weights;
};

// Checks `config` (std::invalid_argument names what is wrong) and leaves out the zeros of its filters.
MelFilters sparse_filters(const MelSpecConfig& config);

}  // namespace fcntag
