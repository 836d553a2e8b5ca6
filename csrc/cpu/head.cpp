#include "cpu/head.h"

#include <cmath>

namespace fcntag {

void dense_sigmoid(const float* features, const float* weight, const float* bias, int in_features, int n_tags,
                   float* scores, float* logits) {
  constexpr int kSums = 8;  // independent chains, whose fixed order gives every machine the same result
  for (int tag = 0; tag < n_tags; ++tag) {
    const float* w = weight + static_cast<long>(tag) * in_features;
    double sums[kSums] = {};
    int i = 0;
    for (; i + kSums <= in_features; i += kSums) {
      for (int j = 0; j < kSums; ++j) sums[j] += static_cast<double>(w[i + j]) * features[i + j];
    }
    double sum = bias[tag];
    for (int j = 0; j < kSums; ++j) sum += sums[j];
    for (; i < in_features; ++i) sum += static_cast<double>(w[i]) * features[i];
    if (logits != nullptr) logits[tag] = static_cast<float>(sum);
    scores[tag] = static_cast<float>(1.0 / (1.0 + std::exp(-sum)));
  }
}

}  // namespace fcntag
