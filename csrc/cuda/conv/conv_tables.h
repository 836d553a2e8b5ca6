// The tables that a tile's threads would else compute, each for itself, with divisions: where the rows of its GEMM lie
// in the halo, where the halo's pixels lie in the map, and where its windows lie in the output.
#pragma once

#include <cstdint>
#include <vector>

#include "cuda/conv/conv_plan.h"

namespace fcntag {
namespace cuda {

// Rows of a matrix load that lie in the same banks are read one after the other. `loads`: how many turns a load of 8
// rows takes on average; 1 is the least. It depends on the tile and on the width of the halo alone.
double bank_turns(const ConvParams& p);

// A plan's tables for one device allocation: rows, then halo, then windows. `p` has everything but pointers.
std::vector<uint8_t> conv_tables(const ConvParams& p, const ConvKernel& kernel);

}  // namespace cuda
}  // namespace fcntag
