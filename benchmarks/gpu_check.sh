#!/usr/bin/env bash
# One command for a machine with an NVIDIA GPU: builds fcntag in place for that GPU, checks every kernel and model
# against the float64 oracle, runs compute-sanitizer, times fcntag beside its peers, and writes one JSON to
# benchmarks/results.
#   benchmarks/gpu_check.sh [check] [bench] [--minutes M] ...      default: both; --help for the rest
# Needs python3 with NumPy, numba, safetensors, pybind11 and CMake, nvcc and a C++ compiler; installs nothing, downloads
# nothing, and never changes a setting of the GPU. PYTHON: another interpreter. FCNTAG_RESULTS_DIR: a folder for a copy
# of the JSON. Exit codes: 0 all passed, 1 something failed, 4 no GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" benchmarks/gpu/check.py "$@"
