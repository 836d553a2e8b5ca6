// The head: scores = sigmoid(weight @ features + bias), the last step of every model.
#pragma once

namespace fcntag {

// features [in_features], weight [n_tags, in_features], bias [n_tags] -> scores [n_tags] and, if not null, logits.
// The sums are double. The layer is a thousandth of a network's work, but its rounding in float would be the largest of
// all.
void dense_sigmoid(const float* features, const float* weight, const float* bias, int in_features, int n_tags,
                   float* scores, float* logits);

}  // namespace fcntag
