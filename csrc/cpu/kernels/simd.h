// One vector type of the width that the including file is compiled for: 16, 8 or 4 floats. Another holds 4 or 2
// doubles.
//
// Include it only in csrc/cpu/kernels/*.cpp, which are compiled once per instruction set. Everything here has internal
// linkage: otherwise the linker could keep the AVX-512 copy of a function for every CPU.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace fcntag {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
// The number of vector registers. Kernels keep as many sums in them as fit next to the operands.
#if defined(__AVX512F__) || defined(__ARM_NEON)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif
// AVX-512 takes four doubles, too. With eight, the 256 complex points of as many frames would fill a level-1 cache of
// 32 KB.
constexpr int kLanes64 = kLanes >= 8 ? 4 : 2;

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t VecInt __attribute__((vector_size(kLanes * 4)));
typedef double Vec64 __attribute__((vector_size(kLanes64 * 8)));
typedef int64_t VecInt64 __attribute__((vector_size(kLanes64 * 8)));

// The name of a file's table of kernels, which csrc/cpu/kernel_table.cpp declares too: FCNTAG_TABLE(x_) is x_avx2 where
// FCNTAG_ISA is avx2.
#define FCNTAG_JOIN_(name, isa) name##isa
#define FCNTAG_JOIN(name, isa) FCNTAG_JOIN_(name, isa)
#define FCNTAG_TABLE(name) FCNTAG_JOIN(name, FCNTAG_ISA)

#define FCNTAG_INLINE inline __attribute__((always_inline))

FCNTAG_INLINE Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
FCNTAG_INLINE void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }
FCNTAG_INLINE Vec splat(float x) {
#if defined(__AVX512F__)
  return (Vec)_mm512_set1_ps(x);
#elif defined(__AVX2__)
  return (Vec)_mm256_set1_ps(x);
#else
  return Vec{x, x, x, x};
#endif
}
FCNTAG_INLINE Vec64 splat64(double x) {
  Vec64 v;
  for (int i = 0; i < kLanes64; ++i) v[i] = x;
  return v;
}

// a * b + c, with one rounding where the instruction set has it. Kernels call it by name and never leave contraction to
// the compiler, so that all their variants round alike and results do not depend on tile shapes.
FCNTAG_INLINE Vec fma(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
  return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
  return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__ARM_NEON)
  return (Vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

// As fma(), for doubles.
FCNTAG_INLINE Vec64 fma64(Vec64 a, Vec64 b, Vec64 c) {
#if defined(__AVX512F__) || defined(__AVX2__)
  return (Vec64)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif defined(__ARM_NEON)
  return (Vec64)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#else
  return a * b + c;
#endif
}

FCNTAG_INLINE Vec max(Vec a, Vec b) {
#if defined(__AVX512F__)
  return (Vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (Vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
  return a > b ? a : b;
#endif
}

FCNTAG_INLINE Vec relu(Vec v) { return max(v, Vec{}); }

// exp(v) - 1 for v <= 0, to about one unit in the last place. With v = n ln 2 + r and |r| <= ln(2) / 2, it is
// expm1(v) = 2^n expm1(r) + (2^n - 1). Near 0, where n = 0, that loses nothing.
FCNTAG_INLINE Vec expm1_negative(Vec v) {
  v = max(v, splat(-87.0f));         // below it 2^n leaves the normal range; the result is -1 long before
  const float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const Vec rounded = fma(v, splat(1.44269504088896341f), splat(kMagic));
  const Vec n = rounded - kMagic;
  Vec r = fma(n, splat(-0.693359375f), v);  // ln 2 in two parts (the first is exact in 9 bits)
  r = fma(n, splat(2.12194440e-4f), r);
  Vec p = splat(1.0f / 5040.0f);
  p = fma(p, r, splat(1.0f / 720.0f));
  p = fma(p, r, splat(1.0f / 120.0f));
  p = fma(p, r, splat(1.0f / 24.0f));
  p = fma(p, r, splat(1.0f / 6.0f));
  p = fma(p, r, splat(0.5f));
  const Vec small = fma(p * r, r, r);  // expm1(r)
  const VecInt exponent = (__builtin_convertvector(n, VecInt) + 127) << 23;
  const Vec two_n = (Vec)exponent;
  return fma(two_n, small, two_n - 1.0f);
}

FCNTAG_INLINE Vec elu(Vec v) { return v > 0.0f ? v : expm1_negative(v > 0.0f ? Vec{} : v); }

// The natural logarithm of positive normal doubles, to 1e-12. With x = m 2^e and sqrt(1/2) <= m < sqrt(2), it takes
// log(m) = 2 atanh((m - 1) / (m + 1)) as a series, whose terms fall by (0.172)^2. The first term left out is 5e-13.
FCNTAG_INLINE Vec64 log64(Vec64 x) {
  const VecInt64 bits = (VecInt64)x;
  const VecInt64 shifted = bits - 0x3fe6a09e667f3bcdLL;  // exponent field of x / sqrt(1/2)
  const VecInt64 e = shifted >> 52;                      // arithmetic shift: e may be negative
  const Vec64 m = (Vec64)(bits - (e << 52));
  // int64 to double through the mantissa of 1.5 * 2^52: AVX2 has no conversion instruction.
  const Vec64 exponent = (Vec64)(e + 0x4338000000000000LL) - 6755399441055744.0;
  const Vec64 s = (m - 1.0) / (m + 1.0);
  const Vec64 s2 = s * s;
  Vec64 p = splat64(1.0 / 13.0);
  for (int k = 11; k >= 3; k -= 2) p = p * s2 + 1.0 / k;
  return exponent * 0.693147180559945309417 + (s + s) + (s + s) * s2 * p;
}

}  // namespace
}  // namespace fcntag
