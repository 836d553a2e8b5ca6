#!/usr/bin/env bash
# Compiles fcntag's two modules for a machine with a GPU, on any x86-64 Linux with nvcc: no GPU and no driver is needed.
#   benchmarks/gpu/prebuild.sh DIR [--archs 90a]      then, there: benchmarks/gpu_check.sh quick --prebuilt DIR
# PYTHON: an interpreter of the version that the GPU's machine has, with its headers (default: python3.12, on PATH or
# among pyenv's). pybind11, CMake and ninja come from a virtual environment that this makes beside DIR, from the package
# index, unless that interpreter has them.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
python="${PYTHON:-}"
if [ -z "$python" ]; then
  for candidate in python3.12 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12*/bin/python3.12; do
    if "$candidate" -c "" 2>/dev/null; then
      python="$candidate"
      break
    fi
  done
fi
if [ -z "$python" ] || ! "$python" -c "" 2>/dev/null; then
  echo "prebuild: ${python:-python3.12} does not run; name an interpreter with PYTHON" >&2
  exit 2
fi
if [ $# -eq 0 ] || [ "${1#-}" != "$1" ]; then
  exec "$python" "$here/prebuild.py" "${@:---help}"
fi
mkdir -p "$1"
if ! "$python" -c "import pybind11" 2>/dev/null || ! command -v cmake >/dev/null; then
  environment="$(cd "$1" && pwd)-environment"
  [ -x "$environment/bin/python" ] || "$python" -m venv "$environment"
  "$environment/bin/python" -m pip install --quiet --disable-pip-version-check "pybind11>=2.13" "cmake>=3.22" ninja
  PATH="$environment/bin:$PATH"
  python="$environment/bin/python"
fi
exec "$python" "$here/prebuild.py" "$@"
