#include "cpu/isa.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <thread>

#ifdef __linux__
#include <sched.h>
#endif

#include "check.h"

namespace fcntag {
namespace {

struct IsaRow {
  Isa isa;
  const char* name;
  bool (*runs)();  // on this CPU and operating system
};

bool always() { return true; }
#if defined(__x86_64__)
bool runs_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool runs_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
}
#endif

// The sets that this library is built for, slowest first. kernel_table.cpp has their kernels.
constexpr IsaRow kBuilt[] = {
    {Isa::kGeneric, "generic", always},
#if defined(__x86_64__)
    {Isa::kAvx2, "avx2", runs_avx2},
    {Isa::kAvx512, "avx512", runs_avx512},
#endif
#if defined(__aarch64__)
    {Isa::kNeon, "neon", always},
#endif
};

}  // namespace

bool cpu_has_bfloat16() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

namespace {

// The number of CPUs that the quota of the cgroup allows, or 0 without a quota. Version 2 is asked first, then 1.
int cgroup_cpus() {
  double quota = 0, period = 0;
  std::string word;
  if (std::ifstream v2("/sys/fs/cgroup/cpu.max"); v2 >> word >> period && word != "max") {
    quota = std::atof(word.c_str());
  } else if (std::ifstream q("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), p("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
             !(q >> quota && p >> period)) {
    quota = 0;
  }
  return quota > 0 && period > 0 ? std::max(1, static_cast<int>(std::ceil(quota / period))) : 0;
}

}  // namespace

const char* isa_name(Isa isa) {
  for (const IsaRow& row : kBuilt) {
    if (row.isa == isa) return row.name;
  }
  return "not built";
}

std::vector<Isa> built_isas() {
  std::vector<Isa> isas;
  for (const IsaRow& row : kBuilt) isas.push_back(row.isa);
  return isas;
}

std::vector<Isa> available_isas() {
  std::vector<Isa> isas;
  for (const IsaRow& row : kBuilt) {
    if (row.runs()) isas.push_back(row.isa);
  }
  return isas;
}

Isa choose_isa() {
  const std::vector<Isa> isas = available_isas();
  const char* forced = std::getenv("FCNTAG_FORCE_ISA");
  if (forced == nullptr || *forced == '\0') return isas.back();
  std::string known;
  for (Isa isa : isas) {
    if (std::string(forced) == isa_name(isa)) return isa;
    known += std::string(known.empty() ? "" : ", ") + isa_name(isa);
  }
  fail("FCNTAG_FORCE_ISA='", forced, "' is not available here; available: ", known);
}

int available_threads() {
  int threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
#ifdef __linux__
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof mask, &mask) == 0) threads = std::max(1, CPU_COUNT(&mask));
#endif
  const int quota = cgroup_cpus();
  return quota > 0 ? std::min(threads, quota) : threads;
}

}  // namespace fcntag
