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

bool cpu_runs(Isa isa) {
  switch (isa) {
    case Isa::kGeneric:
      return true;
#if defined(__x86_64__)
    case Isa::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case Isa::kAvx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
#endif
#if defined(__aarch64__)
    case Isa::kNeon:
      return true;
#endif
    default:
      return false;
  }
}

}  // namespace

bool cpu_has_bfloat16() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

namespace {

// CPUs that the cgroup's quota allows (version 2, then 1); 0 if there is no quota.
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
  switch (isa) {
    case Isa::kNeon:
      return "neon";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    default:
      return "generic";
  }
}

std::vector<Isa> built_isas() {
  std::vector<Isa> isas = {Isa::kGeneric};
#if defined(__aarch64__)
  isas.push_back(Isa::kNeon);
#endif
#if defined(__x86_64__)
  isas.push_back(Isa::kAvx2);
  isas.push_back(Isa::kAvx512);
#endif
  return isas;
}

std::vector<Isa> available_isas() {
  std::vector<Isa> isas;
  for (Isa isa : built_isas()) {
    if (cpu_runs(isa)) isas.push_back(isa);
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
