#pragma once

#include <vector>

namespace fcntag {

// The places of the outputs of run() for B images. A null pointer is an output that nobody asks for.
struct NetworkOutputs {
  float* scores = nullptr;       // [B, n_tags]
  float* logits = nullptr;       // [B, n_tags]
  float* features = nullptr;     // [B, last_features]: what enters the last dense layer
  float* block_means = nullptr;  // [B, sum of out_channels]: mean over (H, W) of every pooled block output
  double* seconds = nullptr;     // [blocks + 1]: the time of every block, then of input copies and head, is added
  std::vector<float*> blocks;    // per block [B, C, H, W], or empty
  std::vector<float*> hidden;    // per hidden layer of the head [B, out_features], or empty
};

}  // namespace fcntag
