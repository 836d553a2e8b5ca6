#pragma once

#include <vector>

namespace fcntag {

// Where run() puts what it is asked for; any pointer but scores may be null. B images.
struct NetworkOutputs {
  float* scores = nullptr;       // [B, n_tags]
  float* logits = nullptr;       // [B, n_tags]
  float* features = nullptr;     // [B, in_features]: what enters the dense layer
  float* block_means = nullptr;  // [B, sum of out_channels]: mean over (H, W) of every pooled block output
  double* seconds = nullptr;     // [blocks + 1]: time of every block, then of input copies and head; added up
  std::vector<float*> blocks;    // per block [B, C, H, W], or empty
};

}  // namespace fcntag
