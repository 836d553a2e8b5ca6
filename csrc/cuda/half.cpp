#include "cuda/half.h"

#include <cmath>
#include <cstring>

#include "check.h"

namespace fcntag {
namespace cuda {

namespace {
uint32_t bits(float x) {
  uint32_t u;
  std::memcpy(&u, &x, sizeof u);
  return u;
}
}  // namespace

uint16_t bfloat16_bits(float x) {
  const uint32_t u = bits(x);
  return static_cast<uint16_t>((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

uint16_t float16_bits(float x) {
  FCNTAG_CHECK(std::fabs(x) <= 65504.0f, "float16: a weight of ", x, " is beyond 65504; use bfloat16 or tf32");
  const uint16_t sign = static_cast<uint16_t>(bits(x) >> 16 & 0x8000u);
  const double magnitude = std::fabs(static_cast<double>(x));
  int exponent = 0;
  std::frexp(magnitude, &exponent);    // magnitude in [2^(exponent - 1), 2^exponent)
  if (exponent < -13) exponent = -13;  // subnormal: the spacing stays at 2^-24
  // nearbyint rounds to nearest even; a carry out of the mantissa runs into the exponent, as it should
  const long mantissa = static_cast<long>(std::nearbyint(std::ldexp(magnitude, 11 - exponent)));
  if (mantissa < 1024) return sign | static_cast<uint16_t>(mantissa);
  return sign | static_cast<uint16_t>(((exponent + 14) << 10) + (mantissa - 1024));
}

float rounded_tf32(float x) {
  uint32_t u = (bits(x) + 0x1000u) & 0xffffe000u;
  float rounded;
  std::memcpy(&rounded, &u, sizeof rounded);
  return rounded;
}

void store_as(uint8_t* target, float x, Precision precision) {
  if (element_bytes(precision) == 2) {
    const uint16_t half = precision == Precision::kBfloat16 ? bfloat16_bits(x) : float16_bits(x);
    std::memcpy(target, &half, sizeof half);
  } else {
    const float value = precision == Precision::kTf32 ? rounded_tf32(x) : x;
    std::memcpy(target, &value, sizeof value);
  }
}

}  // namespace cuda
}  // namespace fcntag
