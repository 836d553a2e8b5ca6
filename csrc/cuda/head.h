// The head: last map -> features -> sigmoid(weight @ x + bias). dense.h has the hidden layers in between. Also the maps
// of blocks as plain arrays, for callers that ask for them.
#pragma once

#include <cstdint>
#include <vector>

#include "cuda/conv/conv_params.h"
#include "cuda/runtime.h"
#include "model/network_spec.h"

namespace fcntag {
namespace cuda {

// What features are of the positions of a map: all of them, [positions][stride], or their maximum or mean, [stride].
enum class Pooling { kNone, kMaximum, kMean };

struct HeadParams {
  const float* map;     // [images][positions][stride], float32: the last block's output, or one position of features
  const float* weight;  // [n_tags][features], in the order of the map (see pack_head_weights)
  const float* bias;    // [n_tags]
  const Io* io;         // where scores and logits go
  int positions, stride;
  Pooling pooling;
  int n_tags;
};

void run_head(const HeadParams& params, int images, Stream stream);

// The mean or maximum over the positions, for heads that would read the map often: [images][stride], float32. The
// values are those that the head finds by itself.
struct PoolParams {
  const float* map;  // [images][positions][stride]
  float* out;
  const Io* io;  // its count: rows beyond it are left alone
  int positions, stride;
  Pooling pooling;  // not kNone
};

void run_pool(const PoolParams& params, int images, Stream stream);

// The weights of the layer behind the last map, a hidden one or the head: [outputs][features in the model's order] ->
// [outputs][positions][stride] (kMax, kMean: [outputs][stride]).
std::vector<float> pack_head_weights(const float* weight, int outputs, int channels, int stride, int positions,
                                     Flatten order);

struct MapParams {
  const void* map;  // [images][positions][stride]
  float* out;       // run_unpack: [images][channels][positions]; run_means: [images][channels]
  int positions, channels, stride;
  Storage storage;  // of map
};

void run_unpack(const MapParams& params, int images, Stream stream);
void run_means(const MapParams& params, int images, Stream stream);  // over the positions, summed in double

}  // namespace cuda
}  // namespace fcntag
