// A network as its model file describes it, for every device: conv blocks, then a head of dense layers.
#pragma once

#include <cstdint>
#include <vector>

namespace fcntag {

enum class Activation { kNone, kRelu, kElu };

// The order in which the last map becomes the head's features; kMax and kMean take each channel's maximum or mean
// instead.
enum class Flatten { kChw, kHwc, kMax, kMean };

// Whether the head has one feature a channel, whatever the size of the map.
inline bool is_global(Flatten flatten) { return flatten == Flatten::kMax || flatten == Flatten::kMean; }

// The number format of products; sums are float32. A device builds some of them and refuses the others by name.
enum class Precision { kFloat32, kTf32x3, kTf32, kFloat16, kBfloat16 };

const char* precision_name(Precision precision);

struct MapSize {
  int height = 0, width = 0;
};

// One block, but for its weights: y = maxpool(scale * act(conv(x, w) + b) + shift).
struct ConvBlockShape {
  int in_channels = 0, out_channels = 0, kernel = 0;
  Activation activation = Activation::kNone;
  int pool_h = 1, pool_w = 1, stride_h = 1, stride_w = 1;
};

// One block with its weights. They belong to the caller and are read during packing only.
struct ConvBlockSpec : ConvBlockShape {
  const float* weight = nullptr;  // [out_channels, in_channels, kernel, kernel], cross-correlation
  const float* bias = nullptr;    // [out_channels]
  const float* scale = nullptr;   // [out_channels], or null: no affine after the activation
  const float* shift = nullptr;   // [out_channels], or null
};

// A dense layer: act(weight @ x + bias).
struct DenseSpec {
  int in_features = 0, out_features = 0;
  Activation activation = Activation::kNone;
  const float* weight = nullptr;  // [out_features, in_features]
  const float* bias = nullptr;    // [out_features]
};

// Features of the last map -> hidden layers -> the layer of the tags, whose sigmoids are the scores.
struct HeadSpec {
  Flatten flatten = Flatten::kChw;
  int in_features = 0;            // of the first dense layer: as many as leave the last map
  int n_tags = 0;                 // outputs of the last one
  std::vector<DenseSpec> hidden;  // those before the last one
  const float* weight = nullptr;  // [n_tags, last_features()]
  const float* bias = nullptr;    // [n_tags]

  int last_features() const { return hidden.empty() ? in_features : hidden.back().out_features; }
};

struct NetworkSpec {
  std::vector<ConvBlockSpec> blocks;
  HeadSpec head;
  int height = 0, width = 0;  // the largest input
};

// The map that a block makes of an input map. Throws std::invalid_argument where the pool window does not fit in.
MapSize output_size(const ConvBlockShape& block, MapSize input);

// Throws std::invalid_argument unless the last map gives as many features as the head takes. `input` is the network's,
// for the message.
void check_features(Flatten flatten, int in_features, int last_channels, MapSize last_map, MapSize input);

// Throws std::invalid_argument, which names the block and the value, where the parts do not fit one another or are not
// built. Every device's network calls it once, before anything else.
void check_network(const NetworkSpec& spec);

}  // namespace fcntag
