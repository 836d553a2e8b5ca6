// Which of the compiled instruction sets this CPU runs; FCNTAG_FORCE_ISA chooses one and is refused if it cannot run.
#pragma once

#include <string>
#include <vector>

namespace fcntag {

enum class Isa { kGeneric, kNeon, kAvx2, kAvx512 };

const char* isa_name(Isa isa);
std::vector<Isa> built_isas();      // compiled into this library, slowest first
std::vector<Isa> available_isas();  // ... that this CPU and operating system can run
Isa choose_isa();                   // the best, or FCNTAG_FORCE_ISA; throws std::invalid_argument

bool cpu_has_bfloat16();  // multiplies pairs of bfloat16 and adds them to a float

// Threads worth starting: the affinity mask, lowered to the cgroup CPU quota (rounded up).
int available_threads();

}  // namespace fcntag
