#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>

#include "check.h"
#include "cpu/melspec.h"
#include "bindings/gil_release.h"
#include "bindings/parse.h"
#include "bindings/register.h"

namespace py = pybind11;

namespace fcntag {
namespace {

std::unique_ptr<MelSpec> make_melspec(const py::dict& config, std::shared_ptr<ThreadPool> pool) {
  return std::make_unique<MelSpec>(parse_melspec(config), std::move(pool));
}

FloatArray run(MelSpec& melspec, const FloatArray& waves, int64_t pad_left, int n_frames) {
  FCNTAG_CHECK(waves.ndim() == 2, "melspec: waves must be [batch, n_samples], not ", waves.ndim(), "-dimensional");
  FCNTAG_CHECK(n_frames > 0 && n_frames <= (1 << 24), "melspec: n_frames=", n_frames, "; allowed: 1 to ", 1 << 24);
  const HostArray held(waves);
  const int batch = to_int(waves.shape(0), "melspec: batch");
  const py::ssize_t n_samples = waves.shape(1);
  FCNTAG_CHECK(n_samples > 0, "melspec: n_samples=0");
  check_padding(pad_left);
  std::vector<py::ssize_t> shape = {batch, melspec.n_rows(), n_frames};
  if (melspec.time_mel()) std::swap(shape[1], shape[2]);
  FloatArray out = make_output(shape, "melspec");
  float* target = out.mutable_data();
  {
    const GilRelease release;
    melspec.run(held.data(), batch, n_samples, pad_left, n_frames, target);
  }
  return out;
}

}  // namespace

void register_melspec(py::module_& m) {
  py::class_<MelSpec>(m, "MelSpec", "Front end of a model: waveform to normalised log-mel, STFT or MFCC.")
      .def(py::init(&make_melspec), py::arg("config"), py::kw_only(), py::arg("pool"))
      .def("run", &run, py::arg("waves").noconvert(), py::kw_only(), py::arg("pad_left"), py::arg("n_frames"),
           "waves float32 [B, n_samples] -> float32 [B, n_rows, n_frames], or [B, n_frames, n_rows] if time_mel.")
      .def_property_readonly("memory_bytes", &MelSpec::memory_bytes);
}

}  // namespace fcntag
