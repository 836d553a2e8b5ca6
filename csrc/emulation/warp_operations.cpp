// Operations of a warp: shuffles, matrix loads and tensor-core products, and the 16-bit types that they compute
// with.
#include <cmath>
#include <cstring>

#include "emulation/machine.h"

namespace fcntag {
namespace emulator {
namespace {

struct ShuffleLane {
  uint64_t in, out;
  unsigned from;
};

struct MatrixLane {
  uint32_t* r;
  const uint8_t* row;
};

struct MmaLane {
  float* c;
  const uint32_t* a;
  uint32_t b[2];
};

float as_float(uint32_t bits) {
  float f;
  std::memcpy(&f, &bits, sizeof(f));
  return f;
}

uint32_t as_bits(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, sizeof(bits));
  return bits;
}

// Every lane of the warp has to come here with the same site and operation.
void collective(int site, void* argument, Operation operation) {
  Launch& launch = *running_launch;
  Lane& me = *running_lane;
  Warp& warp = *me.warp;
  if (warp.live != kAllLanes) {
    fail("a warp collective at line %d, but only %d of 32 lanes are there", site, __builtin_popcount(warp.live));
  }
  if (warp.arrived == 0) {
    warp.site = site;
    warp.operation = operation;
  } else if (warp.site != site || warp.operation != operation) {
    fail("divergent warp: one lane is in the collective at line %d, another in that at line %d", warp.site, site);
  }
  warp.arguments[me.lane] = argument;
  warp.arrived |= 1u << me.lane;
  if (warp.arrived != kAllLanes) {
    wait_at(launch, me, Waiting::kCollective, site);
    return;
  }
  if (operation != nullptr) operation(warp.arguments);
  warp.arrived = 0;
  warp.ready = kAllLanes & ~(1u << me.lane);
  ++warp.generation;
  ++launch.statistics.collectives;
  maybe_yield(launch, me);
}

// The usual sizes without a call.
void copy_small(void* to, const void* from, std::size_t bytes) {
  if (bytes == 4) {
    std::memcpy(to, from, 4);
  } else if (bytes == 8) {
    std::memcpy(to, from, 8);
  } else {
    std::memcpy(to, from, bytes);
  }
}

void run_shuffle(void* const* arguments) {
  for (unsigned lane = 0; lane < kWarpLanes; ++lane) {
    ShuffleLane* to = static_cast<ShuffleLane*>(arguments[lane]);
    to->out = static_cast<const ShuffleLane*>(arguments[to->from])->in;
  }
}

// Rows that lie in the same 16 of the banks' 128 bytes are read one after the other, unless they are the same row.
bool has_conflict(void* const* arguments, unsigned first_lane) {
  const uint8_t* rows[8] = {};
  for (unsigned lane = first_lane; lane < first_lane + 8; ++lane) {
    const uint8_t* row = static_cast<const MatrixLane*>(arguments[lane])->row;
    const uint8_t*& other = rows[reinterpret_cast<uintptr_t>(row) / 16 % 8];
    if (other != nullptr && other != row) return true;
    other = row;
  }
  return false;
}

void run_load_matrix(void* const* arguments) {
  Statistics& statistics = running_launch->statistics;
  for (unsigned m = 0; m < 4; ++m) {
    ++statistics.matrix_phases;
    statistics.matrix_conflicts += has_conflict(arguments, m * 8);
    for (unsigned lane = 0; lane < kWarpLanes; ++lane) {
      const uint8_t* row = static_cast<const MatrixLane*>(arguments[m * 8 + lane / 4])->row;
      std::memcpy(&static_cast<MatrixLane*>(arguments[lane])->r[m], row + lane % 4 * 4, 4);
    }
  }
}

// ---- c [16 x 8] += a [16 x k] b [k x 8]; lane l is in row g = l / 4 of its fragments, column t = l % 4 ----

// The float next to `sum` on the side of zero: the nearest, or one less in its bits.
float cut_off(double sum) {
  const float nearest = static_cast<float>(sum);
  return as_float(as_bits(nearest) - (std::fabs(nearest) > std::fabs(sum)));
}

// Doubles, in which a product is exact, and rows as vectors: half of the time of the tests for a GPU is spent here.
template <int kDepth>
struct Matrices {
  typedef double Row __attribute__((vector_size(8 * sizeof(double))));
  double a[16][kDepth];
  Row b[kDepth];
  float c[16][8];

  void multiply() {
    for (int m = 0; m < 16; ++m) {
      Row sums;
      for (int n = 0; n < 8; ++n) sums[n] = c[m][n];
      for (int k = 0; k < kDepth; ++k) sums += a[m][k] * b[k];
      for (int n = 0; n < 8; ++n) c[m][n] = cut_off(sums[n]);
    }
  }
  void take_sums(const MmaLane& lane, unsigned g, unsigned t) {
    for (unsigned i = 0; i < 4; ++i) c[g + i / 2 * 8][t * 2 + i % 2] = lane.c[i];
  }
  void give_sums(const MmaLane& lane, unsigned g, unsigned t) const {
    for (unsigned i = 0; i < 4; ++i) lane.c[i] = c[g + i / 2 * 8][t * 2 + i % 2];
  }
};

float decode_bfloat16(uint16_t x) { return as_float(static_cast<uint32_t>(x) << 16); }

float decode_float16(uint16_t x) {
  const uint32_t sign = static_cast<uint32_t>(x & 0x8000) << 16;
  const uint32_t exponent = x >> 10 & 31, mantissa = x & 0x3ff;
  if (exponent == 0) return as_float(as_bits(static_cast<float>(mantissa) * 0x1p-24f) | sign);
  if (exponent == 31) return as_float(sign | 0x7f800000u | mantissa << 13);
  return as_float(sign | (exponent + 112) << 23 | mantissa << 13);
}

// Two elements to a word, the lower k in the lower half. a: rows g, g + 8, then both again 8 columns on.
template <float (*decode)(uint16_t)>
void run_mma_16(void* const* arguments) {
  ++running_launch->statistics.mma;
  Matrices<16> matrices;
  for (unsigned l = 0; l < kWarpLanes; ++l) {
    const MmaLane& lane = *static_cast<const MmaLane*>(arguments[l]);
    const unsigned g = l / 4, t = l % 4;
    for (unsigned i = 0; i < 4; ++i) {
      double* pair = &matrices.a[g + i % 2 * 8][t * 2 + i / 2 * 8];
      pair[0] = decode(static_cast<uint16_t>(lane.a[i]));
      pair[1] = decode(static_cast<uint16_t>(lane.a[i] >> 16));
    }
    for (unsigned i = 0; i < 2; ++i) {
      matrices.b[t * 2 + i * 8][g] = decode(static_cast<uint16_t>(lane.b[i]));
      matrices.b[t * 2 + i * 8 + 1][g] = decode(static_cast<uint16_t>(lane.b[i] >> 16));
    }
    matrices.take_sums(lane, g, t);
  }
  matrices.multiply();
  for (unsigned l = 0; l < kWarpLanes; ++l) {
    matrices.give_sums(*static_cast<const MmaLane*>(arguments[l]), l / 4, l % 4);
  }
}

// One element to a word. a: rows g, g + 8, then both again 4 columns on.
void run_mma_tf32(void* const* arguments) {
  constexpr uint32_t kLookedAt = 0xffffe000u;
  ++running_launch->statistics.mma;
  Matrices<8> matrices;
  for (unsigned l = 0; l < kWarpLanes; ++l) {
    const MmaLane& lane = *static_cast<const MmaLane*>(arguments[l]);
    const unsigned g = l / 4, t = l % 4;
    for (unsigned i = 0; i < 4; ++i) matrices.a[g + i % 2 * 8][t + i / 2 * 4] = as_float(lane.a[i] & kLookedAt);
    for (unsigned i = 0; i < 2; ++i) matrices.b[t + i * 4][g] = as_float(lane.b[i] & kLookedAt);
    matrices.take_sums(lane, g, t);
  }
  matrices.multiply();
  for (unsigned l = 0; l < kWarpLanes; ++l) {
    matrices.give_sums(*static_cast<const MmaLane*>(arguments[l]), l / 4, l % 4);
  }
}

}  // namespace

void sync_warp(int site) {
  Warp& warp = *running_lane->warp;
  char* order = &warp.order[warp.generation % 2];
  give_order(order);
  collective(site, nullptr, nullptr);
  take_order(order);
}

void shuffle(void* out, const void* in, std::size_t bytes, int from, int site) {
  ShuffleLane lane = {0, 0, static_cast<unsigned>(from) % kWarpLanes};
  if (bytes > sizeof(lane.in)) fail("a shuffle of %zu bytes; allowed: 1 to %zu", bytes, sizeof(lane.in));
  copy_small(&lane.in, in, bytes);
  collective(site, &lane, run_shuffle);
  copy_small(out, &lane.out, bytes);
}

void load_matrix(uint32_t (&r)[4], uint32_t row, int site) {
  MatrixLane lane = {r, shared_pointer(row, 16, 16)};
  note_read(lane.row, 16);
  collective(site, &lane, run_load_matrix);
}

void mma(Operand kind, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, int site) {
  MmaLane lane = {c, a, {b0, b1}};
  switch (kind) {
    case Operand::kBfloat16:
      return collective(site, &lane, run_mma_16<decode_bfloat16>);
    case Operand::kFloat16:
      return collective(site, &lane, run_mma_16<decode_float16>);
    case Operand::kTf32:
      return collective(site, &lane, run_mma_tf32);
  }
}

uint16_t to_bfloat16(float x) {
  const uint32_t bits = as_bits(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;  // the NaN that the instruction gives
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

uint16_t to_float16(float x) {
  const uint32_t bits = as_bits(x), magnitude = bits & 0x7fffffffu;
  const uint32_t sign = bits >> 16 & 0x8000;
  if (magnitude > 0x7f800000u) return 0x7fff;
  if (magnitude >= 0x47800000u) return static_cast<uint16_t>(sign | 0x7c00);  // 65536 and above
  if (magnitude >= 0x38800000u) {  // normal; a carry out of the mantissa is right, up to infinity
    return static_cast<uint16_t>(sign | (magnitude - 0x38000000u + 0xfff + (magnitude >> 13 & 1)) >> 13);
  }
  const uint32_t shift = 126 - (magnitude >> 23);  // to units of 2^-24
  if (shift > 24) return static_cast<uint16_t>(sign);
  const uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
  const uint32_t half = 1u << (shift - 1), odd = mantissa >> shift & 1;
  return static_cast<uint16_t>(sign | (mantissa + half - 1 + odd) >> shift);
}

float from_float16(uint16_t x) { return decode_float16(x); }

}  // namespace emulator
}  // namespace fcntag
