#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>
#include <utility>
#include <vector>

#include "bindings/cuda/on_device.h"
#include "bindings/cuda/register.h"
#include "bindings/gil_release.h"
#include "bindings/parse.h"
#include "check.h"
#include "cuda/frontend/melspec.h"
#include "cuda/frontend/mfcc.h"
#include "cuda/frontend/resample.h"
#include "cuda/network.h"
#include "cuda/runtime.h"

namespace py = pybind11;

namespace fcntag {
namespace cuda {
namespace {

template <typename Stage, typename... Arguments>
OnDevice<Stage> make_stage(int device, const Arguments&... arguments) {
  const DeviceScope scope(device);
  return {device, std::make_shared<Stage>(arguments...)};
}

// Runs `enqueue(io, in, out, stream)` on host values: one stage alone, for tests and for a look at its output.
template <typename Enqueue>
FloatArray run_stage(int device, const FloatArray& in, std::vector<py::ssize_t> shape, const Enqueue& enqueue) {
  const HostArray held(in);
  const int32_t batch = to_int(in.shape(0), "batch");
  FloatArray out = make_output(shape, "output");
  if (out.size() == 0) return out;
  float* target = out.mutable_data();
  const std::size_t in_bytes = static_cast<std::size_t>(in.size()) * sizeof(float);
  const std::size_t out_bytes = static_cast<std::size_t>(out.size()) * sizeof(float);
  const GilRelease release;
  const DeviceScope scope(device);
  const OwnStream stream;
  DeviceMemory device_in(in_bytes), device_out(out_bytes), io(sizeof(Io));
  copy_to_device(device_in.as<void>(), held.data(), in_bytes, stream.get());
  set_io(io.as<Io>(), {device_in.as<float>(), in.size() / batch, nullptr, nullptr, batch}, stream.get());
  enqueue(io.as<Io>(), device_in.as<float>(), device_out.as<float>(), stream.get());
  copy_to_host(target, device_out.as<void>(), out_bytes, stream.get());
  synchronize(stream.get());
  return out;
}

FloatArray run_melspec(const OnDevice<MelSpec>& melspec, const FloatArray& waves, int64_t pad_left, int n_frames) {
  FCNTAG_CHECK(waves.ndim() == 2, "melspec: waves must be [batch, n_samples], not ", waves.ndim(), "-dimensional");
  FCNTAG_CHECK(n_frames > 0 && n_frames <= (1 << 24), "melspec: n_frames=", n_frames, "; allowed: 1 to ", 1 << 24);
  check_padding(pad_left);
  const MelSpec& stage = *melspec.stage;
  const py::ssize_t batch = waves.shape(0), n_samples = waves.shape(1);
  std::vector<py::ssize_t> shape = {batch, stage.n_rows(), n_frames};
  if (stage.time_mel()) std::swap(shape[1], shape[2]);
  return run_stage(melspec.device, waves, shape, [&](const Io* io, const float*, float* out, Stream stream) {
    DeviceMemory scratch(stage.scratch_bytes(static_cast<int>(batch), n_frames));
    stage.run(io, nullptr, static_cast<int>(batch), n_samples, pad_left, n_frames, out, scratch.as<void>(), stream);
    synchronize(stream);  // before the scratch memory goes
  });
}

FloatArray run_resampler(const OnDevice<Resampler>& resampler, const FloatArray& pcm, int64_t n_out) {
  FCNTAG_CHECK(pcm.ndim() == 3, "resample: pcm must be [batch, n_in, n_channels], not ", pcm.ndim(), "-dimensional");
  const py::ssize_t batch = pcm.shape(0), n_in = pcm.shape(1);
  const int channels = to_int(pcm.shape(2), "resample: n_channels");
  return run_stage(resampler.device, pcm, {batch, n_out}, [&](const Io* io, const float*, float* out, Stream stream) {
    resampler.stage->run(io, static_cast<int>(batch), n_in, channels, out, n_out, stream);
  });
}

FloatArray run_mfcc(const OnDevice<Mfcc>& mfcc, const FloatArray& log_mel) {
  FCNTAG_CHECK(log_mel.ndim() == 3, "mfcc: log_mel must be [batch, n_mels, n_frames], not ", log_mel.ndim(),
               "-dimensional");
  FCNTAG_CHECK(log_mel.shape(1) == mfcc.stage->n_mels(), "mfcc: log_mel of ", log_mel.shape(1), " bands; planned for ",
               mfcc.stage->n_mels());
  const py::ssize_t batch = log_mel.shape(0);
  const int n_frames = to_int(log_mel.shape(2), "mfcc: n_frames");
  return run_stage(mfcc.device, log_mel, {batch, mfcc.stage->rows(), n_frames},
                   [&](const Io* io, const float* in, float* out, Stream stream) {
                     mfcc.stage->run(io, in, static_cast<int>(batch), n_frames, out, stream);
                   });
}

}  // namespace

void register_stages(py::module_& m) {
  py::class_<OnDevice<MelSpec>>(m, "MelSpec", py::module_local(),
                                "Front end of a model: waveform to normalised log-mel, STFT or MFCC.")
      .def(py::init([](const py::dict& config, bool double_precision, int device) {
             return make_stage<MelSpec>(device, parse_melspec(config), double_precision);
           }),
           py::arg("config"), py::kw_only(), py::arg("double_precision"), py::arg("device"))
      .def_static(
          "planned_bytes",
          [](const py::dict& config, bool double_precision, int batch, int n_frames, int device) {
            return MelSpec::planned_bytes(parse_melspec(config), double_precision, batch, n_frames, device);
          },
          py::arg("config"), py::kw_only(), py::arg("double_precision"), py::arg("batch"), py::arg("n_frames"),
          py::arg("device"),
          "Bytes of device memory for the tables, and beside the output for a run of so many clips; allocates none.")
      .def("run", &run_melspec, py::arg("waves").noconvert(), py::kw_only(), py::arg("pad_left"), py::arg("n_frames"),
           "waves float32 [B, n_samples] -> float32 [B, n_rows, n_frames], or [B, n_frames, n_rows] if time_mel.")
      .def_property_readonly("memory_bytes", [](const OnDevice<MelSpec>& m) { return m.stage->memory_bytes(); });
  py::class_<OnDevice<Resampler>>(m, "Resampler", py::module_local(), "PCM to mono at the model's rate.")
      .def(py::init([](int up, int down, const std::vector<float>& filter, int device) {
             return make_stage<Resampler>(device, up, down, filter);
           }),
           py::kw_only(), py::arg("up"), py::arg("down"), py::arg("filter"), py::arg("device"))
      .def("run", &run_resampler, py::arg("pcm").noconvert(), py::kw_only(), py::arg("n_out"),
           "PCM float32 [B, n_in, n_channels] -> float32 [B, n_out].");
  py::class_<OnDevice<Mfcc>>(m, "Mfcc", py::module_local(), "Log-mel to MFCC, delta and delta-delta.")
      .def(py::init([](int n_mels, int n_mfcc, int device) { return make_stage<Mfcc>(device, n_mels, n_mfcc); }),
           py::kw_only(), py::arg("n_mels"), py::arg("n_mfcc"), py::arg("device"))
      .def("run", &run_mfcc, py::arg("log_mel").noconvert(),
           "log_mel float32 [B, n_mels, n_frames] -> float32 [B, 3 * n_mfcc, n_frames]; n_frames is at least 9.");
}

}  // namespace cuda
}  // namespace fcntag
