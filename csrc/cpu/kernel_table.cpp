#include "cpu/kernel_table.h"

#include "check.h"

namespace fcntag {

// csrc/cpu/kernels/ defines these once per instruction set.
#define FCNTAG_DECLARE(set)                               \
  extern const ConvFirstKernels conv_first_kernels_##set; \
  extern const ConvBlockKernels conv_block_kernels_##set; \
  extern const WinogradKernels winograd_kernels_##set;    \
  extern const DenseKernels dense_kernels_##set;          \
  extern const MelSpecKernels melspec_kernels_##set;      \
  extern const CeilingKernels ceiling_kernels_##set
#define FCNTAG_ROW(isa, set, bfloat16)                                                      \
  {isa,      &conv_first_kernels_##set, &conv_block_kernels_##set, &winograd_kernels_##set, \
   bfloat16, &dense_kernels_##set,      &melspec_kernels_##set,    &ceiling_kernels_##set}

FCNTAG_DECLARE(generic);
#if defined(__x86_64__)
FCNTAG_DECLARE(avx2);
FCNTAG_DECLARE(avx512);
extern const WinogradKernels winograd_kernels_avx512_bf16;
#endif
#if defined(__aarch64__)
FCNTAG_DECLARE(neon);
#endif

namespace {

constexpr KernelRow kRows[] = {
    FCNTAG_ROW(Isa::kGeneric, generic, nullptr),
#if defined(__x86_64__)
    FCNTAG_ROW(Isa::kAvx2, avx2, nullptr),
    FCNTAG_ROW(Isa::kAvx512, avx512, &winograd_kernels_avx512_bf16),
#endif
#if defined(__aarch64__)
    FCNTAG_ROW(Isa::kNeon, neon, nullptr),
#endif
};

}  // namespace

const KernelRow& kernels(Isa isa) {
  for (const KernelRow& row : kRows) {
    if (row.isa == isa) return row;
  }
  fail("no kernels are built for the instruction set '", isa_name(isa), "'");
}

const WinogradKernels* winograd_kernels(Isa isa, Precision precision) {
  const KernelRow& row = kernels(isa);
  if (precision == Precision::kFloat32) return row.winograd;
  return precision == Precision::kBfloat16 && cpu_has_bfloat16() ? row.winograd_bfloat16 : nullptr;
}

}  // namespace fcntag
