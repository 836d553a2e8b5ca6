// Tables that every device's front end is made of.
#pragma once

#include <cmath>
#include <vector>

namespace fcntag {

constexpr int kDeltaWidth = 9;  // frames that a delta is fitted to

// [n_mels][n_mfcc]: sqrt((c ? 2 : 1) / n_mels) cos(pi c (2 m + 1) / (2 n_mels)).
inline std::vector<double> dct_table(int n_mels, int n_mfcc) {
  constexpr double kPi = 3.14159265358979323846;
  std::vector<double> table;
  for (int m = 0; m < n_mels; ++m) {
    for (int c = 0; c < n_mfcc; ++c) {
      const double norm = std::sqrt((c == 0 ? 1.0 : 2.0) / n_mels);
      // The angle is reduced while it is an integer: 4 n_mels steps are a turn.
      table.push_back(norm * std::cos(kPi * (c * (2 * m + 1) % (4 * n_mels)) / (2.0 * n_mels)));
    }
  }
  return table;
}

}  // namespace fcntag
