// The part of MelSpec (melspec.h) that has no kernel of its own: frames of any length, magnitudes, every logarithm.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cuda/first_launch.h"
#include "cuda/runtime.h"
#include "model/melspec_config.h"

namespace fcntag {
namespace cuda {

constexpr int kMaxMels = 512;  // that the kernel of 512 points has shared memory for

// How the work is divided, for a device whose blocks may have `shared_limit` bytes of shared memory.
struct GeneralPlan {
  GeneralPlan(const MelSpecConfig& config, const MelFilters& filters, bool double_precision, std::size_t shared_limit);

  int blocks(int batch, int n_frames) const;                 // that share a clip's frames: each leaves a maximum
  int most_blocks(int n_frames) const;                       // the same, for any batch
  int rows(int batch) const;                                 // blocks that share the clips
  std::size_t scratch_bytes(int batch, int n_frames) const;  // as much or more for more clips or frames

  int size;                  // points of the DFT: half the frame's, if those are even
  int points;                // of its passes
  int frames;                // of a block
  int band_lanes;            // that sum one band
  bool shared;               // the transforms' buffers lie in shared memory, else in scratch memory
  std::size_t buffer_bytes;  // of a block
  std::size_t table_bytes;   // of device memory
};

class GeneralMel {
 public:
  // Uploads the tables and waits for them.
  GeneralMel(const MelSpecConfig& config, const MelFilters& filters, bool double_precision);

  // Whether a front end needs this class: no 512 points, more bands than kMaxMels, or what the kernel of 512 points
  // does not know.
  static bool is_for(const MelSpecConfig& config);

  const GeneralPlan& plan() const { return plan_; }
  std::size_t memory_bytes() const;

  struct Run {
    IoSource io;
    const float* waves;
    int batch;
    int64_t n_samples, pad_left;
    int n_frames;
    float* out;        // log-mel, final or to be finished in place
    double* raw;       // [batch][n_mels][n_frames], or null: takes the values instead of `out`; double precision only
    float* maxima;     // [batch][plan().blocks()], or null
    uint8_t* buffers;  // plan().scratch_bytes()
    // Tables of the normalisation, and whether values are scaled by them: they are not where they are not final.
    const float *scale, *shift;
    bool scaled;
  };
  Repoint run(const Run& run, Stream stream) const;

 private:
  template <typename Real>
  void upload_tables(const MelFilters& filters);
  template <typename Real>
  Repoint run_in(const Run& run, Stream stream) const;

  MelSpecConfig config_;
  bool double_precision_;
  GeneralPlan plan_;
  std::vector<int> radices_;
  DeviceMemory window_, halves_, twiddles_, chirp_, kernel_, bands_, weights_;
};

}  // namespace cuda
}  // namespace fcntag
