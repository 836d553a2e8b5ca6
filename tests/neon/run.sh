#!/usr/bin/env bash
# Cross-compiles the core for 64-bit ARM and runs tests/neon/check.cpp under qemu-user. On Debian:
#   apt-get install g++-aarch64-linux-gnu qemu-user
set -euo pipefail
cd "$(dirname "$0")/../.."
compiler=${CXX_AARCH64:-aarch64-linux-gnu-g++}
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
core=$(ls csrc/model/*.cpp csrc/cpu/*.cpp)
kernels=$(ls csrc/cpu/kernels/*.cpp)
flags="-std=c++17 -O2 -ffp-contract=off -Wall -Wextra -Wno-psabi -Werror -Icsrc"
for source in $core tests/neon/check.cpp; do
  "$compiler" $flags -c "$source" -o "$build/$(basename "$source" .cpp).o"
done
for isa in generic neon; do
  # The plain code must not use NEON intrinsics here, or the two would be the same code.
  plain=""
  [ "$isa" = generic ] && plain="-U__ARM_NEON"
  for source in $kernels; do
    "$compiler" $flags $plain -DFCNTAG_ISA=$isa -c "$source" -o "$build/$(basename "$source" .cpp)_$isa.o"
  done
done
"$compiler" -static -pthread "$build"/*.o -o "$build/check"
if [ "$(uname -m)" = aarch64 ]; then "$build/check"; else qemu-aarch64 "$build/check"; fi
