// Finds the instruction sets that this CPU runs. FCNTAG_FORCE_ISA chooses one of them, and is refused where the CPU
// lacks it.
#pragma once

#include <string>
#include <vector>

namespace fcntag {

enum class Isa { kGeneric, kNeon, kAvx2, kAvx512 };

const char* isa_name(Isa isa);
std::vector<Isa> built_isas();      // sets that are compiled into this library, slowest first
std::vector<Isa> available_isas();  // the built sets that this CPU and operating system can run
// The fastest available set, or FCNTAG_FORCE_ISA. Throws std::invalid_argument where that is not available.
Isa choose_isa();

// Whether the CPU has an instruction that multiplies pairs of bfloat16 and adds the products to a float.
bool cpu_has_bfloat16();

// The number of threads worth starting: the CPUs of the affinity mask, but no more than the cgroup's CPU quota (rounded
// up).
int available_threads();

}  // namespace fcntag
