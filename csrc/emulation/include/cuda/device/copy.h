// csrc/cuda/device/copy.h for a host compiler: the emulator decides when a copy lands.
#pragma once

#include <cstdint>

#include "cuda/device/device.h"
#include "emulation/emulator.h"

namespace fcntag {
namespace dev {

inline void copy_async(SharedAddress target, const void* source, bool valid) {
  emulator::copy_async(target, source, valid);
}
inline void copy_commit() { emulator::copy_commit(); }
template <int kPending>
inline void copy_wait() {
  emulator::copy_wait(kPending);
}

}  // namespace dev
}  // namespace fcntag
