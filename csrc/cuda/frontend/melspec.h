// melspec on the GPU: waves [B, n_samples] -> the model document's front end (model/melspec_config.h): log-mel, STFT or
// MFCC.
//
// One kernel makes the log-mel of a few frames per block: melspec_kernel.h for 512 points and the settings of the
// oldest models, melspec_general.h for all others. Its values are final, unless the maximum, mean or deviation of the
// clip goes into them: then it leaves raw values, and one or two small kernels finish them in place. The last of these
// is not launched for a caller that finishes the values as it reads them. MFCC are one more kernel, on a log-mel in
// scratch memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "cuda/first_launch.h"
#include "cuda/frontend/clip_finish.h"
#include "cuda/frontend/melspec_general.h"
#include "cuda/frontend/mfcc.h"
#include "cuda/io.h"
#include "cuda/runtime.h"
#include "model/melspec_config.h"

namespace fcntag {
namespace cuda {

class MelSpec {
 public:
  // Uploads the tables and waits for them. With `double_precision`, FFT, filters and log are computed in double: mel
  // bands that are nearly silent lie at the rounding floor of a float FFT, and a scale of dB shows it. For networks of
  // half precision a float is enough. kStandardizePerMel is always computed in double: a band at its floor varies so
  // little that floats would hold nothing but their rounding. Throws std::invalid_argument for a config that the CPU
  // refuses too.
  MelSpec(const MelSpecConfig& config, bool double_precision);

  // Bytes that run() needs beside the output; as much or more for more clips or frames.
  std::size_t scratch_bytes(int batch, int n_frames) const;
  // Bytes of device memory that a MelSpec on `device` would take, with its scratch memory; allocates none.
  static std::size_t planned_bytes(const MelSpecConfig& config, bool double_precision, int batch, int n_frames,
                                   int device);

  // Puts the work on `stream`: out [batch, n_rows, n_frames], or [batch, n_frames, n_rows] if time_mel(), float32.
  // The result is for graphs that begin with this. Waves are those of `io`, wave_stride apart, or if not null `waves`
  // [batch, n_samples]. Clips from its count on are left alone. Frame t is samples [t * hop_length - pad_left, ... +
  // n_fft); those outside the clip are zeros or, with PadMode::kReflect, the clip read back and forth. n_samples may be
  // less than a frame. `scratch`: scratch_bytes(batch, n_frames), aligned as device memory is.
  Repoint run(const IoSource& io, const float* waves, int batch, int64_t n_samples, int64_t pad_left, int n_frames,
              float* out, void* scratch, Stream stream) const;
  // The same, but where finish().needed the values of `out` are raw, and whoever reads them does what finish() says.
  // That reads scratch memory too.
  Repoint run_raw(const IoSource& io, const float* waves, int batch, int64_t n_samples, int64_t pad_left, int n_frames,
                  float* out, void* scratch, Stream stream) const;
  // What is left to do after run_raw() with these arguments.
  ClipFinish finish(int batch, int n_frames, const void* scratch) const;

  std::size_t memory_bytes() const;
  int n_rows() const { return config_.n_rows(); }
  bool time_mel() const { return config_.time_mel; }

 private:
  struct Scratch {  // offsets of its parts, in bytes
    std::size_t log_mel, raw, parts, moments, maxima, buffers, end;
  };
  static Scratch scratch(const MelSpecConfig& config, const GeneralPlan* general, int batch, int n_frames);
  const GeneralPlan* plan() const { return general_ ? &general_->plan() : nullptr; }
  bool standardizes() const { return config_.normalization == Normalization::kStandardize; }
  int maxima_count(int batch, int n_frames) const;
  ClipFinish clip_finish(int batch, int n_frames, const void* scratch) const;
  Repoint run_log_mel(const IoSource& source, const float* waves, int batch, int64_t n_samples, int64_t pad_left,
                      int n_frames, float* out, void* scratch, bool raw, Stream stream) const;
  template <typename Real>
  void upload_tables(const MelFilters& filters);
  template <typename Real>
  Repoint run_frames(const GeneralMel::Run& run, Stream stream) const;

  MelSpecConfig config_;  // with MFCC that of their log-mel, but for n_mfcc: not normalised
  std::unique_ptr<Mfcc> mfcc_;
  std::unique_ptr<GeneralMel> general_;
  bool double_precision_;
  DeviceMemory window_, inner_twiddles_, outer_twiddles_, bands_, weights_, scale_, shift_;
  DeviceMemory arrivals_;  // of melspec_moments: 0 between runs
};

}  // namespace cuda
}  // namespace fcntag
