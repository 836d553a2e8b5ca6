// Weights and epilogues of a block in the order in which conv_block reads them. Done once, when a model is loaded.
#pragma once

#include <cstdint>
#include <vector>

#include "model/network_spec.h"

namespace fcntag {
namespace cuda {

// Weights of a layer in the order that the kernel stages them, zero where there is no channel.
// Tensor-core precisions: [channel block][tap][n_padded][128 bytes]; float32: [channel block][tap][32][n_padded].
std::vector<uint8_t> pack_conv_weights(const ConvBlockSpec& spec, Precision precision);
// [4][n_padded]: sign, bias, scale, shift. The sign of a negative scale goes into the weights.
std::vector<float> pack_epilogue(const ConvBlockSpec& spec);

}  // namespace cuda
}  // namespace fcntag
