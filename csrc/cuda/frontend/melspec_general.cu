#include "cuda/frontend/melspec_general.h"

#include <algorithm>
#include <complex>
#include <vector>

#include "check.h"
#include "cuda/frontend/fft_plan.h"
#include "cuda/frontend/frame_params.h"
#include "cuda/frontend/melspec_general_kernel.h"
#include "cuda/frontend/tables.h"

namespace fcntag {
namespace cuda {

namespace {

constexpr int kBlockPoints = 1024;  // of the frames of a block, where one frame has fewer
constexpr int kMostFrames = 16;     // of a block
constexpr int kBandBins = 4;        // that a lane sums of a band of average width, or fewer
// Scratch memory for transforms: blocks that work at the same time, and go on to other frames afterwards.
constexpr std::size_t kBuffers = std::size_t{64} << 20;
constexpr int kFewestBlocks = 32, kMostBlocks = 256;

int blocks_at_once(std::size_t buffer_bytes) {
  return static_cast<int>(std::clamp<std::size_t>(kBuffers / buffer_bytes, kFewestBlocks, kMostBlocks));
}

uint32_t inverse(int divisor) { return static_cast<uint32_t>((uint64_t{1} << 32) / divisor + 1); }

}  // namespace

bool GeneralMel::is_for(const MelSpecConfig& c) {
  return c.n_fft != kFft || c.n_mels > kMaxMels || c.magnitude ||
         (c.log != LogKind::kDb && c.log != LogKind::kLog10p1) || c.normalization == Normalization::kStandardizePerMel;
}

GeneralPlan::GeneralPlan(const MelSpecConfig& c, const MelFilters& filters, bool double_precision,
                         std::size_t shared_limit) {
  size = c.n_fft % 2 == 0 ? c.n_fft / 2 : c.n_fft;
  points = fft_points(size);
  for (frames = 1; frames < kMostFrames && 2 * frames * points <= kBlockPoints;) frames *= 2;
  const std::size_t number = double_precision ? sizeof(double) : sizeof(float);
  buffer_bytes = 2 * number * 2 * points * frames;
  shared = kGeneralHead + buffer_bytes <= shared_limit;
  const int bins = static_cast<int>(filters.weights.size()) / c.n_mels;
  const int most = std::min(32, kGeneralThreads / frames);
  for (band_lanes = 1; band_lanes < most && band_lanes * kBandBins < bins;) band_lanes *= 2;
  std::size_t complex_numbers = points;
  if (size != c.n_fft) complex_numbers += size / 2 + 1;
  if (points != size) complex_numbers += size + points;
  table_bytes = number * (2 * complex_numbers + c.n_fft + filters.weights.size()) + sizeof(WideBand) * c.n_mels;
}

int GeneralPlan::most_blocks(int n_frames) const { return (n_frames + frames - 1) / frames; }

int GeneralPlan::rows(int batch) const { return shared ? batch : std::min(batch, blocks_at_once(buffer_bytes)); }

int GeneralPlan::blocks(int batch, int n_frames) const {
  const int most = most_blocks(n_frames);
  return shared || batch == 0 ? most : std::min(most, std::max(blocks_at_once(buffer_bytes) / rows(batch), 1));
}

std::size_t GeneralPlan::scratch_bytes(int batch, int n_frames) const {
  if (shared) return 0;
  const int64_t wanted = static_cast<int64_t>(batch) * most_blocks(n_frames);
  return buffer_bytes * std::min<int64_t>(wanted, blocks_at_once(buffer_bytes));
}

GeneralMel::GeneralMel(const MelSpecConfig& config, const MelFilters& filters, bool double_precision)
    : config_(config),
      double_precision_(double_precision),
      plan_(config, filters, double_precision, device_info(current_device()).shared_bytes) {
  if (double_precision_) {
    upload_tables<double>(filters);
  } else {
    upload_tables<float>(filters);
  }
}

template <typename Real>
void GeneralMel::upload_tables(const MelFilters& filters) {
  const MelSpecConfig& c = config_;
  const FftTables tables = fft_tables(plan_.size);
  radices_ = tables.radices;
  const bool pairs = plan_.size != c.n_fft;
  std::vector<Real> window, weights;
  for (const double w : c.window) window.push_back(static_cast<Real>(pairs ? w / 2 : w));
  std::vector<std::complex<double>> halves;
  for (int k = 0; pairs && k <= plan_.size / 2; ++k) halves.push_back(turn(k, c.n_fft));
  std::vector<WideBand> bands;
  for (int m = 0; m < c.n_mels; ++m) bands.push_back({filters.begin[m], filters.count[m], filters.offset[m]});
  for (const double w : filters.weights) weights.push_back(static_cast<Real>(w));
  window_ = upload(window);
  halves_ = upload_complex<Real>(halves);
  twiddles_ = upload_complex<Real>(tables.twiddles);
  chirp_ = upload_complex<Real>(tables.chirp);
  kernel_ = upload_complex<Real>(tables.kernel);
  bands_ = upload(bands);
  weights_ = upload(weights);
}

std::size_t GeneralMel::memory_bytes() const {
  return window_.bytes() + halves_.bytes() + twiddles_.bytes() + chirp_.bytes() + kernel_.bytes() + bands_.bytes() +
         weights_.bytes();
}

Repoint GeneralMel::run(const Run& run, Stream stream) const {
  if (double_precision_) return run_in<double>(run, stream);
  FCNTAG_CHECK(run.raw == nullptr, "melspec: raw values are there in double precision only");
  return run_in<float>(run, stream);
}

template <typename Real>
Repoint GeneralMel::run_in(const Run& run, Stream stream) const {
  const MelSpecConfig& c = config_;
  GeneralParams<Real> p = frame_params<GeneralParams, Real>(c, run);
  p.raw = reinterpret_cast<Real*>(run.raw);
  p.buffers = run.buffers;
  p.fft.size = plan_.size;
  p.fft.points = plan_.points;
  p.fft.convolution = plan_.points != plan_.size;
  p.fft.twiddles = twiddles_.as<Complex<Real>>();
  p.fft.chirp = chirp_.as<Complex<Real>>();
  p.fft.kernel = kernel_.as<Complex<Real>>();
  int before = 1;
  for (const int radix : radices_) {
    FftPass& pass = p.fft.passes[p.fft.n_passes++];
    const int step = plan_.points / (before * radix);
    pass = {radix, before, step, inverse(before), inverse(before * radix), plan_.points / radix};
    before *= radix;
  }
  p.window = window_.as<Real>();
  p.halves = halves_.as<Complex<Real>>();
  p.bands = bands_.as<WideBand>();
  p.weights = weights_.as<Real>();
  p.batch = run.batch;
  p.n_fft = c.n_fft;
  p.frames = plan_.frames;
  p.band_lanes = plan_.band_lanes;
  while (1 << p.frame_shift < p.frames) ++p.frame_shift;
  while (1 << p.band_shift < p.band_lanes) ++p.band_shift;
  p.magnitude = c.magnitude;
  p.log = c.log;
  p.offset = static_cast<Real>(c.offset);
  const dim3 grid(plan_.blocks(run.batch, run.n_frames), plan_.rows(run.batch));
  const LaunchShape shape = {grid, kGeneralThreads, kGeneralHead + (plan_.shared ? plan_.buffer_bytes : 0)};
  return launch_first(plan_.shared ? &melspec_general<Real, true> : &melspec_general<Real, false>, shape, stream, p);
}

}  // namespace cuda
}  // namespace fcntag
