#!/usr/bin/env bash
# One command for a machine with an NVIDIA GPU: checks every kernel and model against the oracle, runs compute-sanitizer,
# times fcntag beside its peers, and writes one JSON to benchmarks/results.
#   benchmarks/gpu_check.sh quick [--prebuilt DIR]            all that matters, in 590 seconds
#   benchmarks/gpu_check.sh [check] [bench] [--minutes M]     default: both, at leisure; --help for the rest
# The modules are built in place for that GPU, or taken from DIR, where benchmarks/gpu/prebuild.sh has left them.
# Needs python3 with NumPy and safetensors, numba for everything that is not stored, and to build: pybind11, CMake, nvcc
# and a C++ compiler. Installs nothing, downloads nothing, and never changes a setting of the GPU. PYTHON: another
# interpreter. FCNTAG_COMMIT: what is run, where no .git tells. FCNTAG_RESULTS_DIR: a folder for a copy of the JSON.
# Exit codes: 0 all passed, 1 something failed, 4 no GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" benchmarks/gpu/check.py "$@"
