#!/usr/bin/env bash
# GCC 12.2.0 fuses multiply and add in vectorised complex products although -ffp-contract=off is given.
#
# Seen: with -O3 -mavx2 -mfma -ffp-contract=off, the product of interleaved complex numbers (re = a.re * b.re - a.im * b.im,
# im = a.re * b.im + a.im * b.re) becomes vfmaddsub: one rounding where the source has two. With -fno-tree-vectorize, or in
# a plain dot product, the option holds. A program that is built once with and once without AVX2, or whose loops are
# vectorised by another release, therefore gives other last bits, in FFTs above all, in spite of the option that is meant
# to prevent it. What helps: -fno-tree-slp-vectorize or -fno-tree-vectorize for such files, or fma() spelled out.
#
# Needs x86-64 Debian or its like with apt-get and dpkg; installs nothing on the system: the pinned compiler is unpacked
# into a temporary folder and only writes assembly. Exit code 0: as described; 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get download -qq cpp-12=12.2.0-14+deb12u1 libisl23=0.25-1.1 libmpc3=1.3.1-1 libmpfr6=4.2.0-1 libgmp10=2:6.2.1+dfsg1-1.1
for package in *.deb; do dpkg -x "$package" .; done
export LD_LIBRARY_PATH="$folder/usr/lib/x86_64-linux-gnu"
cc1=$(find . -name cc1 -type f)

cat > product.c <<'C'
void product(double *restrict y, const double *restrict a, const double *restrict b, int n) {
  for (int i = 0; i < n; ++i) {
    y[2 * i] = a[2 * i] * b[2 * i] - a[2 * i + 1] * b[2 * i + 1];
    y[2 * i + 1] = a[2 * i] * b[2 * i + 1] + a[2 * i + 1] * b[2 * i];
  }
}
C
cat > dot.c <<'C'
double dot(const double *restrict a, const double *restrict b, int n) {
  double sum = 0;
  for (int i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}
C

fused() {  # FILE OPTIONS...: how many fused instructions GCC writes
  local file=$1
  shift
  "$cc1" -quiet -mavx2 -mfma "$@" "$file" -o out.s
  grep -cE 'vfn?m(add|sub)' out.s || true
}

product=$(fused product.c -O3 -ffp-contract=off)
scalar=$(fused product.c -O3 -ffp-contract=off -fno-tree-vectorize)
dot=$(fused dot.c -O3 -ffp-contract=off)
dot_fast=$(fused dot.c -O3 -ffp-contract=fast)
echo "fused instructions with -ffp-contract=off: complex product $product, not vectorised $scalar, dot product $dot"
echo "dot product with -ffp-contract=fast: $dot_fast"
# Output of 2026-11-28:
#   fused instructions with -ffp-contract=off: complex product 2, not vectorised 0, dot product 0
#   dot product with -ffp-contract=fast: 1
[ "$product" -gt 0 ] && [ "$scalar" -eq 0 ] && [ "$dot" -eq 0 ] && [ "$dot_fast" -gt 0 ]
