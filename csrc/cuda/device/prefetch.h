// Weights of the next layer on their way to the second-level cache, while this one computes.
#pragma once

#include <cstdint>

#include "cuda/device/device.h"

namespace fcntag {
namespace dev {

// Thread `thread` of `threads` of CTA `cta` of `ctas` asks for its share of data[bytes]. Nobody waits for what was
// asked for, and nothing changes but the cache: a kernel calls this before or after its wait for its predecessors, if
// no kernel writes `data`. A null `data` with 0 bytes asks for nothing. Call it behind the kernel's own first loads,
// which would otherwise queue behind these.
FCNTAG_DEVICE void prefetch_slice(const void* data, int64_t bytes, int cta, int ctas, int thread, int threads) {
  constexpr int kLine = 128;  // bytes
  const uint8_t* lines = static_cast<const uint8_t*>(data);
  const int64_t step = static_cast<int64_t>(ctas * threads) * kLine;
  FCNTAG_NO_UNROLL for (int64_t at = static_cast<int64_t>(cta * threads + thread) * kLine; at < bytes; at += step) {
    prefetch(lines + at);
  }
}

}  // namespace dev
}  // namespace fcntag
