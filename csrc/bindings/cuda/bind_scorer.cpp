#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bindings/cuda/on_device.h"
#include "bindings/cuda/pointer.h"
#include "bindings/cuda/register.h"
#include "bindings/gil_release.h"
#include "bindings/parse.h"
#include "check.h"
#include "cuda/scorer.h"

namespace py = pybind11;

namespace fcntag {
namespace cuda {
namespace {

// Value `index` of a tuple that stands for a SegmentShape; `name` is the field, for the message.
template <typename Integer>
Integer parse_field(const py::tuple& shape, std::size_t index, const char* name) {
  try {
    return shape[index].cast<Integer>();
  } catch (const py::cast_error&) {
    fail("scores: shape's ", name, " is ", py::repr(shape[index]).cast<std::string>(), "; expected an integer of ",
         8 * sizeof(Integer), " bits");
  }
}

// (n_samples, pad_left, n_frames, height, width), as fcntag/_cuda.pyi has it.
SegmentShape parse_shape(const py::tuple& shape) {
  FCNTAG_CHECK(shape.size() == 5, "scores: shape has ", shape.size(),
               " values; expected (n_samples, pad_left, n_frames, height, width)");
  SegmentShape segment{};
  segment.n_samples = parse_field<int64_t>(shape, 0, "n_samples");
  segment.pad_left = parse_field<int64_t>(shape, 1, "pad_left");
  segment.n_frames = parse_field<int>(shape, 2, "n_frames");
  segment.height = parse_field<int>(shape, 3, "height");
  segment.width = parse_field<int>(shape, 4, "width");
  check_padding(segment.pad_left);
  return segment;
}

py::tuple run_scorer(Scorer& scorer, const FloatArray& waves, const py::tuple& shape) {
  FCNTAG_CHECK(waves.ndim() >= 2, "scores: waves must be [batch, n_samples] or [batch, n_in, n_channels]");
  const HostArray held(waves);
  const SegmentShape segment = parse_shape(shape);
  const int batch = to_int(waves.shape(0), "scores: batch");
  FCNTAG_CHECK(batch == 0 || waves.size() / batch == scorer.clip_floats(segment), "scores: clips of ",
               waves.size() / std::max(batch, 1), " values; planned for ", scorer.clip_floats(segment));
  FloatArray scores = make_output({batch, scorer.n_tags()}, "scores");
  FloatArray logits = make_output({batch, scorer.n_tags()}, "scores");
  float *score_data = scores.mutable_data(), *logit_data = logits.mutable_data();
  {
    const GilRelease release;
    scorer.run(held.data(), batch, score_data, logit_data, segment);
  }
  return py::make_tuple(scores, logits);
}

}  // namespace

void register_scorer(py::module_& m) {
  py::class_<Scorer>(m, "Scorer", py::module_local(), "Front end and network as one recorded graph.")
      .def(py::init([](const OnDevice<MelSpec>& melspec, std::shared_ptr<Network> network, const py::tuple& shape,
                       const OnDevice<Resampler>* resampler, int64_t n_in, int n_channels) {
             return std::make_unique<Scorer>(melspec.stage, std::move(network), parse_shape(shape),
                                             resampler == nullptr ? nullptr : resampler->stage, n_in, n_channels);
           }),
           py::arg("melspec"), py::arg("network"), py::arg("shape"), py::kw_only(), py::arg("resampler") = nullptr,
           py::arg("n_in") = 0, py::arg("n_channels") = 1)
      .def("run", &run_scorer, py::arg("waves").noconvert(), py::arg("shape"),
           "waves float32 [B, n_samples] -> (scores, logits), float32 [B, n_tags].")
      .def(
          "enqueue",
          [](Scorer& scorer, uintptr_t waves, int64_t wave_stride, int count, uintptr_t scores, const py::tuple& shape,
             uintptr_t stream) {
            const SegmentShape segment = parse_shape(shape);
            const GilRelease release;
            scorer.enqueue(static_cast<const float*>(pointer(waves)), wave_stride, count,
                           static_cast<float*>(pointer(scores)), nullptr, segment, pointer(stream));
          },
          py::arg("waves"), py::arg("wave_stride"), py::arg("count"), py::arg("scores"), py::arg("shape"),
          py::arg("stream"), "Put a run on `stream`; addresses are device pointers.")
      .def(
          "stage_times",
          [](Scorer& scorer, int batch, int repeats, const py::tuple& shape, double spin_seconds) {
            py::dict times;
            for (const auto& [name, seconds] : scorer.stage_times(batch, repeats, spin_seconds, parse_shape(shape))) {
              times[py::str(name)] = seconds;
            }
            return times;
          },
          py::arg("batch"), py::arg("repeats"), py::arg("shape"), py::kw_only(), py::arg("spin_seconds") = 0.0)
      .def(
          "replay_times",
          [](Scorer& scorer, int batch, int repeats, int inputs, std::size_t flush_bytes, const py::tuple& shape,
             double spin_seconds) {
            return scorer.replay_times(batch, repeats, inputs, flush_bytes, spin_seconds, parse_shape(shape));
          },
          py::arg("batch"), py::arg("repeats"), py::arg("inputs"), py::arg("flush_bytes"), py::arg("shape"),
          py::kw_only(), py::arg("spin_seconds") = 0.0)
      .def("use_graphs", &Scorer::use_graphs, py::arg("use"))
      .def_property_readonly("memory_bytes", &Scorer::memory_bytes);
}

}  // namespace cuda
}  // namespace fcntag
