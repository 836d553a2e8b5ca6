// Network.run() of both cores takes a NumPy array and returns a dict of NumPy arrays.
#pragma once

#include <pybind11/numpy.h>

#include <algorithm>
#include <array>
#include <vector>

#include "check.h"
#include "model/network_outputs.h"
#include "bindings/host_array.h"

namespace fcntag {

// x [batch, height, width]; `shapes(height, width)` gives (C, H, W) of every block's output, and throws where the
// network does not take the input. The dict has scores, logits and the outputs that are asked for.
template <typename Network, typename Shapes>
pybind11::dict run_network(Network& network, const Shapes& shapes, const FloatArray& x, bool features, bool block_means,
                           bool blocks, bool hidden, bool times) {
  namespace py = pybind11;
  FCNTAG_CHECK(x.ndim() == 3, "network: x must be [batch, height, width], not ", x.ndim(), "-dimensional");
  const HostArray held(x);
  const int batch = to_int(x.shape(0), "network: batch"), height = to_int(x.shape(1), "network: height"),
            width = to_int(x.shape(2), "network: width");
  const std::vector<std::array<int, 3>> sizes = shapes(height, width);  // refuses an input that run() would refuse
  py::dict result;
  NetworkOutputs out;
  const auto add = [&](const char* name, std::vector<py::ssize_t> shape) {
    FloatArray array = make_output(shape, "network");
    result[name] = array;
    return array.mutable_data();
  };
  out.scores = add("scores", {batch, network.n_tags()});
  out.logits = add("logits", {batch, network.n_tags()});
  if (features) out.features = add("features", {batch, network.last_features()});
  if (block_means) out.block_means = add("block_means", {batch, network.block_channels()});
  if (blocks) {
    py::list list;
    for (const std::array<int, 3>& size : sizes) {
      FloatArray array = make_output({batch, size[0], size[1], size[2]}, "network");
      out.blocks.push_back(array.mutable_data());
      list.append(array);
    }
    result["blocks"] = list;
  }
  if (hidden) {
    py::list list;
    for (const int out_features : network.hidden_features()) {
      FloatArray array = make_output({batch, out_features}, "network");
      out.hidden.push_back(array.mutable_data());
      list.append(array);
    }
    result["hidden"] = list;
  }
  if (times) {
    py::array_t<double> seconds(static_cast<py::ssize_t>(network.n_blocks()) + 1);
    result["seconds"] = seconds;
    out.seconds = seconds.mutable_data();
    std::fill_n(out.seconds, seconds.size(), 0.0);
  }
  {
    py::gil_scoped_release release;
    network.run(held.data(), batch, height, width, out);
  }
  return result;
}

}  // namespace fcntag
