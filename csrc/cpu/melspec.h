// melspec: waveform [n_samples] -> the network's input [H, W]; the model document's front end.
//
// frame -> window -> real FFT -> power or magnitude -> filters -> exponent, rounding -> log or dB -> [MFCC] ->
// normalisation. "mel" stands for the outputs of the filters: mel bands, or bins of the STFT where every filter takes
// one bin. Frames of 512 samples have an FFT of their own, other lengths a general one (fft_plan.h). A frame of 256
// comes as one of 512 whose window ends in zeros; its DFT is the even bins. Every value is double until it is
// normalised. Near-silent mel bands lie at the rounding floor of a float FFT, and the dB scale would show that floor
// (0.1 dB at -90 dB).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cpu/fft_plan.h"
#include "cpu/thread_pool.h"
#include "model/melspec_config.h"

namespace fcntag {

// One task computes frames [frame_begin, frame_end) of one segment. It writes raw log values [frame][n_mels] in double
// where the segment's maximum, mean or deviation is needed to finish them, and the output itself otherwise.
struct MelSpecTask {
  const MelSpecConfig* config;
  const MelFilters* filters;
  const double* twiddles;  // cos, sin of 2 pi k / 512, k in [0, 512): [512][2]; for n_fft 512
  const FftPlan* fft;      // for other lengths
  const float* wave;       // [n_samples]
  int64_t n_samples;
  int64_t pad_left;
  int frame_begin, frame_end;
  double* log_mel;  // [frame_end - frame_begin][n_mels], or null for normalised values in `out`
  float* out;       // the segment's [n_mels, n_frames] or [n_frames, n_mels]
  int n_frames;
  double* scratch;  // kMelSpecScratch doubles for n_fft 512, general_scratch() for others
};

struct MelSpecKernels {
  void (*log_mel)(const MelSpecTask&);      // n_fft 512
  void (*log_mel_any)(const MelSpecTask&);  // other lengths
  int lanes;                                // frames that log_mel_any takes at a time
};

// Doubles of a worker, for four lanes: re and im of 256 points, 257 powers, and alignment.
constexpr std::size_t kMelSpecScratch = (2 * 256 + kBins) * 4 + 16;

class MelSpec {
 public:
  MelSpec(MelSpecConfig config, std::shared_ptr<ThreadPool> pool);

  // waves [batch, n_samples] -> out [batch, n_rows, n_frames] or [batch, n_frames, n_rows].
  void run(const float* waves, int batch, int64_t n_samples, int64_t pad_left, int n_frames, float* out);

  int n_rows() const { return config_.n_rows(); }
  bool time_mel() const { return config_.time_mel; }
  std::size_t memory_bytes() const;

 private:
  void normalize(const double* log_mel, int n_frames, float* out) const;
  void standardize_rows(const double* log_mel, int n_frames, double floor, float* out) const;
  void coefficients(int segments, int n_frames, float* out);

  MelSpecConfig config_;
  MelFilters filters_;
  const MelSpecKernels* kernels_;
  std::shared_ptr<ThreadPool> pool_;
  std::vector<double> twiddles_;  // of 512 points; fft_ is of other lengths
  std::unique_ptr<FftPlan> fft_;
  int task_frames_;
  std::vector<double> log_mel_;               // of the segments in work
  std::vector<double> dct_;                   // [n_mels][n_mfcc], for MFCC
  std::vector<double> mfcc_;                  // [segment][n_frames][n_mfcc] of the segments in work
  std::size_t scratch_doubles_ = 0;           // of a worker
  std::vector<std::vector<double>> scratch_;  // per worker
};

}  // namespace fcntag
