// Reads what Python hands to either core (fcntag/engine/packing.py writes it) into the structs that the cores take.
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "bindings/host_array.h"
#include "model/melspec_config.h"
#include "model/network_spec.h"

namespace fcntag {

// A network whose weights are there as long as this object is.
struct HeldNetwork {
  NetworkSpec spec;
  std::vector<HostArray> arrays;  // what the spec points into
};

// Blocks are dicts of "in_channels", "out_channels", "kernel", "activation", "window", "stride", "weight", "bias",
// "scale" and "shift"; the head is one of "flatten", "in_features", "n_tags", "weight", "bias" and "hidden", a
// list of dicts of "out_features", "activation", "weight" and "bias". Throws
// std::invalid_argument where an array has another shape than the numbers beside it say, or another type than float32.
HeldNetwork parse_network(const std::vector<pybind11::dict>& blocks, const pybind11::dict& head, int height, int width);

Precision parse_precision(const std::string& name);

MelSpecConfig parse_melspec(const pybind11::dict& d);

// Throws std::invalid_argument unless a front end can begin so many samples before a clip.
void check_padding(int64_t pad_left);

}  // namespace fcntag
