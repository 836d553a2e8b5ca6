// csrc/cuda/device/bulk.h for a host compiler: the emulator decides when a copy lands.
#pragma once

#include <cstdint>

#include "cuda/device/device.h"
#include "emulation/emulator.h"

namespace fcntag {
namespace dev {

inline bool bulk_copies() { return emulator::has_bulk_copies(); }
inline void bulk_barrier(SharedAddress barrier) { emulator::bulk_barrier(barrier); }
inline void bulk_expect(SharedAddress barrier, uint32_t bytes) { emulator::bulk_expect(barrier, bytes); }
inline void bulk_copy(SharedAddress target, const void* source, uint32_t bytes, SharedAddress barrier) {
  emulator::bulk_copy(target, source, bytes, barrier);
}
inline void bulk_wait(SharedAddress barrier, uint32_t parity) { emulator::bulk_wait(barrier, parity); }

}  // namespace dev
}  // namespace fcntag
