// Weights and epilogues of a block in the order in which conv_block reads them. Done once, when a model is loaded.
#pragma once

#include <cstdint>
#include <vector>

#include "model/network_spec.h"

namespace fcntag {
namespace cuda {

// Channels of the widest tile that is compiled.
constexpr int kLargestTile = 128;

// Weights of a layer in the order that the kernel stages them, zero where there is no channel: [channel block][tap]
// [groups of 32 output channels][4096 bytes], and one tile more for the last one to read. A group holds [32 input
// channels][32 output channels] in float32, and the fragments of the products in every other precision.
std::vector<uint8_t> pack_conv_weights(const ConvBlockSpec& spec, Precision precision);
// [4][n_padded]: sign, bias, scale, shift. The sign of a negative scale goes into the weights.
std::vector<float> pack_epilogue(const ConvBlockSpec& spec);

}  // namespace cuda
}  // namespace fcntag
