// NumPy arrays on their way in and out of the cores.
#pragma once

#include <pybind11/numpy.h>

#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "check.h"

namespace fcntag {

// As an argument with noconvert(): a float32 array in native byte order, C-contiguous, or a copy of it if its address
// is no float's. As a conversion: the same, or a copy of what NumPy casts to it without loss.
using FloatArray = pybind11::array_t<float, pybind11::array::c_style | pybind11::detail::npy_api::NPY_ARRAY_ALIGNED_>;

// The float32 values of an array, which stay where they are as long as this object lives. Make it and let it go with
// the GIL held; data() may be read without.
class HostArray {
 public:
  explicit HostArray(FloatArray array) : array_(std::move(array)) {
    // ndarray.resize() frees an array's memory under those who hold it if it is told refcheck=False. It refuses an
    // array that has a weak reference.
    pybind11::object owner = array_;
    while (pybind11::isinstance<pybind11::array>(owner)) {
      pins_.push_back(pybind11::weakref(owner));
      owner = owner.attr("base");
    }
  }

  const float* data() const { return array_.data(); }

 private:
  FloatArray array_;
  std::vector<pybind11::weakref> pins_;
};

// `value` as float32 of exactly that shape. The object owns what it points to: the array itself, or a copy where the
// array is not C-contiguous, aligned or in native byte order, or of a type that float32 holds without loss.
inline HostArray hold(const pybind11::object& value, const std::vector<pybind11::ssize_t>& shape,
                      const std::string& what) {
  namespace py = pybind11;
  FloatArray array = FloatArray::ensure(value);
  if (!array) {
    const py::object type = py::hasattr(value, "dtype") ? value.attr("dtype") : py::object(py::type::of(value));
    fail(what, " is ", py::str(type).cast<std::string>(), "; expected float32");
  }
  const std::vector<py::ssize_t> found(array.shape(), array.shape() + array.ndim());
  FCNTAG_CHECK(found == shape, what, " has shape ", py::str(py::cast(found)).cast<std::string>(), "; expected ",
               py::str(py::cast(shape)).cast<std::string>());
  return HostArray(std::move(array));
}

// A size of an array as the cores count: an int. Throws std::invalid_argument, which names it, beyond that.
inline int to_int(pybind11::ssize_t size, const char* what) {
  FCNTAG_CHECK(size >= 0 && size <= std::numeric_limits<int>::max(), what, "=", size, "; at most ",
               std::numeric_limits<int>::max());
  return static_cast<int>(size);
}

// An uninitialised array for results. Throws std::invalid_argument where its size does not fit in 63 bits.
inline FloatArray make_output(const std::vector<pybind11::ssize_t>& shape, const char* what) {
  pybind11::ssize_t bytes = sizeof(float);
  for (const pybind11::ssize_t size : shape) {
    FCNTAG_CHECK(size >= 0 && !__builtin_mul_overflow(bytes, size, &bytes), what, ": an output of ",
                 pybind11::str(pybind11::cast(shape)).cast<std::string>(), " values is too large");
  }
  return FloatArray(shape);
}

}  // namespace fcntag
