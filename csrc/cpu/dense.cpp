#include "cpu/dense.h"

#include <algorithm>

namespace fcntag {

PackedDense pack_dense(const DenseSpec& spec, int block) {
  PackedDense packed;
  packed.in_features = spec.in_features;
  packed.out_features = spec.out_features;
  packed.block = block;
  packed.activation = spec.activation;
  packed.weight = AlignedBuffer(static_cast<std::size_t>(packed.padded()) * spec.in_features);
  packed.bias.assign(static_cast<std::size_t>(packed.padded()), 0.0f);
  for (int out = 0; out < spec.out_features; ++out) {
    const float* row = spec.weight + static_cast<int64_t>(out) * spec.in_features;
    float* column = packed.weight.data() + static_cast<int64_t>(out / block) * block * spec.in_features + out % block;
    for (int i = 0; i < spec.in_features; ++i) column[static_cast<int64_t>(i) * block] = row[i];
    packed.bias[out] = spec.bias[out];
  }
  return packed;
}

void run_dense(const DenseKernels& kernels, const PackedDense& layer, const float* x, int64_t x_row, int images,
               float* y, Workers& workers) {
  const double multiply_adds = static_cast<double>(layer.in_features) * layer.out_features * images;
  workers.loop(layer.blocks(), multiply_adds, [&](int64_t i, int) {
    const int64_t first = i * layer.block;
    kernels.run({layer.weight.data() + first * layer.in_features, layer.bias.data() + first, x, y + first, x_row,
                 layer.padded(), layer.in_features, images, layer.activation});
  });
}

void run_logits(const DenseKernels& kernels, LogitsTask task, Workers& workers) {
  constexpr int kTags = 16;  // of a piece of work
  const double multiply_adds = static_cast<double>(task.in_features) * task.n_tags * task.images;
  workers.loop((task.n_tags + kTags - 1) / kTags, multiply_adds, [&](int64_t i, int) {
    LogitsTask part = task;
    part.first = static_cast<int>(i) * kTags;
    part.last = std::min(part.first + kTags, task.n_tags);
    kernels.logits(part);
  });
}

}  // namespace fcntag
