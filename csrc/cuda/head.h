// The head: last map -> features -> sigmoid(weight @ features + bias). Also the maps of blocks as plain arrays, for
// callers that ask for them.
#pragma once

#include <cstdint>
#include <vector>

#include "cuda/conv/conv_params.h"
#include "cuda/runtime.h"
#include "model/network_spec.h"

namespace fcntag {
namespace cuda {

struct HeadParams {
  const float* map;     // [images][positions][stride], float32: the last block's output
  const float* weight;  // [n_tags][features], in the order of the map (see pack_head_weights)
  const float* bias;    // [n_tags]
  const Io* io;         // where scores and logits go
  int positions, stride;
  bool maximum;  // features are the maximum over the positions: [stride], else all of [positions][stride]
  int n_tags;
};

void run_head(const HeadParams& params, int images, Stream stream);

// weight [n_tags][features in the model's order] -> [n_tags][positions][stride] (kMax: [n_tags][stride]).
std::vector<float> pack_head_weights(const float* weight, int n_tags, int channels, int stride, int positions,
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
