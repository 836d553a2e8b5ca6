#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>

#include "check.h"
#include "melspec.h"
#include "register.h"

namespace py = pybind11;

namespace fcntag {
namespace {

using Array = py::array_t<float, py::array::c_style>;

template <typename T>
T choose(const char* what, const std::string& name, const std::vector<std::pair<const char*, T>>& built) {
  std::string known;
  for (const auto& [key, value] : built) {
    if (name == key) return value;
    known += std::string(known.empty() ? "" : ", ") + key;
  }
  fail("melspec: ", what, "='", name, "'; built: ", known);
}

std::unique_ptr<MelSpec> make_melspec(std::vector<double> window, std::vector<double> filters, int n_mels,
                                      int hop_length, const std::string& pad_mode, int power_exponent, bool float16,
                                      const std::string& log, double gain, double amin, bool ref_max, double top_db,
                                      const std::string& normalization, std::vector<float> scale,
                                      std::vector<float> shift, bool time_mel, std::shared_ptr<ThreadPool> pool) {
  MelSpecConfig c{};
  c.hop_length = hop_length;
  c.pad_mode =
      choose<PadMode>("pad_mode", pad_mode, {{"constant", PadMode::kConstant}, {"reflect", PadMode::kReflect}});
  c.window = std::move(window);
  c.filters = std::move(filters);
  c.n_mels = n_mels;
  c.power_exponent = power_exponent;
  c.float16 = float16;
  c.log = choose<LogKind>("log", log, {{"db", LogKind::kDb}, {"log10p1", LogKind::kLog10p1}});
  c.gain = gain;
  c.amin = amin;
  c.ref_max = ref_max;
  c.top_db = top_db;
  c.normalization = choose<Normalization>("normalization", normalization,
                                          {{"none", Normalization::kNone},
                                           {"scalar", Normalization::kScalar},
                                           {"per_mel", Normalization::kPerMel},
                                           {"per_frame", Normalization::kPerFrame},
                                           {"standardize", Normalization::kStandardize}});
  c.scale = std::move(scale);
  c.shift = std::move(shift);
  c.time_mel = time_mel;
  return std::make_unique<MelSpec>(std::move(c), std::move(pool));
}

Array run(MelSpec& melspec, const Array& waves, int64_t pad_left, int n_frames) {
  FCNTAG_CHECK(waves.ndim() == 2, "melspec: waves must be [batch, n_samples], not ", waves.ndim(), "-dimensional");
  FCNTAG_CHECK(n_frames > 0 && n_frames <= (1 << 24), "melspec: n_frames=", n_frames, "; allowed: 1 to ", 1 << 24);
  const py::ssize_t batch = waves.shape(0), n_samples = waves.shape(1);
  std::vector<py::ssize_t> shape = {batch, melspec.n_mels(), n_frames};
  if (melspec.time_mel()) std::swap(shape[1], shape[2]);
  Array out(shape);
  const float* data = waves.data();
  float* target = out.mutable_data();
  {
    py::gil_scoped_release release;
    melspec.run(data, static_cast<int>(batch), n_samples, pad_left, n_frames, target);
  }
  return out;
}

}  // namespace

void register_melspec(py::module_& m) {
  py::class_<MelSpec>(m, "MelSpec", "Front end of a model: waveform to normalised log-mel.")
      .def(py::init(&make_melspec), py::kw_only(), py::arg("window"), py::arg("filters"), py::arg("n_mels"),
           py::arg("hop_length"), py::arg("pad_mode"), py::arg("power_exponent"), py::arg("float16"), py::arg("log"),
           py::arg("gain"), py::arg("amin"), py::arg("ref_max"), py::arg("top_db"), py::arg("normalization"),
           py::arg("scale"), py::arg("shift"), py::arg("time_mel"), py::arg("pool"))
      .def("run", &run, py::arg("waves").noconvert(), py::kw_only(), py::arg("pad_left"), py::arg("n_frames"),
           "waves float32 [B, n_samples] -> float32 [B, n_mels, n_frames], or [B, n_frames, n_mels] if time_mel.")
      .def_property_readonly("memory_bytes", &MelSpec::memory_bytes);
}

}  // namespace fcntag
