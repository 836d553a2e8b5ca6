#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>

#include "check.h"
#include "cuda/ceilings.h"
#include "cuda/frontend/mfcc.h"
#include "cuda/network.h"
#include "cuda/frontend/resample.h"
#include "cuda/runtime.h"
#include "cuda/scorer.h"
#include "bindings/cuda/dlpack.h"
#include "bindings/parse.h"
#include "bindings/run_network.h"

namespace py = pybind11;

namespace fcntag {
namespace cuda {
namespace {

NetworkConfig parse_config(const std::vector<py::dict>& blocks, const py::dict& head, int height, int width,
                           int max_batch, const std::string& precision, int device) {
  return {parse_network(blocks, head, height, width), max_batch, parse_precision(precision), device};
}

py::dict run(Network& network, const FloatArray& x, bool features, bool block_means, bool blocks, bool times) {
  const auto shapes = [&network](int height, int width) {
    const auto sizes = network.sizes(height, width);
    std::vector<std::array<int, 3>> shapes;
    for (int i = 0; i < network.n_blocks(); ++i) {
      shapes.push_back({network.layer(i).out_channels, sizes[i + 1].first, sizes[i + 1].second});
    }
    return shapes;
  };
  return run_network(network, shapes, x, features, block_means, blocks, times);
}

// What the tile planner chose for a batch, one dict a block: for tests, `fcntag doctor` and tuning.
py::list describe_plan(Network& network, int batch, int height, int width) {
  const Network::Plan& plan = network.plan(batch, height, width);
  py::list list;
  for (const ConvPlan& block : plan.blocks) {
    const ConvParams& p = block.params;
    py::dict d;
    d["rows"] = block.kernel.warps_m * block.kernel.halves * 8;
    d["channels"] = block.kernel.tile_n();
    d["threads"] = block.kernel.threads();
    d["tile"] = py::make_tuple(p.tile_n, p.tile_h, p.tile_w);
    d["sub_window"] = py::make_tuple(p.sub_h, p.sub_w);
    d["window_slots"] = p.window_slots;
    d["passes"] = p.passes_h * p.passes_w;
    d["chunks"] = p.chunks;
    d["split"] = p.split == 1;
    d["halo_buffers"] = p.halo_buffers;
    d["ctas"] = block.ctas;
    d["shared_bytes"] = block.shared_bytes;
    d["cycles"] = block.cycles;
    list.append(d);
  }
  return list;
}

// A stage of a chain, and the GPU that it was made on.
template <typename Stage>
struct OnDevice {
  int device;
  std::shared_ptr<Stage> stage;
};

template <typename Stage, typename... Arguments>
OnDevice<Stage> make_stage(int device, const Arguments&... arguments) {
  const DeviceScope scope(device);
  OnDevice<Stage> made{device, std::make_shared<Stage>(arguments...)};
  synchronize(nullptr);  // tables are there before any stream of our own reads them
  return made;
}

// Runs `enqueue(io, in, out)` on host values: what a test, or someone who wants to look, needs of one stage alone.
template <typename Enqueue>
FloatArray run_stage(int device, const FloatArray& in, std::vector<py::ssize_t> shape, const Enqueue& enqueue) {
  FloatArray out(shape);
  if (out.size() == 0) return out;
  const float* data = in.data();
  float* target = out.mutable_data();
  const std::size_t in_bytes = static_cast<std::size_t>(in.size()) * sizeof(float);
  const std::size_t out_bytes = static_cast<std::size_t>(out.size()) * sizeof(float);
  const int32_t batch = static_cast<int32_t>(in.shape(0));
  const py::gil_scoped_release release;
  const DeviceScope scope(device);
  DeviceMemory device_in(in_bytes), device_out(out_bytes), io(sizeof(Io));
  copy_to_device(device_in.as<void>(), data, in_bytes, nullptr);
  set_io(io.as<Io>(), {device_in.as<float>(), in.size() / batch, nullptr, nullptr, batch}, nullptr);
  enqueue(io.as<Io>(), device_in.as<float>(), device_out.as<float>());
  copy_to_host(target, device_out.as<void>(), out_bytes, nullptr);
  synchronize(nullptr);
  return out;
}

FloatArray run_melspec(const OnDevice<MelSpec>& melspec, const FloatArray& waves, int64_t pad_left, int n_frames) {
  FCNTAG_CHECK(waves.ndim() == 2, "melspec: waves must be [batch, n_samples], not ", waves.ndim(), "-dimensional");
  FCNTAG_CHECK(n_frames > 0 && n_frames <= (1 << 24), "melspec: n_frames=", n_frames, "; allowed: 1 to ", 1 << 24);
  const MelSpec& stage = *melspec.stage;
  const py::ssize_t batch = waves.shape(0), n_samples = waves.shape(1);
  std::vector<py::ssize_t> shape = {batch, stage.n_rows(), n_frames};
  if (stage.time_mel()) std::swap(shape[1], shape[2]);
  return run_stage(melspec.device, waves, shape, [&](const Io* io, const float*, float* out) {
    DeviceMemory scratch(stage.scratch_bytes(static_cast<int>(batch), n_frames));
    stage.run(io, nullptr, static_cast<int>(batch), n_samples, pad_left, n_frames, out, scratch.as<void>(), nullptr);
    synchronize(nullptr);  // before the scratch memory goes
  });
}

FloatArray run_resampler(const OnDevice<Resampler>& resampler, const FloatArray& pcm, int64_t n_out) {
  FCNTAG_CHECK(pcm.ndim() == 3, "resample: pcm must be [batch, n_in, n_channels], not ", pcm.ndim(), "-dimensional");
  const py::ssize_t batch = pcm.shape(0), n_in = pcm.shape(1), channels = pcm.shape(2);
  return run_stage(resampler.device, pcm, {batch, n_out}, [&](const Io* io, const float*, float* out) {
    resampler.stage->run(io, static_cast<int>(batch), n_in, static_cast<int>(channels), out, n_out, nullptr);
  });
}

FloatArray run_mfcc(const OnDevice<Mfcc>& mfcc, const FloatArray& log_mel) {
  FCNTAG_CHECK(log_mel.ndim() == 3, "mfcc: log_mel must be [batch, n_mels, n_frames], not ", log_mel.ndim(),
               "-dimensional");
  const py::ssize_t batch = log_mel.shape(0), n_frames = log_mel.shape(2);
  return run_stage(mfcc.device, log_mel, {batch, mfcc.stage->rows(), n_frames},
                   [&](const Io* io, const float* in, float* out) {
                     mfcc.stage->run(io, in, static_cast<int>(batch), static_cast<int>(n_frames), out, nullptr);
                   });
}

SegmentShape parse_shape(const py::tuple& shape) {
  FCNTAG_CHECK(shape.size() == 5, "scores: shape must be (n_samples, pad_left, n_frames, height, width)");
  return {shape[0].cast<int64_t>(), shape[1].cast<int64_t>(), shape[2].cast<int>(), shape[3].cast<int>(),
          shape[4].cast<int>()};
}

py::tuple run_scorer(Scorer& scorer, const Network& network, const FloatArray& waves, const py::tuple& shape) {
  FCNTAG_CHECK(waves.ndim() >= 2, "scores: waves must be [batch, n_samples] or [batch, n_in, n_channels]");
  const SegmentShape segment = parse_shape(shape);
  const py::ssize_t batch = waves.shape(0);
  FCNTAG_CHECK(batch == 0 || waves.size() / batch == scorer.clip_floats(segment), "scores: clips of ",
               waves.size() / std::max<py::ssize_t>(batch, 1), " values; planned for ", scorer.clip_floats(segment));
  FloatArray scores(std::vector<py::ssize_t>{batch, network.n_tags()});
  FloatArray logits(std::vector<py::ssize_t>{batch, network.n_tags()});
  const float* data = waves.data();
  float *score_data = scores.mutable_data(), *logit_data = logits.mutable_data();
  {
    py::gil_scoped_release release;
    scorer.run(data, static_cast<int>(batch), score_data, logit_data, segment);
  }
  return py::make_tuple(scores, logits);
}

py::dict info_dict(int device) {
  const DeviceInfo info = device_info(device);
  py::dict d;
  d["index"] = info.index;
  d["name"] = info.name;
  d["capability"] = py::make_tuple(info.major, info.minor);
  d["multiprocessors"] = info.multiprocessors;
  d["shared_bytes"] = info.shared_bytes;
  d["memory_bytes"] = info.memory_bytes;
  d["driver"] = info.driver_version;
  d["runtime"] = info.runtime_version;
  return d;
}

void* pointer(uintptr_t address) { return reinterpret_cast<void*>(address); }

// A kernel chain's first launch is its slowest; nothing here runs at import.
void register_all(py::module_& m) {
  py::class_<OnDevice<MelSpec>>(m, "MelSpec", py::module_local(),
                                "Front end of a model: waveform to normalised log-mel, STFT or MFCC.")
      .def(py::init([](const py::dict& config, bool double_precision, int device) {
             return make_stage<MelSpec>(device, parse_melspec(config), double_precision);
           }),
           py::arg("config"), py::kw_only(), py::arg("double_precision"), py::arg("device"))
      .def("run", &run_melspec, py::arg("waves").noconvert(), py::kw_only(), py::arg("pad_left"), py::arg("n_frames"),
           "waves float32 [B, n_samples] -> float32 [B, n_rows, n_frames], or [B, n_frames, n_rows] if time_mel.")
      .def_property_readonly("memory_bytes", [](const OnDevice<MelSpec>& m) { return m.stage->memory_bytes(); });
  py::class_<Network, std::shared_ptr<Network>>(m, "Network", py::module_local(),
                                                "Conv blocks and head, planned for inputs up to [height, width].")
      .def(py::init([](const std::vector<py::dict>& blocks, const py::dict& head, int height, int width, int max_batch,
                       const std::string& precision, int device) {
             const NetworkConfig config = parse_config(blocks, head, height, width, max_batch, precision, device);
             py::gil_scoped_release release;
             return std::make_shared<Network>(config);
           }),
           py::arg("blocks"), py::arg("head"), py::kw_only(), py::arg("height"), py::arg("width"), py::arg("max_batch"),
           py::arg("precision"), py::arg("device"))
      .def_static(
          "planned_bytes",
          [](const std::vector<py::dict>& blocks, const py::dict& head, int height, int width, int max_batch,
             const std::string& precision, int device) {
            const NetworkConfig config = parse_config(blocks, head, height, width, max_batch, precision, device);
            py::gil_scoped_release release;
            return Network::planned_bytes(config);
          },
          py::arg("blocks"), py::arg("head"), py::kw_only(), py::arg("height"), py::arg("width"), py::arg("max_batch"),
          py::arg("precision"), py::arg("device"),
          "Bytes of device memory that the constructor would take; allocates none.")
      .def("run", &run, py::arg("x").noconvert(), py::kw_only(), py::arg("features") = false,
           py::arg("block_means") = false, py::arg("blocks") = false, py::arg("times") = false,
           "As _C.Network.run: x float32 [B, H, W] -> dict of float32 arrays.")
      .def("describe_plan", &describe_plan, py::arg("batch"), py::arg("height"), py::arg("width"),
           "What the tile planner chose for each block after the first.")
      .def_property_readonly("memory_bytes", &Network::memory_bytes);
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
  py::class_<Scorer>(m, "Scorer", py::module_local(), "Front end and network as one recorded graph.")
      .def(py::init([](const OnDevice<MelSpec>& melspec, std::shared_ptr<Network> network, const py::tuple& shape,
                       const OnDevice<Resampler>* resampler, int64_t n_in, int n_channels) {
             return std::make_unique<Scorer>(melspec.stage, std::move(network), parse_shape(shape),
                                             resampler == nullptr ? nullptr : resampler->stage, n_in, n_channels);
           }),
           py::arg("melspec"), py::arg("network"), py::arg("shape"), py::kw_only(), py::arg("resampler") = nullptr,
           py::arg("n_in") = 0, py::arg("n_channels") = 1)
      .def("run", &run_scorer, py::arg("network"), py::arg("waves").noconvert(), py::arg("shape"),
           "waves float32 [B, n_samples] -> (scores, logits), float32 [B, n_tags].")
      .def(
          "enqueue",
          [](Scorer& scorer, uintptr_t waves, int64_t wave_stride, int count, uintptr_t scores, const py::tuple& shape,
             uintptr_t stream) {
            const SegmentShape segment = parse_shape(shape);
            py::gil_scoped_release release;
            scorer.enqueue(static_cast<const float*>(pointer(waves)), wave_stride, count,
                           static_cast<float*>(pointer(scores)), nullptr, segment, pointer(stream));
          },
          py::arg("waves"), py::arg("wave_stride"), py::arg("count"), py::arg("scores"), py::arg("shape"),
          py::arg("stream"), "Put a run on `stream`; addresses are device pointers.")
      .def(
          "stage_times",
          [](Scorer& scorer, int batch, int repeats, const py::tuple& shape) {
            py::dict times;
            for (const auto& [name, seconds] : scorer.stage_times(batch, repeats, parse_shape(shape))) {
              times[py::str(name)] = seconds;
            }
            return times;
          },
          py::arg("batch"), py::arg("repeats"), py::arg("shape"))
      .def(
          "replay_times",
          [](Scorer& scorer, int batch, int repeats, int inputs, std::size_t flush_bytes, const py::tuple& shape) {
            return scorer.replay_times(batch, repeats, inputs, flush_bytes, parse_shape(shape));
          },
          py::arg("batch"), py::arg("repeats"), py::arg("inputs"), py::arg("flush_bytes"), py::arg("shape"))
      .def("use_graphs", &Scorer::use_graphs, py::arg("use"))
      .def_property_readonly("memory_bytes", &Scorer::memory_bytes);
}

}  // namespace
}  // namespace cuda
}  // namespace fcntag

// The tests build this file for the emulator, under another name: both may be loaded in one process.
#if defined(FCNTAG_EMULATED)
PYBIND11_MODULE(_cuda_emulated, m) {
#else
PYBIND11_MODULE(_cuda, m) {
#endif
  namespace cuda = fcntag::cuda;
  m.doc() = "fcntag's CUDA core. Importing it touches no driver.";
  py::register_local_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const cuda::DeviceError& error) {
      const py::object type = py::module_::import("fcntag.errors").attr("DeviceError");
      PyErr_SetString(type.ptr(), error.what());
    }
  });
  m.attr("emulated") =
#if defined(FCNTAG_EMULATED)
      true;
#else
      false;
#endif
  m.attr("architectures") = FCNTAG_CUDA_ARCHITECTURES;
  m.def("unavailable", &cuda::unavailable, "Why there is no usable GPU; '' if there is one. Initialises CUDA.");
  m.def("device_count", &cuda::device_count);
  m.def("device_info", &cuda::info_dict, pybind11::arg("device"));
  m.def(
      "free_memory",
      [](int device) {
        const cuda::DeviceScope scope(device);
        return cuda::free_memory();
      },
      pybind11::arg("device"));
  m.def(
      "device_of", [](uintptr_t address) { return cuda::device_of(cuda::pointer(address)); }, pybind11::arg("address"),
      "The GPU that an address lies on; -1 if it is no device memory.");
  m.def(
      "arithmetic_tflops",
      [](const std::string& precision, int device) {
        return cuda::arithmetic_tflops(fcntag::parse_precision(precision), cuda::device_info(device));
      },
      pybind11::arg("precision"), pybind11::arg("device"));
  m.def(
      "copy_gigabytes", [](int device) { return cuda::copy_gigabytes(cuda::device_info(device)); },
      pybind11::arg("device"));
  m.def("describe_dlpack", &fcntag::describe_dlpack, pybind11::arg("capsule"),
        "What a DLPack capsule holds; the memory lives as long as the dict's \"owner\".");
  m.def(
      "wait_for",
      [](uintptr_t stream, uintptr_t other, int device) {
        const cuda::DeviceScope scope(device);
        cuda::Event event(false);
        event.record(cuda::pointer(other));
        event.make_wait(cuda::pointer(stream));
      },
      pybind11::arg("stream"), pybind11::arg("other"), pybind11::arg("device"),
      "What comes on `stream` waits for what is on `other`.");
  cuda::register_all(m);
}
