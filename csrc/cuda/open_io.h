// How the first kernel of a chain gets at its Io.
#pragma once

#include "cuda/device/device.h"
#include "cuda/io.h"

namespace fcntag {
namespace cuda {

// Every thread of the kernel may call it, and thread 0 of block 0 has to. A kernel calls it after its wait for its
// predecessors, which may still read what it overwrites.
FCNTAG_DEVICE Io open_io(const IoSource& source) {
  if (source.target == nullptr) return *source.memory;
  if ((blockIdx.x | blockIdx.y | blockIdx.z | threadIdx.x) == 0) *source.target = source.value;
  return source.value;
}

}  // namespace cuda
}  // namespace fcntag
