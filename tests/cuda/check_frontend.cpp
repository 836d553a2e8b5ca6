// Front end on the emulator against plain loops in double: log-mel and STFT, MFCC, resampler.
//
//   check_frontend [seed] [case substring]
//
// Run plain, under AddressSanitizer and under ThreadSanitizer. Every case runs a batch, of which some rows may not
// exist, checks that all of the others and nothing else was written, and that each clip alone gives the same bits.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iterator>
#include <string>
#include <vector>

#include "cuda/frontend/melspec.h"
#include "cuda/frontend/mfcc.h"
#include "cuda/frontend/resample.h"
#include "emulation/emulator.h"
#include "frontend_reference.h"
#include "general_cases.h"
#include "mel_cases.h"

using namespace fcntag;
using cuda::DeviceMemory;
using cuda::Io;

using namespace fcntag::reference;
using namespace fcntag::mel_cases;

namespace {

constexpr float kUntouched = -12345.5f;
int failures = 0, cases = 0;
std::string only;

void to_device(const DeviceMemory& memory, const void* data) {
  cuda::copy_to_device(memory.as<void>(), data, memory.bytes(), nullptr);
}

bool wanted(const std::string& name) {
  generator.seed(11);
  return name.find(only) != std::string::npos;
}

void report(const std::string& name, const std::string& complaint, double worst) {
  ++cases;
  failures += !complaint.empty();
  std::printf("%-46s %s  worst error %.2f of what is allowed%s\n", name.c_str(), complaint.empty() ? "ok  " : "FAIL",
              worst, complaint.empty() ? "" : ("; " + complaint).c_str());
  std::fflush(stdout);
}

// Runs `work(io, out)` on clips [batch, stride] of which `count` exist, then on each of them alone, into outputs of
// `size` floats. Returns the first, [count, size]; says in `complaint` what was left out, overwritten or different
// alone.
Floats run_all(const Floats& clips, int64_t stride, int batch, int count, std::size_t size, std::string* complaint,
               const std::function<void(const Io*, const DeviceMemory&, int, float*)>& work) {
  DeviceMemory io_memory(sizeof(Io));
  const auto run = [&](const float* first, int rows, int existing) {
    DeviceMemory waves(rows * stride * sizeof(float)), out(rows * size * sizeof(float));
    to_device(waves, first);
    Floats values(rows * size, kUntouched);
    to_device(out, values.data());
    const Io io = {waves.as<float>(), stride, nullptr, nullptr, existing};
    to_device(io_memory, &io);
    work(io_memory.as<Io>(), waves, rows, out.as<float>());
    cuda::copy_to_host(values.data(), out.as<void>(), out.bytes(), nullptr);
    cuda::synchronize(nullptr);
    return values;
  };
  Floats all = run(clips.data(), batch, count);
  for (std::size_t i = 0; i < all.size(); ++i) {
    const bool exists = i < count * size;
    if (exists && (all[i] == kUntouched || !std::isfinite(all[i]))) *complaint = "a value was left out";
    if (!exists && all[i] != kUntouched) *complaint = "a clip that does not exist was written";
  }
  for (int clip = 0; clip < count; ++clip) {
    const Floats alone = run(clips.data() + clip * stride, 1, 1);
    if (std::memcmp(alone.data(), all.data() + clip * size, size * sizeof(float)) != 0) *complaint = "other bits alone";
  }
  all.resize(count * size);
  return all;
}

// ---- log-mel ----

// Mel power or magnitude [n_mels][n_frames] of a clip, and how much of it rounding may move: an error of the amplitudes
// that is a few ulps, `epsilon`, of the frame's largest.
void mel_power(const MelCase& c, const MelSpecConfig& config, const float* wave, double epsilon, Doubles* power,
               Doubles* slack) {
  power->assign(static_cast<std::size_t>(c.n_mels) * c.n_frames, 0);
  *slack = *power;
  for (int t = 0; t < c.n_frames; ++t) {
    Doubles frame(c.n_fft);
    for (int i = 0; i < c.n_fft; ++i) {
      frame[i] = config.window[i] *
                 padded_sample(wave, c.n_samples, static_cast<int64_t>(t) * c.hop - c.pad_left + i, c.pad == kReflect);
    }
    Doubles bins = power_spectrum(frame);
    const double energy = *std::max_element(bins.begin(), bins.end());
    if (c.magnitude) std::transform(bins.begin(), bins.end(), bins.begin(), [](double x) { return std::sqrt(x); });
    const std::size_t n_bins = bins.size();
    for (int m = 0; m < c.n_mels; ++m) {
      double sum = 0, weight = 0;
      for (std::size_t k = 0; k < n_bins; ++k) {
        sum += config.filters[m * n_bins + k] * bins[k];
        weight += config.filters[m * n_bins + k];
      }
      const std::size_t at = static_cast<std::size_t>(m) * c.n_frames + t;
      (*power)[at] = sum;
      const double spread =
          c.magnitude ? weight * std::sqrt(energy) : 2 * std::sqrt(sum * weight * energy) + epsilon * weight * energy;
      (*slack)[at] = epsilon * (spread + sum);
    }
  }
}

double compressed(const MelCase& c, const MelSpecConfig& config, double power) {
  power = std::max(power, 0.0);
  if (c.exponent == 2) power *= power;
  if (c.float16) power = to_float16(power);
  switch (c.log) {
    case L::kDb:
      return 10 * std::log10(std::max(power, config.amin));
    case L::kLog10p1:
      return std::log10(config.gain * power + 1);
    case L::kLog1p:
      return std::log1p(config.gain * power);
    case L::kLn:
      return std::log(std::max(power, config.amin) + config.offset);
    case L::kLog10:
      return std::log10(std::max(power, config.amin) + config.offset);
    default:
      return power;
  }
}

void check_mel(const MelCase& c, bool double_precision, bool external) {
  const std::string name = std::string("mel ") + c.name + (double_precision ? ", double" : ", float");
  if (!wanted(name) || (c.many && only.empty())) return;
  const MelSpecConfig config = make_config(c);
  const cuda::MelSpec melspec(config, double_precision);
  const int64_t stride = external ? c.n_samples : c.n_samples + 3;  // rows that start at odd addresses
  Floats waves;
  for (int clip = 0; clip < c.batch; ++clip) {
    Floats wave = make_signal(c, c.n_samples);
    wave.resize(stride, NAN);
    waves.insert(waves.end(), wave.begin(), wave.end());
  }
  const std::size_t size = static_cast<std::size_t>(c.n_mels) * c.n_frames;
  std::string complaint;
  const Floats out = run_all(waves, stride, c.batch, c.count, size, &complaint,
                             [&](const Io* io, const DeviceMemory& clips, int batch, float* target) {
                               DeviceMemory scratch(melspec.scratch_bytes(batch, c.n_frames));
                               melspec.run(io, external ? clips.as<float>() : nullptr, batch, c.n_samples, c.pad_left,
                                           c.n_frames, target, scratch.as<void>(), nullptr);
                               cuda::synchronize(nullptr);
                             });
  double worst = 0;
  for (int clip = 0; clip < c.count; ++clip) {
    Doubles power, slack, raw(size);
    const bool exact = double_precision || c.normalization == N::kStandardizePerMel;
    mel_power(c, config, waves.data() + clip * stride, exact ? 1e-14 : 2e-7, &power, &slack);
    for (std::size_t i = 0; i < size; ++i) raw[i] = compressed(c, config, power[i]);
    const double maximum = *std::max_element(raw.begin(), raw.end());
    const double floor = c.log == kDb && c.top_db > 0 ? maximum - c.top_db : -1e300;
    const double reference = c.log == kDb && c.ref_max ? maximum : 0;
    double mean = 0, deviation = 0, largest = 1e-3;
    for (double v : raw) {
      mean += (std::max(v, floor) - reference) / size;
      largest = std::max(largest, std::fabs(v));
    }
    for (double v : raw) deviation += std::pow(std::max(v, floor) - reference - mean, 2) / size;
    deviation = std::sqrt(deviation) + 1e-10;
    for (int m = 0; m < c.n_mels; ++m) {
      double row_error = 0;  // of a band that is standardised by itself, which every value of it may take over
      if (c.normalization == N::kStandardizePerMel) {
        mean = deviation = 0;
        const std::size_t row = static_cast<std::size_t>(m) * c.n_frames;
        for (int t = 0; t < c.n_frames; ++t) {
          mean += std::max(raw[row + t], floor) / c.n_frames;
          for (const double p : {power[row + t] - slack[row + t], power[row + t] + slack[row + t]}) {
            row_error = std::max(row_error, std::fabs(compressed(c, config, p) - raw[row + t]));
          }
        }
        for (int t = 0; t < c.n_frames; ++t) {
          deviation += std::pow(std::max(raw[row + t], floor) - mean, 2) / c.n_frames;
        }
        deviation = std::sqrt(deviation) + 1e-10;
        row_error += 1e-15 * largest + (floor > -1e300 ? 2e-7 * largest : 0);  // a maximum is kept as a float
        row_error /= deviation;
        mean -= reference;
      }
      for (int t = 0; t < c.n_frames; ++t) {
        const std::size_t at = static_cast<std::size_t>(m) * c.n_frames + t;
        const std::size_t from = clip * size + (c.time_mel ? static_cast<std::size_t>(t) * c.n_mels + m : at);
        double a = 1, b = 0;
        const bool by_row = c.normalization == N::kStandardizePerMel;
        if (c.normalization == N::kStandardize || by_row) a = 1 / deviation, b = -mean / deviation;
        const int index = c.normalization == N::kPerMel ? m : c.normalization == N::kPerFrame ? t : 0;
        if (!config.scale.empty()) a = config.scale[index], b = config.shift[index];
        const auto value = [&](double p) { return a * (std::max(compressed(c, config, p), floor) - reference) + b; };
        const double expected = value(power[at]), low = value(power[at] - slack[at]),
                     high = value(power[at] + slack[at]);
        // Values are stored as floats before and after the steps that need the whole clip; the log is a float one or
        // better.
        double rounding = (double_precision ? 1e-7 : 2e-7) * (std::fabs(a) * largest + std::fabs(expected));
        if (by_row) rounding = 1e-7 * std::fabs(expected) + row_error * (2 + std::fabs(expected));
        const double allowed = std::max(std::fabs(low - expected), std::fabs(high - expected)) + rounding;
        const double error = std::fabs(out[from] - expected);
        if (!(error <= allowed)) {
          if (complaint.empty()) {
            char text[160];
            std::snprintf(text, sizeof text, "clip %d, band %d, frame %d is %.9g, expected %.9g", clip, m, t, out[from],
                          expected);
            complaint = text;
          }
        }
        worst = std::max(worst, error / allowed);
      }
    }
  }
  report(name, complaint, worst);
}

// ---- MFCC ----

void check_mfcc(int n_mels, int n_mfcc, int n_frames, int batch, int count, Normalization kind = Normalization::kNone) {
  const std::string name = "mfcc " + std::to_string(n_mfcc) + " of " + std::to_string(n_mels) + " bands, " +
                           std::to_string(n_frames) + " frames, scaling " + std::to_string(static_cast<int>(kind));
  if (!wanted(name)) return;
  const int n_scales = kind == Normalization::kScalar     ? 1
                       : kind == Normalization::kPerMel   ? 3 * n_mfcc
                       : kind == Normalization::kPerFrame ? n_frames
                                                          : 0;
  const Floats scale = noise(n_scales, 1), shift = noise(n_scales, 2);
  const cuda::Mfcc mfcc(n_mels, n_mfcc, kind, scale, shift);
  const std::size_t image = static_cast<std::size_t>(n_mels) * n_frames;
  Floats log_mel = noise(batch * image, 10);
  for (float& v : log_mel) v -= 40;
  const std::size_t size = static_cast<std::size_t>(mfcc.rows()) * n_frames;
  std::string complaint;
  const Floats out = run_all(log_mel, image, batch, count, size, &complaint,
                             [&](const Io* io, const DeviceMemory& input, int rows, float* target) {
                               mfcc.run(io, input.as<float>(), rows, n_frames, target, nullptr);
                               cuda::synchronize(nullptr);
                             });
  double worst = 0;
  for (int clip = 0; clip < count; ++clip) {
    for (int c = 0; c < n_mfcc; ++c) {
      Doubles row(n_frames);
      for (int t = 0; t < n_frames; ++t) {
        for (int m = 0; m < n_mels; ++m) {
          row[t] += log_mel[clip * image + static_cast<std::size_t>(m) * n_frames + t] *
                    std::sqrt((c == 0 ? 1.0 : 2.0) / n_mels) * std::cos(kPi / n_mels * (m + 0.5) * c);
        }
      }
      for (int t = 0; t < n_frames; ++t) {
        const int window = std::min(std::max(t - 4, 0), n_frames - kDeltaWidth);
        const double expected[3] = {row[t], fitted_derivative(row.data() + window, 1, t - window),
                                    fitted_derivative(row.data() + window, 2, t - window)};
        for (int derivative = 0; derivative < 3; ++derivative) {
          const int row = derivative * n_mfcc + c;
          const int at = kind == Normalization::kScalar ? 0 : kind == Normalization::kPerMel ? row : t;
          const double factor = n_scales == 0 ? 1 : scale[at], offset = n_scales == 0 ? 0 : shift[at];
          const double value = factor * expected[derivative] + offset;
          // Sums of 32, then of those, times the scale; and the rounding of the shifted value itself.
          const double allowed = 3e-7 * 40 * std::sqrt(n_mels * std::max(n_mels / 32.0, 1.0)) * std::fabs(factor) +
                                 1.2e-7 * (std::fabs(value) + std::fabs(offset)) * (n_scales != 0);
          const float actual = out[clip * size + static_cast<std::size_t>(row) * n_frames + t];
          if (!(std::fabs(actual - value) <= allowed)) complaint = "wrong value at frame " + std::to_string(t);
          worst = std::max(worst, std::fabs(actual - value) / allowed);
        }
      }
    }
  }
  report(name, complaint, worst);
}

// ---- resampler ----

void check_resampler(int up, int down, int n_taps, int n_in, int n_channels, int extra, int batch, int count) {
  const std::string name = "resample " + std::to_string(down) + " to " + std::to_string(up) + ", " +
                           std::to_string(n_taps) + " taps, " + std::to_string(n_in) + " x " +
                           std::to_string(n_channels);
  if (!wanted(name)) return;
  Floats phases = noise(static_cast<std::size_t>(up) * n_taps, 1 / std::sqrt(n_taps));
  if (up == down) phases = {1, 0};
  const cuda::Resampler resampler(up, down, phases);
  const int64_t n_out = (static_cast<int64_t>(n_in) * up + down - 1) / down + extra, stride = n_in * n_channels + 1;
  const Floats pcm = noise(batch * stride, 0.5);
  std::string complaint;
  const Floats out = run_all(pcm, stride, batch, count, n_out, &complaint,
                             [&](const Io* io, const DeviceMemory&, int rows, float* target) {
                               resampler.run(io, rows, n_in, n_channels, target, n_out, nullptr);
                               cuda::synchronize(nullptr);
                             });
  double worst = 0;
  for (int clip = 0; clip < count; ++clip) {
    Floats mono(n_in);
    for (int i = 0; i < n_in; ++i) mono[i] = numpy_mean(pcm.data() + clip * stride + i * n_channels, n_channels);
    for (int64_t n = 0; n < n_out; ++n) {
      const int64_t position = n * down / up, phase = n * down % up;
      double expected = 0;
      for (int k = 0; k < n_taps; ++k) {
        const int64_t i = position + 1 - n_taps / 2 + k;
        if (i >= 0 && i < n_in) expected += static_cast<double>(phases[phase * n_taps + k]) * mono[i];
      }
      const float actual = out[clip * n_out + n];
      const double allowed = up == down ? 1e-30 : 1.5e-7 * std::sqrt(n_taps);  // a copy is exact: it shows the mix
      if (!(std::fabs(actual - expected) <= allowed)) complaint = "wrong value at output " + std::to_string(n);
      worst = std::max(worst, std::fabs(actual - expected) / allowed);
    }
  }
  report(name, complaint, worst);
}

// ---- refusals ----

void check_refused(const std::string& name, const std::string& expected, const std::function<void()>& call) {
  if (!wanted("refused " + name)) return;
  std::string complaint = "nothing was thrown";
  try {
    call();
  } catch (const std::invalid_argument& e) {
    const std::string text = e.what();
    complaint = text.find(expected) == std::string::npos ? "thrown: " + text : "";
  }
  report("refused " + name, complaint, 0);
}

void check_refusals() {
  const MelCase& c = kMelCases[1];
  const auto with = [&](const std::function<void(MelSpecConfig*)>& change) {
    return [&c, change] {
      MelSpecConfig config = make_config(c);
      change(&config);
      const cuda::MelSpec melspec(config, false);
      melspec.run(nullptr, nullptr, 0, c.n_samples, c.pad_left, c.n_frames, nullptr, nullptr, nullptr);
    };
  };
  check_refused("hop of zero", "hop_length=0", with([](MelSpecConfig* m) { m->hop_length = 0; }));
  check_refused("short window", "window of 511", with([](MelSpecConfig* m) { m->window.pop_back(); }));
  check_refused("filters of other bins", "filters of", with([](MelSpecConfig* m) { m->filters.pop_back(); }));
  check_refused("63 points", "n_fft=63", with([](MelSpecConfig* m) { m->n_fft = 63; }));
  check_refused("8193 points", "n_fft=8193", with([](MelSpecConfig* m) { m->n_fft = 8193; }));
  check_refused("silence without a logarithm", "silence", with([](MelSpecConfig* m) {
                  m->log = LogKind::kLn;
                  m->amin = 0;
                }));
  check_refused("third power", "power_exponent=3", with([](MelSpecConfig* m) { m->power_exponent = 3; }));
  check_refused("scale of two", "2 values; 1 are needed", with([](MelSpecConfig* m) {
                  m->scale.push_back(1);
                  m->shift.push_back(1);
                }));
  check_refused("8 frames of mfcc", "at least 9",
                [] { cuda::Mfcc(4, 4).run(nullptr, nullptr, 1, 8, nullptr, nullptr); });
  check_refused("5 mfcc of 4 bands", "n_mfcc=5", [] { cuda::Mfcc(4, 5); });
  check_refused("rates not coprime", "coprime", [] { cuda::Resampler(2, 4, Floats(8)); });
  check_refused("odd filter", "even number", [] { cuda::Resampler(1, 2, Floats(7)); });
  check_refused("endless filter", "too many", [] { cuda::Resampler(1, 70, Floats(196 * 70)); });
  check_refused("65 channels", "n_channels=65",
                [] { cuda::Resampler(1, 1, {1, 0}).run(nullptr, 1, 10, 65, nullptr, 10, nullptr); });
}

}  // namespace

int main(int argc, char** argv) {
  emulator::options().seed = argc > 1 ? static_cast<unsigned>(std::atoi(argv[1])) : 0;
  only = argc > 2 ? argv[2] : "";
  bool external = false;
  std::vector<MelCase> mel_cases(std::begin(kMelCases), std::end(kMelCases));
  for (const MelCase& c : general_cases()) mel_cases.push_back(c);
  for (const MelCase& c : mel_cases) {
    check_mel(c, true, external);
    check_mel(c, false, !external);
    external = !external;
  }
  check_mfcc(96, 30, 130, 3, 2);
  check_mfcc(96, 30, 9, 2, 2);
  check_mfcc(1, 1, 10, 1, 1);
  check_mfcc(33, 33, 52, 2, 1);
  check_mfcc(40, 13, 53, 1, 1);
  check_mfcc(70, 70, 60, 1, 1);
  check_mfcc(128, 20, 57, 1, 1);
  check_mfcc(512, 40, 105, 1, 1);
  check_mfcc(40, 13, 60, 2, 2, Normalization::kScalar);
  check_mfcc(96, 30, 105, 2, 1, Normalization::kPerMel);
  check_mfcc(20, 20, 53, 1, 1, Normalization::kPerFrame);
  for (int channels : {1, 2, 3, 7, 8, 9, 17, 64}) check_resampler(1, 1, 2, 200, channels, 3, 2, 2);
  check_resampler(160, 441, 542, 6000, 2, 0, 2, 1);  // the sizes of 44.1 kHz to 16 kHz
  check_resampler(160, 441, 60, 20000, 1, 5, 1, 1);
  check_resampler(1, 3, 588, 9000, 2, 0, 1, 1);
  check_resampler(1, 2, 40, 3000, 1, 9, 3, 2);
  check_resampler(1, 8, 1568, 9000, 1, 0, 1, 1);
  check_resampler(320, 441, 30, 2000, 3, 0, 1, 1);
  check_resampler(640, 441, 20, 1500, 1, 0, 2, 2);
  check_resampler(40, 147, 70, 5000, 1, 0, 1, 1);
  check_resampler(3, 8, 48, 3000, 2, 0, 1, 1);
  check_resampler(80, 147, 34, 3000, 1, 0, 1, 1);
  check_resampler(2, 1, 16, 1000, 1, 0, 1, 1);
  check_resampler(3, 2, 16, 1000, 1, 0, 1, 1);
  check_resampler(4, 3, 22, 700, 1, 1, 1, 1);
  check_resampler(2000, 5507, 64, 9000, 1, 0, 1, 1);     // part of a period a block, sixteen rows
  check_resampler(8000, 44099, 1000, 7000, 1, 0, 1, 1);  // fewer
  check_resampler(1, 48, 9408, 9000, 1, 0, 1, 1);        // one group of one row
  check_resampler(160, 441, 60, 0, 2, 4, 1, 1);          // an empty clip: zeros
  check_resampler(160, 441, 60, 1, 1, 0, 2, 2);
  check_resampler(3, 8, 48, 50, 1, 0, 0, 0);
  check_refusals();
  std::printf("%d of %d cases failed\n", failures, cases);
  return failures == 0 && cases > 0 ? 0 : 1;
}
