#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/gil_release.h"
#include "bindings/register.h"
#include "cpu/ceilings.h"
#include "cpu/isa.h"
#include "cpu/kernel_table.h"
#include "cpu/thread_pool.h"

namespace py = pybind11;

namespace fcntag {
namespace {

std::vector<std::string> names(const std::vector<Isa>& isas) {
  std::vector<std::string> out;
  for (Isa isa : isas) out.emplace_back(isa_name(isa));
  return out;
}

py::dict build_info() {
  py::dict info;
  info["isa"] = isa_name(choose_isa());
  info["isas_built"] = names(built_isas());
  info["isas_available"] = names(available_isas());
  info["bfloat16"] = winograd_kernels(choose_isa(), Precision::kBfloat16) != nullptr;
  info["compiler"] = __VERSION__;
  return info;
}

}  // namespace
}  // namespace fcntag

PYBIND11_MODULE(_C, m) {
  m.doc() = "fcntag's CPU core.";
  m.def("build_info", &fcntag::build_info, "Instruction sets built, available and chosen; compiler.");
  m.def("available_threads", &fcntag::available_threads, "CPUs of the affinity mask, lowered to the cgroup quota.");
  m.def("fma_peak", &fcntag::fma_peak, pybind11::arg("threads"), pybind11::call_guard<fcntag::GilRelease>(),
        "Multiply-adds that `threads` threads can do, in GFLOP/s of the instruction set in use: the compute ceiling.");
  m.def("copy_bandwidth", &fcntag::copy_bandwidth, pybind11::arg("threads"), pybind11::call_guard<fcntag::GilRelease>(),
        "Bytes read and written per second by `threads` threads copying 128 MB, in GB/s: the memory ceiling.");
  m.def("set_flush_denormals", &fcntag::set_flush_denormals, pybind11::arg("flush"),
        "Flush denormals to zero on this thread from now on, or stop it; returns what it did before.");
  fcntag::register_network(m);
  fcntag::register_melspec(m);
}
