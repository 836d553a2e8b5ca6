// The hidden layers of a head: y = act(weight @ x + bias), in float32 in every precision.
#pragma once

#include <cstddef>
#include <vector>

#include "cuda/io.h"
#include "cuda/runtime.h"
#include "model/network_spec.h"

namespace fcntag {
namespace cuda {

// Every sum takes its products in one order, whatever the batch: in float, restarted after each chunk of inputs.
struct DenseParams {
  const float* x;       // [images][inputs]
  const float* weight;  // packed by pack_dense_weights
  const float* bias;    // [outputs]
  float* y;             // [images][outputs]
  const Io* io;         // its count: rows beyond it are left alone
  int inputs, outputs;
  Activation activation;
};

void run_dense(const DenseParams& params, int images, Stream stream);

// weight [outputs][inputs] -> [inputs, padded][outputs, padded] with zeros: neighbours in a warp have neighbouring
// outputs.
std::vector<float> pack_dense_weights(const std::vector<float>& weight, int inputs, int outputs);
std::size_t packed_dense_floats(int inputs, int outputs);

}  // namespace cuda
}  // namespace fcntag
