#include <pybind11/pybind11.h>

#include <cstdint>
#include <exception>
#include <memory>
#include <string>

#include "bindings/cuda/dlpack.h"
#include "bindings/cuda/pointer.h"
#include "bindings/cuda/register.h"
#include "bindings/parse.h"
#include "cuda/ceilings.h"
#include "cuda/runtime.h"

namespace py = pybind11;

namespace fcntag {
namespace cuda {
namespace {

// A DeviceScope as a Python context manager, for calls of other libraries that work on the thread's GPU.
struct PythonScope {
  int device;
  std::unique_ptr<DeviceScope> scope;
};

py::dict info_dict(int device) {
  const DeviceInfo info = device_info(device);
  py::dict d;
  d["index"] = info.index;
  d["name"] = info.name;
  d["capability"] = py::make_tuple(info.major, info.minor);
  d["multiprocessors"] = info.multiprocessors;
  d["shared_bytes"] = info.shared_bytes;
  d["memory_bytes"] = info.memory_bytes;
  d["driver"] = info.driver_version;
  d["runtime"] = info.runtime_version;
  return d;
}

}  // namespace
}  // namespace cuda
}  // namespace fcntag

// The build says how the module is called: modules on different runtimes may be loaded in one process.
PYBIND11_MODULE(FCNTAG_CUDA_MODULE, m) {
  namespace cuda = fcntag::cuda;
  m.doc() = "fcntag's CUDA core. Importing it touches no driver.";
  py::register_local_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const cuda::DeviceError& error) {
      const py::object type = py::module_::import("fcntag.errors").attr("DeviceError");
      PyErr_SetString(type.ptr(), error.what());
    }
  });
  m.attr("emulated") = std::string(cuda::runtime_name()) != "cuda";
  m.attr("architectures") = FCNTAG_CUDA_ARCHITECTURES;
  m.def("unavailable", &cuda::unavailable, "Why there is no usable GPU; '' if there is one. Initialises CUDA.");
  m.def("device_count", &cuda::device_count);
  m.def("device_info", &cuda::info_dict, pybind11::arg("device"));
  m.def(
      "free_memory",
      [](int device) {
        const cuda::DeviceScope scope(device);
        return cuda::free_memory();
      },
      pybind11::arg("device"));
  py::class_<cuda::PythonScope>(m, "DeviceScope", py::module_local(),
                                "The calling thread works on a GPU inside `with`.")
      .def(py::init([](int device) { return cuda::PythonScope{device, nullptr}; }), py::arg("device"))
      .def("__enter__", [](cuda::PythonScope& s) { s.scope = std::make_unique<cuda::DeviceScope>(s.device); })
      .def("__exit__", [](cuda::PythonScope& s, const py::args&) { s.scope.reset(); });
  m.def("current_device", &cuda::current_device, "The calling thread's GPU.");
  m.def("has_context", &cuda::has_context, py::arg("device"), "Whether this process has made a context on the GPU.");
  m.def(
      "device_of",
      [](uintptr_t address, int device) {
        const cuda::DeviceScope scope(device);
        return cuda::device_of(cuda::pointer(address));
      },
      py::arg("address"), py::arg("device"),
      "The GPU that an address lies on, asked from `device`; -1 if it is no device memory.");
  m.def(
      "is_capturing",
      [](uintptr_t stream, int device) {
        const cuda::DeviceScope scope(device);
        return cuda::is_capturing(cuda::pointer(stream));
      },
      py::arg("stream"), py::arg("device"),
      "Whether work on a stream would become part of somebody's graph, or end its recording.");
  m.def(
      "arithmetic_tflops",
      [](const std::string& precision, int device) {
        return cuda::arithmetic_tflops(fcntag::parse_precision(precision), cuda::device_info(device));
      },
      pybind11::arg("precision"), pybind11::arg("device"));
  m.def(
      "copy_gigabytes", [](int device) { return cuda::copy_gigabytes(cuda::device_info(device)); },
      pybind11::arg("device"));
  m.def("describe_dlpack", &fcntag::describe_dlpack, pybind11::arg("capsule"),
        "The array in a DLPack capsule, as a dict; its memory lives as long as the dict's \"owner\".");
  m.def(
      "wait_for",
      [](uintptr_t stream, uintptr_t other, int device) {
        const cuda::DeviceScope scope(device);
        cuda::Event event(false);
        event.record(cuda::pointer(other));
        event.make_wait(cuda::pointer(stream));
      },
      pybind11::arg("stream"), pybind11::arg("other"), pybind11::arg("device"),
      "Work that is put on `stream` from now on waits for the work on `other`.");
  // pybind11 writes a signature when it is registered, with the classes that it knows by then.
  cuda::register_stages(m);
  cuda::register_network(m);
  cuda::register_scorer(m);
}
