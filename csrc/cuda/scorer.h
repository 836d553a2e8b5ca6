// From waveforms to scores on one GPU: front end and network as one recorded graph per batch bucket.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "cuda/frontend/melspec.h"
#include "cuda/network.h"
#include "cuda/frontend/resample.h"
#include "cuda/runtime.h"

namespace fcntag {
namespace cuda {

// The clips of one call, which are all alike: their length, the frames that the front end makes of them, and the part
// of those that the network reads. Python hands it over as a tuple of these five, in this order.
struct SegmentShape {
  int64_t n_samples;  // of a clip at the model's rate
  int64_t pad_left;   // samples that the first frame begins before the clip does
  int n_frames;       // frames that the front end computes
  int height, width;  // of the network's input: the first rows and columns of what the front end computes

  bool operator<(const SegmentShape& other) const {
    return std::tie(n_samples, pad_left, n_frames, height, width) <
           std::tie(other.n_samples, other.pad_left, other.n_frames, other.height, other.width);
  }
};

class Scorer {
 public:
  // `resampler` null: waves come at the model's rate, mono. Else PCM [n_in, n_channels] that it turns into such.
  Scorer(std::shared_ptr<MelSpec> melspec, std::shared_ptr<Network> network, SegmentShape largest,
         std::shared_ptr<Resampler> resampler, int64_t n_in, int n_channels);
  ~Scorer();  // waits for the last run, whose buffers and graphs go

  // Puts a whole run on `stream`: no allocation once a bucket has been used, no synchronisation. Device pointers: waves
  // `wave_stride` floats from clip to clip, scores and logits [count, n_tags] or null. count is at most max_batch.
  void enqueue(const float* waves, int64_t wave_stride, int count, float* scores, float* logits,
               const SegmentShape& shape, Stream stream);

  // The same from and to host memory, any count; returns when the scores are there.
  void run(const float* waves, int count, float* scores, float* logits, const SegmentShape& shape);

  // Seconds of every stage ("h2d", ["resample"], "mel", "block 1" ..., "head"), `repeats` times each, measured with
  // events around stages that are enqueued one by one; on random waves. The GPU is idle before each, so that the host's
  // launches count. With spin_seconds > 0 it is busy for that long: what the host puts on the stream meanwhile counts
  // as the GPU's time alone.
  std::vector<std::pair<std::string, std::vector<double>>> stage_times(int batch, int repeats, double spin_seconds,
                                                                       const SegmentShape& shape);
  // Seconds of whole graph replays, over `inputs` different resident inputs in turn; with flush_bytes > 0 as much
  // memory is cleared before each, so that a smaller cache is cold. spin_seconds as above.
  std::vector<double> replay_times(int batch, int repeats, int inputs, std::size_t flush_bytes, double spin_seconds,
                                   const SegmentShape& shape);

  // Floats of one clip of waves (or of PCM, for a scorer that resamples).
  int64_t clip_floats(const SegmentShape& shape) const { return resampler_ ? n_in_ * n_channels_ : shape.n_samples; }

  int n_tags() const { return network_->n_tags(); }
  std::size_t memory_bytes() const;
  // Graphs are used unless this is switched off, to debug or to measure what they save.
  void use_graphs(bool use) { use_graphs_ = use; }

 private:
  struct Recorded {
    std::unique_ptr<Graph> graph;
    int generation;
    Repoint repoint;
    Io io;  // that the next launch would have
  };

  void check_shape(const SegmentShape& shape) const;
  void make_host_buffers();
  Repoint front_end(const IoSource& io, int batch, const SegmentShape& shape, Stream stream) const;
  Repoint put(const Io& io, int batch, const SegmentShape& shape, Stream stream);
  Graph& recorded(const Io& io, int batch, const SegmentShape& shape);
  InputView input_view(int batch, const SegmentShape& shape) const;
  bool network_finishes(int batch, const SegmentShape& shape) const;

  std::shared_ptr<MelSpec> melspec_;
  std::shared_ptr<Network> network_;
  SegmentShape largest_;
  std::shared_ptr<Resampler> resampler_;
  int64_t n_in_;
  int n_channels_;
  DeviceMemory io_, waves_, resampled_, log_mel_, scratch_, results_;
  PinnedMemory pinned_waves_, pinned_results_;
  std::map<std::pair<int, SegmentShape>, Recorded> graphs_;
  bool use_graphs_ = true;
  std::unique_ptr<OwnStream> stream_;
};

}  // namespace cuda
}  // namespace fcntag
