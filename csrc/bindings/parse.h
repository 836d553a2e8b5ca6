// Reads what Python hands to either core (fcntag/engine/packing.py writes it) into the structs that the cores take.
#pragma once

#include <pybind11/numpy.h>

#include <string>
#include <vector>

#include "model/melspec_config.h"
#include "model/network_spec.h"

namespace fcntag {

using FloatArray = pybind11::array_t<float, pybind11::array::c_style>;

// Blocks are dicts of "in_channels", "out_channels", "kernel", "activation", "window", "stride", "weight", "bias",
// "scale" and "shift"; the head is one of "flatten", "in_features", "n_tags", "weight" and "bias". The dicts keep the
// arrays alive: the spec borrows their memory.
NetworkSpec parse_network(const std::vector<pybind11::dict>& blocks, const pybind11::dict& head, int height, int width);

Precision parse_precision(const std::string& name);

MelSpecConfig parse_melspec(const pybind11::dict& d);

}  // namespace fcntag
