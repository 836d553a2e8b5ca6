// Each file of bindings/cuda adds its part of the module.
#pragma once

#include <pybind11/pybind11.h>

namespace fcntag {
namespace cuda {

void register_stages(pybind11::module_& m);
void register_network(pybind11::module_& m);
// After the other two: the signatures of a scorer name their classes.
void register_scorer(pybind11::module_& m);

}  // namespace cuda
}  // namespace fcntag
