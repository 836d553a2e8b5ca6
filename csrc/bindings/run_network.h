// Network.run() of both cores takes a NumPy array and returns a dict of NumPy arrays.
#pragma once

#include <pybind11/numpy.h>

#include <algorithm>
#include <array>
#include <vector>

#include "check.h"
#include "model/network_outputs.h"
#include "bindings/gil_release.h"
#include "bindings/parse.h"

namespace fcntag {

// x [batch, height, width]; `shapes(height, width)` gives (C, H, W) of every block's output. The dict has scores,
// logits and the outputs that are asked for.
template <typename Network, typename Shapes>
pybind11::dict run_network(Network& network, const Shapes& shapes, const FloatArray& x, bool features, bool block_means,
                           bool blocks, bool times) {
  namespace py = pybind11;
  FCNTAG_CHECK(x.ndim() == 3, "network: x must be [batch, height, width], not ", x.ndim(), "-dimensional");
  const py::ssize_t batch = x.shape(0);
  const int height = static_cast<int>(x.shape(1)), width = static_cast<int>(x.shape(2));
  py::dict result;
  NetworkOutputs out;
  const auto add = [&](const char* name, std::vector<py::ssize_t> shape) {
    FloatArray array(shape);
    result[name] = array;
    return array.mutable_data();
  };
  out.scores = add("scores", {batch, network.n_tags()});
  out.logits = add("logits", {batch, network.n_tags()});
  if (features) out.features = add("features", {batch, network.in_features()});
  if (block_means) out.block_means = add("block_means", {batch, network.block_channels()});
  if (blocks) {
    py::list list;
    for (const std::array<int, 3>& shape : shapes(height, width)) {
      FloatArray array(std::vector<py::ssize_t>{batch, shape[0], shape[1], shape[2]});
      out.blocks.push_back(array.mutable_data());
      list.append(array);
    }
    result["blocks"] = list;
  }
  if (times) {
    py::array_t<double> seconds(static_cast<py::ssize_t>(network.n_blocks()) + 1);
    result["seconds"] = seconds;
    out.seconds = seconds.mutable_data();
    std::fill_n(out.seconds, seconds.size(), 0.0);
  }
  const float* data = x.data();
  {
    const GilRelease release;
    network.run(data, static_cast<int>(batch), height, width, out);
  }
  return result;
}

}  // namespace fcntag
