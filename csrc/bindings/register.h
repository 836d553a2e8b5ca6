// Each file of bindings adds its part of the module.
#pragma once

#include <pybind11/pybind11.h>

namespace fcntag {
void register_network(pybind11::module_& m);
void register_melspec(pybind11::module_& m);
}  // namespace fcntag
