#!/usr/bin/env bash
# Compiles the kernels and the CUDA runtime code with CUDA 12.4, the oldest release that CMakeLists.txt accepts, in a
# temporary folder: nothing is installed. Fails on any error, and where a kernel spills registers.
#   tests/cuda/compile_cuda12.sh [ARCH ...]        default: 80 90a; 12.4 knows 75 80 86 89 90a
#
# The compiler driver is in no package of the Python index before CUDA 13 (the cu12 ones hold ptxas and libnvvm without
# nvcc, cicc and cudafe++), but Debian 13 packages it in non-free: it comes from this machine's own Debian mirror. The
# headers of the same release, which Debian packs with a gigabyte of libraries, come from the Python index. With CUDA12
# set to the folder of a toolkit of one's own, nothing is fetched.
# Needs a Debian of 12 or later on x86-64 with apt-get, python3 with pip, and g++ up to 13.
set -euo pipefail
cd "$(dirname "$0")/../.."
archs=("$@")
[ $# -gt 0 ] || archs=(80 90a)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
give_up() { echo "compile_cuda12.sh: $*" >&2; exit 1; }

toolkit=${CUDA12:-$work/cuda}
if [ -z "${CUDA12:-}" ]; then
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m 1 '/debian/*$') ||
    give_up "this machine's apt has no Debian mirror"
  mkdir -p "$work"/apt/{lists,cache/archives}/partial "$work"/{deb,wheels} "$toolkit"/{bin,nvvm/bin,nvvm/libdevice}
  key=/usr/share/keyrings/debian-archive-keyring.gpg
  echo "deb [signed-by=$key] $mirror trixie non-free" > "$work/apt/sources.list"
  apt=(-qq -o "Dir::Etc::SourceList=$work/apt/sources.list" -o Dir::Etc::SourceParts=- -o Dir::Etc::Parts=-
    -o "Dir::State::Lists=$work/apt/lists" -o "Dir::Cache=$work/apt/cache" -o APT::Sandbox::User=root
    -o APT::Update::Post-Invoke-Success=)
  apt-get "${apt[@]}" update && (cd "$work/deb" && apt-get "${apt[@]}" download nvidia-cuda-toolkit) ||
    give_up "the Debian mirror of this machine does not give nvidia-cuda-toolkit of trixie"
  dpkg -x "$work"/deb/*.deb "$work/deb"
  python3 -m pip download -q --no-deps -d "$work/wheels" \
    nvidia-cuda-runtime-cu12==12.4.127 nvidia-cuda-nvcc-cu12==12.4.131
  for wheel in "$work"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$work/wheels"; done

  own=$work/deb/usr/lib/nvidia-cuda-toolkit
  cp -r "$own"/bin/{nvcc,crt} "$work"/deb/usr/bin/{cudafe++,fatbinary,ptxas,nvlink} "$toolkit/bin"
  cp "$own/bin/cicc" "$toolkit/nvvm/bin"
  cp "$own"/libdevice/* "$toolkit/nvvm/libdevice"
  mkdir "$toolkit/include"
  cp -r "$work"/wheels/nvidia/cuda_nvcc/include/. "$work"/wheels/nvidia/cuda_runtime/include/. "$toolkit/include"
  cat > "$toolkit/bin/nvcc.profile" << 'PROFILE'
TOP = $(_HERE_)/..
NVVMIR_LIBRARY_DIR = $(TOP)/nvvm/libdevice
PATH += $(TOP)/nvvm/bin:$(_HERE_):
INCLUDES += "-I$(TOP)/include" $(_SPACE_)
PROFILE
fi
nvcc=$toolkit/bin/nvcc
"$nvcc" --version | grep -o 'release.*'

gencode=()
for arch in "${archs[@]}"; do gencode+=("-gencode=arch=compute_$arch,code=sm_$arch"); done
count=0
for source in $(find csrc/cuda -name '*.cu' | sort); do
  echo "$source"
  python3 csrc/cuda/check_resources.py "$nvcc" -std=c++17 -O3 --fmad=true -Xptxas=-v -Icsrc \
    -Xcompiler=-Wall,-Wno-unknown-pragmas "${gencode[@]}" -c "$source" -o "$work/kernel.o"
  count=$((count + 1))
done
# What calls the CUDA runtime: its functions changed their arguments between 12 and 13.
for source in $(find csrc/cuda -name '*.cpp' | sort); do
  echo "$source"
  "${CXX:-g++}" -std=c++17 -fsyntax-only -Wall -Wextra -Icsrc -isystem "$toolkit/include" "$source"
  count=$((count + 1))
done
echo "$count files compile with CUDA 12 for sm_${archs[*]}"
