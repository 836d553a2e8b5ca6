#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "bindings/cuda/register.h"
#include "bindings/gil_release.h"
#include "bindings/parse.h"
#include "bindings/run_network.h"
#include "cuda/network.h"

namespace py = pybind11;

namespace fcntag {
namespace cuda {
namespace {

// Calls work(config) without the GIL, while the arrays in the dicts are held.
template <typename Work>
auto with_config(const std::vector<py::dict>& blocks, const py::dict& head, int height, int width, int max_batch,
                 const std::string& precision, int device, const Work& work) {
  const HeldNetwork held = parse_network(blocks, head, height, width);
  const NetworkConfig config{held.spec, max_batch, parse_precision(precision), device};
  const GilRelease release;
  return work(config);
}

py::dict run(Network& network, const FloatArray& x, bool features, bool block_means, bool blocks, bool hidden,
             bool times) {
  const auto shapes = [&network](int height, int width) {
    const auto sizes = network.sizes(height, width);
    std::vector<std::array<int, 3>> shapes;
    for (int i = 0; i < network.n_blocks(); ++i) {
      shapes.push_back({network.layer(i).out_channels, sizes[i + 1].first, sizes[i + 1].second});
    }
    return shapes;
  };
  return run_network(network, shapes, x, features, block_means, blocks, hidden, times);
}

// The first block's window: (height, width) if it has a kernel of its own, else the kind of kernel that takes it.
py::object describe_window(const FirstPlan& plan) {
  switch (plan.window) {
    case WindowKernel::kBuilt:
      return py::make_tuple(plan.params.pool_h, plan.params.pool_w);
    case WindowKernel::kGeneral:
      return py::str("general");
    default:
      return py::str("any");
  }
}

py::dict describe_first(const FirstPlan& plan) {
  const FirstParams& p = plan.params;
  py::dict d;
  d["code"] = describe_window(plan);
  d["rows"] = p.tile_h * p.tile_w * p.pool_h * p.pool_w;
  d["channels"] = p.channel_lanes * kFirstLaneChannels;
  d["threads"] = kFirstThreads;
  d["tile"] = py::make_tuple(1, p.tile_h, p.tile_w);
  d["split"] = false;
  d["ctas"] = plan.grid.x * plan.grid.y * plan.grid.z;
  d["shared_bytes"] = plan.shared_bytes;
  return d;
}

// The tiles that were chosen for a batch, one dict a block: for tests and tuning. "rows" are pixels of the convolution
// and "channels" output channels of a CTA.
py::list describe_plan(Network& network, int batch, int height, int width) {
  const Network::Plan& plan = network.plan(batch, height, width);
  py::list list;
  list.append(describe_first(plan.first));
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
    d["split"] = p.split == Split::kPartial;
    d["halo_buffers"] = p.halo_buffers;
    d["ctas"] = block.ctas;
    d["shared_bytes"] = block.shared_bytes;
    d["cycles"] = block.cycles;
    list.append(d);
  }
  return list;
}

}  // namespace

void register_network(py::module_& m) {
  py::class_<Network, std::shared_ptr<Network>>(m, "Network", py::module_local(),
                                                "Conv blocks and head, planned for inputs up to [height, width].")
      .def(py::init([](const std::vector<py::dict>& blocks, const py::dict& head, int height, int width, int max_batch,
                       const std::string& precision, int device) {
             return with_config(blocks, head, height, width, max_batch, precision, device,
                                [](const NetworkConfig& config) { return std::make_shared<Network>(config); });
           }),
           py::arg("blocks"), py::arg("head"), py::kw_only(), py::arg("height"), py::arg("width"), py::arg("max_batch"),
           py::arg("precision"), py::arg("device"))
      .def_static(
          "planned_bytes",
          [](const std::vector<py::dict>& blocks, const py::dict& head, int height, int width, int max_batch,
             const std::string& precision, int device) {
            return with_config(blocks, head, height, width, max_batch, precision, device,
                               [](const NetworkConfig& config) { return Network::planned_bytes(config); });
          },
          py::arg("blocks"), py::arg("head"), py::kw_only(), py::arg("height"), py::arg("width"), py::arg("max_batch"),
          py::arg("precision"), py::arg("device"),
          "Bytes of device memory that the constructor would take; allocates none.")
      .def("run", &run, py::arg("x").noconvert(), py::kw_only(), py::arg("features") = false,
           py::arg("block_means") = false, py::arg("blocks") = false, py::arg("hidden") = false,
           py::arg("times") = false, "As _C.Network.run: x float32 [B, H, W] -> dict of float32 arrays.")
      .def("describe_plan", &describe_plan, py::arg("batch"), py::arg("height"), py::arg("width"),
           "The tiles of every block, a dict each. The first one's \"window\" is the (height, width) that a kernel is "
           "built for, \"general\" where there is none, \"any\" where the kernel needs none.")
      .def_property_readonly("idle", &Network::idle, "Whether the GPU has finished every run of this network.")
      .def_property_readonly("memory_bytes", &Network::memory_bytes);
}

}  // namespace cuda
}  // namespace fcntag
