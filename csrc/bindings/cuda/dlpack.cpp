#include "bindings/cuda/dlpack.h"

#include <cstdint>
#include <cstring>

#include "check.h"

namespace py = pybind11;

namespace fcntag {

namespace {

struct Device {
  int32_t type, id;
};
struct DataType {
  uint8_t code, bits;
  uint16_t lanes;
};
struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;  // in elements; null: C-contiguous
  uint64_t byte_offset;
};
struct ManagedTensor {
  Tensor tensor;
  void* context;
  void (*deleter)(ManagedTensor*);
};

}  // namespace

py::dict describe_dlpack(const py::capsule& capsule) {
  const char* name = capsule.name();
  FCNTAG_CHECK(name != nullptr && std::strcmp(name, "dltensor") == 0, "DLPack: a capsule named '",
               name == nullptr ? "" : name, "'; expected 'dltensor', not used before");
  auto* managed = capsule.get_pointer<ManagedTensor>();
  // From here on the tensor is ours, and so is its deleter.
  PyCapsule_SetName(capsule.ptr(), "used_dltensor");
  PyCapsule_SetDestructor(capsule.ptr(), nullptr);
  py::capsule owner(managed, [](void* p) {
    auto* tensor = static_cast<ManagedTensor*>(p);
    if (tensor->deleter != nullptr) tensor->deleter(tensor);
  });
  const Tensor& t = managed->tensor;
  FCNTAG_CHECK(t.dtype.lanes == 1, "DLPack: vectors of ", t.dtype.lanes, " lanes; expected scalars");
  py::list shape, strides;
  int64_t step = 1;
  for (int i = t.ndim - 1; i >= 0; --i) {
    shape.insert(0, py::int_(t.shape[i]));
    strides.insert(0, py::int_(t.strides != nullptr ? t.strides[i] : step));
    step *= t.shape[i];
  }
  py::dict d;
  d["address"] = reinterpret_cast<uintptr_t>(t.data) + t.byte_offset;
  d["shape"] = shape;
  d["strides"] = strides;
  d["code"] = t.dtype.code;
  d["bits"] = t.dtype.bits;
  d["owner"] = owner;
  return d;
}

}  // namespace fcntag
