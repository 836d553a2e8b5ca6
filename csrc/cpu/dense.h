// Dense layers for a group of images, which share one reading of the weights: hidden ones, y = act(weight @ x + bias),
// and the last one, whose sigmoids are the scores.
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

// Outputs [first, last) of the last layer for all images: sums in double, whatever the activation behind. The layer is
// a small part of a network's work, but its rounding in float would be the largest of all.
struct LogitsTask {
  const float *weight, *bias;  // [n_tags][in_features], [n_tags]
  const float* x;
  double* y;  // [images][n_tags]
  int64_t x_row;
  int in_features, n_tags, first, last, images;
};

// Kernels of one instruction set.
struct DenseKernels {
  int block;
  void (*run)(const DenseTask& task);
  void (*logits)(const LogitsTask& task);
};

PackedDense pack_dense(const DenseSpec& spec, int block);

// x [images][x_row floats] -> y [images][layer.padded()], of which the first out_features of a row count.
void run_dense(const DenseKernels& kernels, const PackedDense& layer, const float* x, int64_t x_row, int images,
               float* y, Workers& workers);

// x [images][x_row floats], weight [n_tags][in_features], bias [n_tags] -> y [images][n_tags].
void run_logits(const DenseKernels& kernels, LogitsTask task, Workers& workers);

}  // namespace fcntag
