// csrc/cuda/device/mma.h for a host compiler: the emulator multiplies.
#pragma once

#include <cstdint>

#include "cuda/device/device.h"
#include "emulation/emulator.h"

namespace fcntag {
namespace dev {

FCNTAG_NOINLINE void load_matrix(uint32_t (&r)[4], SharedAddress row, FCNTAG_SITE) {
  emulator::load_matrix(r, row, site);
}
FCNTAG_NOINLINE void mma_bfloat16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, FCNTAG_SITE) {
  emulator::mma(emulator::Operand::kBfloat16, c, a, b0, b1, site);
}
FCNTAG_NOINLINE void mma_float16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, FCNTAG_SITE) {
  emulator::mma(emulator::Operand::kFloat16, c, a, b0, b1, site);
}
FCNTAG_NOINLINE void product_float16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, FCNTAG_SITE) {
  c[0] = c[1] = c[2] = c[3] = 0.0f;
  emulator::mma(emulator::Operand::kFloat16, c, a, b0, b1, site);
}
FCNTAG_NOINLINE void mma_tf32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, FCNTAG_SITE) {
  emulator::mma(emulator::Operand::kTf32, c, a, b0, b1, site);
}
FCNTAG_NOINLINE void product_tf32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, FCNTAG_SITE) {
  c[0] = c[1] = c[2] = c[3] = 0.0f;
  emulator::mma(emulator::Operand::kTf32, c, a, b0, b1, site);
}

}  // namespace dev
}  // namespace fcntag
