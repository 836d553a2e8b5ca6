// Where one run's data lies. The first kernel of a chain reads it and the last one writes it through this struct, so
// that a graph recorded once serves any caller's arrays and any batch up to its bucket. The first kernel has it as a
// parameter, which a recorded graph can be given anew, and leaves it in device memory for those after it.
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

// Where the first kernel of a chain has its Io from; see open_io.h.
struct IoSource {
  const Io* memory = nullptr;  // read if `target` is null
  Io* target = nullptr;        // else where the kernel writes `value`, for the kernels after it
  Io value = {};

  IoSource() = default;
  IoSource(const Io* in_memory) : memory(in_memory) {}
  IoSource(Io* for_others, const Io& given) : target(for_others), value(given) {}
  // What kernels after the first one read.
  const Io* shared() const { return target != nullptr ? target : memory; }
};

}  // namespace cuda
}  // namespace fcntag
