"""csrc/cuda/runtime.cpp, the one file that the emulator replaces, on a stub of CUDA that counts what it does.

The stub (tests/cuda/stub) follows CUDA's manual in three points: which calls make a context, and where; which calls end
a capture of another thread; that none may be made in a forked child.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support import emulation


@pytest.fixture(scope="module")
def check_runtime(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("stub") / "check_runtime"
    sources = [
        "csrc/cuda/runtime.cpp",
        "csrc/cuda/carveout.cpp",
        "tests/cuda/stub/stub_runtime.cpp",
        "tests/cuda/stub/check_runtime.cpp",
    ]
    options = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-pthread", "-Itests/cuda/stub", "-Icsrc"]
    emulation.compiler(*options, *sources, "-o", str(target))
    return target


@pytest.mark.parametrize("case", ["contexts", "callers", "fork", "captures"])
def test_the_runtime_on_a_stub_of_cuda(check_runtime, case):
    done = subprocess.run([str(check_runtime), case], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
