#include "cuda/conv/conv_pack.h"

#include <cstddef>

#include "cuda/conv/conv_plan.h"
#include "cuda/half.h"

namespace fcntag {
namespace cuda {

namespace {

// Where byte `k` of the 128 of output channel `n` lies in the weights of a warp. A product takes 32 bytes of 16
// channels as four words of every lane, which are two n8 tiles of two 16-byte chunks: lane 4 * (n % 8) + w has word w
// of each.
std::size_t fragment_byte(int n, int k) {
  const int pair = k / 32, chunk = k / 16 % 2, word = k / 4 % 4;
  const int half = n / 16, tile = n / 8 % 2, lane = n % 8 * 4 + word;
  return (pair * 2 + half) * 512 + lane * 16 + (tile * 2 + chunk) * 4 + k % 4;
}

}  // namespace

std::vector<uint8_t> pack_conv_weights(const ConvBlockSpec& spec, Precision precision) {
  ConvLayer layer{};
  layer.in_channels = spec.in_channels;
  layer.out_channels = spec.out_channels;
  layer.precision = precision;
  const int taps = spec.kernel * spec.kernel, size = element_bytes(precision), per_block = kBlockBytes / size;
  const int padded = layer.n_padded();
  // The last tile may be wider than the channels that are left, and its threads copy what comes after them.
  const std::size_t slack = static_cast<std::size_t>(kLargestTile) * kBlockBytes;
  std::vector<uint8_t> packed(static_cast<std::size_t>(layer.channel_blocks()) * taps * padded * kBlockBytes + slack);
  for (int n = 0; n < spec.out_channels; ++n) {
    const float sign = spec.scale != nullptr && spec.scale[n] < 0 ? -1.0f : 1.0f;
    for (int c = 0; c < spec.in_channels; ++c) {
      for (int tap = 0; tap < taps; ++tap) {
        const float w = sign * spec.weight[(static_cast<std::size_t>(n) * spec.in_channels + c) * taps + tap];
        const std::size_t group =
            ((static_cast<std::size_t>(c / per_block) * taps + tap) * padded + n / kGroupChannels * kGroupChannels) *
            kBlockBytes;
        const std::size_t at =
            group + (precision == Precision::kFloat32 ? (c % per_block * kGroupChannels + n % kGroupChannels) * size
                                                      : fragment_byte(n % kGroupChannels, c % per_block * size));
        store_as(packed.data() + at, w, precision);
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
