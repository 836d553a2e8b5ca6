#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>

#include "check.h"
#include "cpu/network.h"
#include "bindings/parse.h"
#include "cpu/thread_pool.h"
#include "bindings/register.h"
#include "bindings/run_network.h"

namespace py = pybind11;

namespace fcntag {
namespace {

Algorithm parse_algorithm(const std::string& name) {
  if (name == "auto") return Algorithm::kAuto;
  if (name == "direct") return Algorithm::kDirect;
  FCNTAG_CHECK(name == "winograd", "network: algorithm='", name, "'; built: auto, direct, winograd");
  return Algorithm::kWinograd;
}

std::vector<std::string> algorithm_names(const Network& network) {
  std::vector<std::string> names;
  for (Algorithm a : network.algorithms()) names.push_back(a == Algorithm::kWinograd ? "winograd" : "direct");
  return names;
}

std::unique_ptr<Network> make_network(const std::vector<py::dict>& blocks, const py::dict& head, int height, int width,
                                      const std::string& precision, const std::string& algorithm,
                                      std::shared_ptr<ThreadPool> pool) {
  return std::make_unique<Network>(parse_network(blocks, head, height, width), parse_precision(precision),
                                   parse_algorithm(algorithm), std::move(pool));
}

py::dict run(Network& network, const FloatArray& x, bool features, bool block_means, bool blocks, bool times) {
  const auto shapes = [&network](int height, int width) {
    std::vector<std::array<int, 3>> shapes;
    for (const MapLayout& map : network.map_sizes(height, width))
      shapes.push_back({map.channels, map.height, map.width});
    return shapes;
  };
  return run_network(network, shapes, x, features, block_means, blocks, times);
}

}  // namespace

void register_network(py::module_& m) {
  py::class_<ThreadPool, std::shared_ptr<ThreadPool>>(m, "ThreadPool", "Threads that a MelSpec and a Network share.")
      .def(py::init<int>(), py::arg("threads"))
      .def_property_readonly("threads", &ThreadPool::threads);
  py::class_<Network>(m, "Network", "Conv blocks and head, planned for inputs up to [height, width].")
      .def(py::init(&make_network), py::arg("blocks"), py::arg("head"), py::kw_only(), py::arg("height"),
           py::arg("width"), py::arg("precision"), py::arg("algorithm"), py::arg("pool"))
      .def_property_readonly("algorithms", &algorithm_names)
      .def("run", &run, py::arg("x").noconvert(), py::kw_only(), py::arg("features") = false,
           py::arg("block_means") = false, py::arg("blocks") = false, py::arg("times") = false,
           "x float32 [B, H, W] -> dict of float32 arrays: scores and logits [B, n_tags]; if asked for, features "
           "[B, in_features], block_means [B, sum of C] and blocks, a list of [B, C, H, W]; with times, "
           "seconds [n_blocks + 1] of every block and of the rest.")
      .def_property_readonly("memory_bytes", &Network::memory_bytes)
      .def_property_readonly("isa", &Network::isa);
}

}  // namespace fcntag
