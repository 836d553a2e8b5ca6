// Rounding of float32 weights, on the host, to the formats that the GPU multiplies.
#pragma once

#include <cstdint>

#include "cuda/conv/conv_params.h"

namespace fcntag {
namespace cuda {

uint16_t bfloat16_bits(float x);  // to nearest even
uint16_t float16_bits(float x);   // to nearest even, with subnormals; throws std::invalid_argument beyond 65504
float rounded_tf32(float x);      // to nearest, ties away from zero, as cvt.rna does

// x, rounded for `precision`, to the 2 or 4 bytes at `target`.
void store_as(uint8_t* target, float x, Precision precision);

}  // namespace cuda
}  // namespace fcntag
