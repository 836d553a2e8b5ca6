// Arrays of other libraries without a copy: the DLPack capsule, as its specification (version 0.x structs) lays it out.
#pragma once

#include <pybind11/pybind11.h>

namespace fcntag {

// A "dltensor" capsule of Python's __dlpack__() -> {"address", "shape", "strides" (elements), "code", "bits", "owner"};
// the memory lives as long as "owner". Takes the capsule over. ValueError if it is none, or was used before.
pybind11::dict describe_dlpack(const pybind11::capsule& capsule);

}  // namespace fcntag
