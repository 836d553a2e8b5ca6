// Conversions that need no instruction of their own.
#pragma once

#include <cstdint>

#include "cuda/device/device.h"

namespace fcntag {
namespace dev {

FCNTAG_DEVICE uint32_t pack_float16(float low, float high) {
  return to_float16(low) | static_cast<uint32_t>(to_float16(high)) << 16;
}
FCNTAG_DEVICE float from_bfloat16(uint16_t x) { return as_float(static_cast<uint32_t>(x) << 16); }

}  // namespace dev
}  // namespace fcntag
