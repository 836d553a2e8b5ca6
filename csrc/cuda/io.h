// Where one run's data lies. The first kernel of a chain reads it and the last one writes it through this struct in
// device memory, so that a graph recorded once serves any caller's arrays and any batch up to its bucket.
#pragma once

#include <cstdint>

namespace fcntag {
namespace cuda {

struct Io {
  const float* waves;   // [count, n_samples] (or PCM [count, n_in, n_channels] for a chain that resamples)
  int64_t wave_stride;  // floats from one clip to the next
  float* scores;        // [count, n_tags], or null
  float* logits;        // [count, n_tags], or null
  int32_t count;        // clips that exist; kernels leave rows beyond it alone
};

}  // namespace cuda
}  // namespace fcntag
