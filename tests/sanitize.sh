#!/usr/bin/env bash
# Builds the core with AddressSanitizer and UndefinedBehaviorSanitizer (or, with "thread", ThreadSanitizer) and runs the
# engine's tests on it. Needs the test extra installed, cmake and pybind11.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
python=$(command -v python)
options=(-DFCNTAG_SANITIZE=ON)
libraries="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so)"
if [ "${1:-}" = thread ]; then
  options=("-DCMAKE_CXX_FLAGS=-fsanitize=thread -g")
  libraries=$(g++ -print-file-name=libtsan.so)
fi
cp -r fcntag weights tests pyproject.toml "$build"
rm -f "$build"/fcntag/_C*.so
cmake -S . -B "$build/cmake" -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$build/fcntag" -DPython_EXECUTABLE="$python" \
  "-Dpybind11_DIR=$("$python" -m pybind11 --cmakedir)" "${options[@]}" > "$build/cmake.log"
cmake --build "$build/cmake" --target _C --parallel > "$build/make.log"
cd "$build"
# Python itself leaks by design. numba's threads are not instrumented, so the thread run takes what needs no oracle.
selection=()
[ "${1:-}" = thread ] && selection=(-k "threads or concurrent or flat or buffers or resized")
LD_PRELOAD=$libraries ASAN_OPTIONS=detect_leaks=0 PYTHONPATH="$build" "$python" -m pytest tests/test_engine.py \
  tests/test_engine_use.py tests/test_bindings.py tests/test_frame_lengths.py "${selection[@]}"
