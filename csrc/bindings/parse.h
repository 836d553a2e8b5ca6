// What Python hands to either engine (fcntag/engine.py writes it), as the structs that the engines take.
#pragma once

#include <pybind11/numpy.h>

#include "cpu/conv_block.h"
#include "cpu/melspec.h"

namespace fcntag {

using FloatArray = pybind11::array_t<float, pybind11::array::c_style>;

// The float32 values of d[key]; ValueError if they are not `size`. `d` keeps them alive.
const float* vector_data(const pybind11::dict& d, const char* key, pybind11::ssize_t size);

// One of {"in_channels", "out_channels", "kernel", "activation", "window", "stride", "weight", "bias", "scale",
// "shift"} dicts; `d` keeps the arrays alive: the spec borrows their memory.
ConvBlockSpec parse_block(const pybind11::dict& d);

MelSpecConfig parse_melspec(const pybind11::dict& d);

}  // namespace fcntag
