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

const char* algorithm_name(const PlannedBlock& block) {
  return block.algorithm == Algorithm::kWinograd ? "winograd" : "direct";
}

std::vector<std::string> algorithm_names(const Network& network) {
  std::vector<std::string> names;
  for (const PlannedBlock& block : network.planned_blocks()) names.emplace_back(algorithm_name(block));
  return names;
}

py::object window_name(WindowCode code, const py::tuple& window) {
  if (code == WindowCode::kBuilt) return window;
  return py::str(code == WindowCode::kGeneral ? "general" : "any");
}

py::list describe_plan(const Network& network, int height, int width) {
  const NetworkPlan plan = network.plan_for({height, width});
  py::list list;
  for (std::size_t i = 0; i < plan.blocks.size(); ++i) {
    const PlannedBlock& block = network.planned_blocks()[i];
    const py::tuple window = py::make_tuple(block.pool_h, block.pool_w);
    py::dict d;
    d["index"] = i;
    d["algorithm"] = algorithm_name(block);
    d["window"] = window;
    d["stride"] = py::make_tuple(block.stride_h, block.stride_w);
    d["code"] = window_name(network.window_code(i), window);
    if (const auto* winograd = std::get_if<WinogradPlan>(&plan.blocks[i].tiling)) {
      d["unit"] = py::make_tuple(winograd->unit_rows, winograd->unit_cols);
      d["units"] = py::make_tuple(winograd->grid_rows, winograd->grid_cols);
      d["block_units"] = winograd->block_units;
      d["share_tiles"] = winograd->share_tiles;
    } else {
      const DirectPlan& direct = std::get<DirectPlan>(plan.blocks[i].tiling);
      d["strip_rows"] = direct.strip_rows;
      d["strips"] = direct.strips;
      d["chunk_cols"] = direct.chunk_cols;
    }
    list.append(d);
  }
  return list;
}

std::unique_ptr<Network> make_network(const std::vector<py::dict>& blocks, const py::dict& head, int height, int width,
                                      const std::string& precision, const std::string& algorithm,
                                      std::shared_ptr<ThreadPool> pool) {
  const HeldNetwork held = parse_network(blocks, head, height, width);
  return std::make_unique<Network>(held.spec, parse_precision(precision), parse_algorithm(algorithm), std::move(pool));
}

py::dict run(Network& network, const FloatArray& x, bool features, bool block_means, bool blocks, bool hidden,
             bool times) {
  const auto shapes = [&network](int height, int width) {
    std::vector<std::array<int, 3>> shapes;
    for (const BlockPlan& block : network.plan_for({height, width}).blocks)
      shapes.push_back({block.out.channels, block.out.height, block.out.width});
    return shapes;
  };
  return run_network(network, shapes, x, features, block_means, blocks, hidden, times);
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
      .def("describe_plan", &describe_plan, py::arg("height"), py::arg("width"),
           "How each block of an input [height, width] is computed: a list of dicts. \"code\" is the block's window "
           "where "
           "its kernel has code for it, \"general\" where it has for others only, \"any\" where it takes all alike.")
      .def("run", &run, py::arg("x").noconvert(), py::kw_only(), py::arg("features") = false,
           py::arg("block_means") = false, py::arg("blocks") = false, py::arg("hidden") = false,
           py::arg("times") = false,
           "x float32 [B, H, W] -> dict of float32 arrays: scores and logits [B, n_tags]; if asked for, features "
           "[B, last_features], block_means [B, sum of C], blocks, a list of [B, C, H, W], and hidden, a list of "
           "[B, out_features]; with times, "
           "seconds [n_blocks + 1] of every block and of the rest.")
      .def_property_readonly("memory_bytes", &Network::memory_bytes)
      .def_property_readonly("isa", &Network::isa);
}

}  // namespace fcntag
