#include "cuda/conv/conv_pack.h"

#include <cstddef>

#include "cuda/conv/conv_plan.h"
#include "cuda/half.h"

namespace fcntag {
namespace cuda {

std::vector<uint8_t> pack_conv_weights(const ConvBlockSpec& spec, Precision precision) {
  ConvLayer layer{};
  layer.in_channels = spec.in_channels;
  layer.out_channels = spec.out_channels;
  layer.precision = precision;
  const int taps = spec.kernel * spec.kernel, size = element_bytes(precision), per_block = kBlockBytes / size;
  const int padded = layer.n_padded();
  std::vector<uint8_t> packed(static_cast<std::size_t>(layer.channel_blocks()) * taps * padded * kBlockBytes);
  for (int n = 0; n < spec.out_channels; ++n) {
    const float sign = spec.scale != nullptr && spec.scale[n] < 0 ? -1.0f : 1.0f;
    for (int c = 0; c < spec.in_channels; ++c) {
      for (int tap = 0; tap < taps; ++tap) {
        const float w = sign * spec.weight[(static_cast<std::size_t>(n) * spec.in_channels + c) * taps + tap];
        const std::size_t slab = (static_cast<std::size_t>(c / per_block) * taps + tap) * padded * per_block;
        const std::size_t at = precision == Precision::kFloat32
                                   ? slab + static_cast<std::size_t>(c % per_block) * padded + n
                                   : slab + static_cast<std::size_t>(n) * per_block + c % per_block;
        store_as(packed.data() + at * size, w, precision);
      }
    }
  }
  return packed;
}

std::vector<float> pack_epilogue(const ConvBlockSpec& spec) {
  const int padded = (spec.out_channels + 31) / 32 * 32;
  std::vector<float> packed(4 * static_cast<std::size_t>(padded));
  for (int n = 0; n < spec.out_channels; ++n) {
    const float scale = spec.scale != nullptr ? spec.scale[n] : 1.0f;
    packed[n] = scale < 0 ? -1.0f : 1.0f;
    packed[padded + n] = spec.bias[n];
    packed[2 * padded + n] = scale;
    packed[3 * padded + n] = spec.shift != nullptr ? spec.shift[n] : 0.0f;
  }
  return packed;
}

}  // namespace cuda
}  // namespace fcntag
