#include "model/melspec_config.h"

#include "check.h"

namespace fcntag {

MelFilters sparse_filters(const MelSpecConfig& c) {
  FCNTAG_CHECK(c.hop_length > 0, "melspec: hop_length=", c.hop_length, " must be positive");
  FCNTAG_CHECK(c.n_fft >= kMinFft && c.n_fft <= kMaxFft, "melspec: n_fft=", c.n_fft, "; allowed: ", kMinFft, " to ",
               kMaxFft);
  FCNTAG_CHECK(c.window.size() == static_cast<std::size_t>(c.n_fft), "melspec: window of ", c.window.size(),
               " samples for n_fft=", c.n_fft);
  const int n_bins = c.n_bins();
  FCNTAG_CHECK(c.n_mels > 0 && c.filters.size() == static_cast<std::size_t>(c.n_mels) * n_bins, "melspec: filters of ",
               c.filters.size(), " values for n_mels=", c.n_mels, " x ", n_bins);
  const bool logarithm = c.log == LogKind::kDb || c.log == LogKind::kLn || c.log == LogKind::kLog10;
  const double least = c.log == LogKind::kDb ? c.amin : c.amin + c.offset;
  FCNTAG_CHECK(!logarithm || (c.amin >= 0 && c.offset >= 0 && least > 0), "melspec: amin=", c.amin,
               ", offset=", c.offset, ": silence would have no logarithm");
  FCNTAG_CHECK(c.power_exponent == 1 || c.power_exponent == 2, "melspec: power_exponent=", c.power_exponent,
               "; built: 1, 2");
  FCNTAG_CHECK(c.scale.size() == c.shift.size(), "melspec: scale and shift differ in length");
  if (c.n_mfcc != 0) {
    FCNTAG_CHECK(c.n_mfcc >= 1 && c.n_mfcc <= c.n_mels, "melspec: n_mfcc=", c.n_mfcc,
                 "; allowed: 0 (none), or 1 to n_mels=", c.n_mels);
    FCNTAG_CHECK(!c.time_mel && c.normalization != Normalization::kStandardize &&
                     c.normalization != Normalization::kStandardizePerMel,
                 "melspec: MFCC are built with time along the rows, and not standardised");
  }
  MelFilters filters;
  for (int m = 0; m < c.n_mels; ++m) {
    const double* row = c.filters.data() + static_cast<std::size_t>(m) * n_bins;
    int begin = 0, end = n_bins;
    while (begin < end && row[begin] == 0) ++begin;
    while (end > begin && row[end - 1] == 0) --end;
    filters.begin.push_back(begin);
    filters.count.push_back(end - begin);
    filters.offset.push_back(static_cast<int>(filters.weights.size()));
    filters.weights.insert(filters.weights.end(), row + begin, row + end);
  }
  return filters;
}

}  // namespace fcntag
