#include "model/network_spec.h"

#include "check.h"

namespace fcntag {

const char* precision_name(Precision precision) {
  switch (precision) {
    case Precision::kTf32x3:
      return "tf32x3";
    case Precision::kTf32:
      return "tf32";
    case Precision::kFloat16:
      return "float16";
    case Precision::kBfloat16:
      return "bfloat16";
    default:
      return "float32";
  }
}

MapSize output_size(const ConvBlockShape& block, MapSize input) {
  FCNTAG_CHECK(input.height >= block.pool_h && input.width >= block.pool_w, "conv_block: map ", input.height, "x",
               input.width, " is smaller than the pool window (", block.pool_h, ", ", block.pool_w, ")");
  return {(input.height - block.pool_h) / block.stride_h + 1, (input.width - block.pool_w) / block.stride_w + 1};
}

void check_features(Flatten flatten, int in_features, int last_channels, MapSize last_map, MapSize input) {
  const int64_t positions = is_global(flatten) ? 1 : static_cast<int64_t>(last_map.height) * last_map.width;
  int64_t features = 0;
  FCNTAG_CHECK(!__builtin_mul_overflow(positions, last_channels, &features) && features == in_features,
               "network: input ", input.height, "x", input.width, " gives ", positions, " x ", last_channels,
               " features; the head takes ", in_features);
}

void check_network(const NetworkSpec& spec) {
  FCNTAG_CHECK(!spec.blocks.empty(), "network: no blocks");
  FCNTAG_CHECK(spec.height > 0 && spec.width > 0, "network: input ", spec.height, "x", spec.width,
               " must not be empty");
  FCNTAG_CHECK(spec.head.n_tags > 0 && spec.head.in_features > 0, "network: head of ", spec.head.in_features,
               " features and ", spec.head.n_tags, " tags");
  int features = spec.head.in_features;
  for (std::size_t i = 0; i < spec.head.hidden.size(); ++i) {
    const DenseSpec& layer = spec.head.hidden[i];
    FCNTAG_CHECK(layer.in_features == features && layer.out_features > 0, "network: hidden layer ", i, " takes ",
                 layer.in_features, " features and gives ", layer.out_features, ", but ", features, " arrive");
    features = layer.out_features;
  }
  MapSize map = {spec.height, spec.width};
  int channels = 1;
  for (std::size_t i = 0; i < spec.blocks.size(); ++i) {
    const ConvBlockSpec& block = spec.blocks[i];
    FCNTAG_CHECK(block.in_channels == channels, "network: block ", i, " takes ", block.in_channels, " channels, but ",
                 channels, " arrive");
    FCNTAG_CHECK(block.kernel == 1 || block.kernel == 3, "conv_block: kernel=", block.kernel,
                 " is not built; built: 1, 3");
    FCNTAG_CHECK(block.in_channels > 0 && block.out_channels > 0, "conv_block: in_channels=", block.in_channels,
                 ", out_channels=", block.out_channels, " must be positive");
    FCNTAG_CHECK(block.pool_h > 0 && block.pool_w > 0 && block.stride_h > 0 && block.stride_w > 0,
                 "conv_block: pool window (", block.pool_h, ", ", block.pool_w, "), stride (", block.stride_h, ", ",
                 block.stride_w, ") must be positive");
    map = output_size(block, map);
    channels = block.out_channels;
  }
  check_features(spec.head.flatten, spec.head.in_features, channels, map, {spec.height, spec.width});
}

}  // namespace fcntag
