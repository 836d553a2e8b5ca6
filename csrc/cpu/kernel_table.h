// The kernels of every instruction set: one row a set, and the only list of them.
#pragma once

#include "cpu/ceilings.h"
#include "cpu/conv_block.h"
#include "cpu/dense.h"
#include "cpu/isa.h"
#include "cpu/melspec.h"
#include "cpu/winograd.h"

namespace fcntag {

struct KernelRow {
  Isa isa;
  const ConvFirstKernels* conv_first;
  const ConvBlockKernels* conv_block;
  const WinogradKernels* winograd;
  // Null where it is not built. The product of two bfloat16 pairs is an instruction set of its own, which a CPU may
  // lack.
  const WinogradKernels* winograd_bfloat16;
  const DenseKernels* dense;
  const MelSpecKernels* melspec;
  const CeilingKernels* ceilings;
};

// `isa` is one of built_isas().
const KernelRow& kernels(Isa isa);

// Null where this CPU, or what is built for `isa`, cannot multiply in that precision.
const WinogradKernels* winograd_kernels(Isa isa, Precision precision);

}  // namespace fcntag
