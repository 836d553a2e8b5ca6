// Hidden dense layers: y = act(weight @ x + bias) for a group of images, which share one reading of the weights.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/aligned_buffer.h"
#include "cpu/workers.h"
#include "model/network_spec.h"

namespace fcntag {

// Values that a sum takes before it is added to the sum of those before. It keeps a block of weights near, and rounding
// small; it is the same for every batch, and so are results.
constexpr int kDenseChunk = 256;

struct PackedDense {
  int in_features = 0, out_features = 0;
  int block = 0;  // output features of a task
  Activation activation = Activation::kNone;
  AlignedBuffer weight;     // [blocks][in_features][block]; zeros beyond out_features
  std::vector<float> bias;  // [blocks * block]

  int blocks() const { return (out_features + block - 1) / block; }
  int padded() const { return blocks() * block; }  // floats of an output row
  std::size_t bytes() const { return weight.bytes() + bias.size() * sizeof(float); }
};

// One block of output features of all images. Rows of x and y are x_row and y_row floats apart.
struct DenseTask {
  const float* weight;  // [in_features][block]
  const float* bias;    // [block]
  const float* x;
  float* y;  // the task's first feature
  int64_t x_row, y_row;
  int in_features, images;
  Activation activation;
};

// Kernels of one instruction set.
struct DenseKernels {
  int block;
  void (*run)(const DenseTask& task);
};

PackedDense pack_dense(const DenseSpec& spec, int block);

// x [images][x_row floats] -> y [images][layer.padded()], of which the first out_features of a row count.
void run_dense(const DenseKernels& kernels, const PackedDense& layer, const float* x, int64_t x_row, int images,
               float* y, Workers& workers);

}  // namespace fcntag
