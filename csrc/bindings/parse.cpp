#include "bindings/parse.h"

#include <pybind11/stl.h>

#include <string>
#include <utility>
#include <vector>

#include "check.h"

namespace py = pybind11;

namespace fcntag {

namespace {

Activation parse_activation(const std::string& name) {
  if (name == "relu") return Activation::kRelu;
  if (name == "elu") return Activation::kElu;
  FCNTAG_CHECK(name == "none", "network: activation='", name, "'; built: relu, elu, none");
  return Activation::kNone;
}

Flatten parse_flatten(const std::string& name) {
  if (name == "chw") return Flatten::kChw;
  if (name == "hwc") return Flatten::kHwc;
  if (name == "max") return Flatten::kMax;
  FCNTAG_CHECK(name == "mean", "network: flatten='", name, "'; built: chw, hwc, max, mean");
  return Flatten::kMean;
}

template <typename T>
T choose(const py::dict& d, const char* key, const std::vector<std::pair<const char*, T>>& built) {
  const std::string name = d[key].cast<std::string>();
  std::string known;
  for (const auto& [candidate, value] : built) {
    if (name == candidate) return value;
    known += std::string(known.empty() ? "" : ", ") + candidate;
  }
  fail("melspec: ", key, "='", name, "'; built: ", known);
}

// Holds d[key] in `arrays`, and returns its values.
const float* hold_values(const py::dict& d, const char* key, const std::vector<py::ssize_t>& shape,
                         std::vector<HostArray>& arrays) {
  arrays.push_back(hold(d[key], shape, std::string("network: ") + key));
  return arrays.back().data();
}

ConvBlockSpec parse_block(const py::dict& d, std::vector<HostArray>& arrays) {
  ConvBlockSpec spec{};
  spec.in_channels = d["in_channels"].cast<int>();
  spec.out_channels = d["out_channels"].cast<int>();
  spec.kernel = d["kernel"].cast<int>();
  spec.activation = parse_activation(d["activation"].cast<std::string>());
  const auto window = d["window"].cast<std::pair<int, int>>();
  const auto stride = d["stride"].cast<std::pair<int, int>>();
  spec.pool_h = window.first;
  spec.pool_w = window.second;
  spec.stride_h = stride.first;
  spec.stride_w = stride.second;
  const py::ssize_t k = spec.out_channels;
  spec.weight = hold_values(d, "weight", {k, spec.in_channels, spec.kernel, spec.kernel}, arrays);
  spec.bias = hold_values(d, "bias", {k}, arrays);
  if (!d["scale"].is_none()) {
    spec.scale = hold_values(d, "scale", {k}, arrays);
    spec.shift = hold_values(d, "shift", {k}, arrays);
  }
  return spec;
}

}  // namespace

HeldNetwork parse_network(const std::vector<py::dict>& blocks, const py::dict& head, int height, int width) {
  HeldNetwork held;
  NetworkSpec& spec = held.spec;
  for (const py::dict& block : blocks) spec.blocks.push_back(parse_block(block, held.arrays));
  spec.head.flatten = parse_flatten(head["flatten"].cast<std::string>());
  spec.head.in_features = head["in_features"].cast<int>();
  spec.head.n_tags = head["n_tags"].cast<int>();
  int features = spec.head.in_features;
  for (const py::handle& item : head["hidden"]) {
    const py::dict layer = item.cast<py::dict>();
    DenseSpec dense{features, layer["out_features"].cast<int>(),
                    parse_activation(layer["activation"].cast<std::string>())};
    dense.weight = hold_values(layer, "weight", {dense.out_features, dense.in_features}, held.arrays);
    dense.bias = hold_values(layer, "bias", {dense.out_features}, held.arrays);
    features = dense.out_features;
    spec.head.hidden.push_back(dense);
  }
  spec.head.weight = hold_values(head, "weight", {spec.head.n_tags, features}, held.arrays);
  spec.head.bias = hold_values(head, "bias", {spec.head.n_tags}, held.arrays);
  spec.height = height;
  spec.width = width;
  return held;
}

Precision parse_precision(const std::string& name) {
  constexpr Precision kAll[] = {Precision::kFloat32, Precision::kTf32x3, Precision::kTf32, Precision::kFloat16,
                                Precision::kBfloat16};
  std::string known;
  for (Precision precision : kAll) {
    if (name == precision_name(precision)) return precision;
    known += std::string(known.empty() ? "" : ", ") + precision_name(precision);
  }
  fail("precision='", name, "'; built: ", known);
}

void check_padding(int64_t pad_left) {
  constexpr int64_t kMost = int64_t{1} << 32;
  FCNTAG_CHECK(pad_left >= -kMost && pad_left <= kMost, "melspec: pad_left=", pad_left, "; allowed: ", -kMost, " to ",
               kMost);
}

MelSpecConfig parse_melspec(const py::dict& d) {
  MelSpecConfig c{};
  c.hop_length = d["hop_length"].cast<int>();
  c.pad_mode = choose<PadMode>(d, "pad_mode", {{"constant", PadMode::kConstant}, {"reflect", PadMode::kReflect}});
  c.window = d["window"].cast<std::vector<double>>();
  c.filters = d["filters"].cast<std::vector<double>>();
  c.n_mels = d["n_mels"].cast<int>();
  c.power_exponent = d["power_exponent"].cast<int>();
  c.float16 = d["float16"].cast<bool>();
  c.log = choose<LogKind>(d, "log",
                          {{"db", LogKind::kDb},
                           {"log10p1", LogKind::kLog10p1},
                           {"log1p", LogKind::kLog1p},
                           {"ln", LogKind::kLn},
                           {"log10", LogKind::kLog10},
                           {"none", LogKind::kNone}});
  c.gain = d["gain"].cast<double>();
  c.amin = d["amin"].cast<double>();
  c.ref_max = d["ref_max"].cast<bool>();
  c.top_db = d["top_db"].cast<double>();
  c.normalization = choose<Normalization>(d, "normalization",
                                          {{"none", Normalization::kNone},
                                           {"scalar", Normalization::kScalar},
                                           {"per_mel", Normalization::kPerMel},
                                           {"per_frame", Normalization::kPerFrame},
                                           {"standardize", Normalization::kStandardize},
                                           {"standardize_per_mel", Normalization::kStandardizePerMel}});
  c.scale = d["scale"].cast<std::vector<float>>();
  c.shift = d["shift"].cast<std::vector<float>>();
  c.time_mel = d["time_mel"].cast<bool>();
  c.n_mfcc = d["n_mfcc"].cast<int>();
  c.n_fft = d["n_fft"].cast<int>();
  c.magnitude = d["magnitude"].cast<bool>();
  c.offset = d["offset"].cast<double>();
  return c;
}

}  // namespace fcntag
