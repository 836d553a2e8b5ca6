"""Fixture ``cuda_core``: the CUDA module, compiled for the emulator, in the place of ``fcntag._cuda``.

The same sources that nvcc compiles: bindings, engine, planner and kernels. What is wrong in them is wrong here too, but
for what only hardware shows (speed, the memory model beyond barriers).
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from types import ModuleType

import pytest

from support import emulation


def _sources(folder: str, ending: str) -> tuple[str, ...]:
    return tuple(
        str(path.relative_to(emulation.REPOSITORY))
        for path in sorted((emulation.REPOSITORY / folder).rglob(f"*{ending}"))
    )


MODEL = _sources("csrc/model", ".cpp")
KERNELS = _sources("csrc/cuda", ".cu")
# The emulator has its own implementation of the runtime.
HOST = tuple(source for source in _sources("csrc/cuda", ".cpp") if source != "csrc/cuda/runtime.cpp")
BINDINGS = (*_sources("csrc/bindings/cuda", ".cpp"), "csrc/bindings/parse.cpp")
FOREIGN = "tests/cuda/emulated_streams.cpp"  # streams of other libraries, for test_cuda_callers.py
SOURCES = (*BINDINGS, *KERNELS, *HOST, *MODEL, FOREIGN)


def build() -> ModuleType:
    """Compile and load the module; it is not put anywhere."""
    import pybind11

    flags = (
        "-fvisibility=hidden",
        f"-I{pybind11.get_include()}",
        f"-I{sysconfig.get_path('include')}",
        "-DFCNTAG_CUDA_MODULE=_cuda_emulated",
        '-DFCNTAG_CUDA_ARCHITECTURES="emulated"',
    )
    library = emulation.shared_object(*SOURCES, flagged=BINDINGS, flags=flags)
    spec = importlib.util.spec_from_file_location("fcntag._cuda_emulated", library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def emulated_core() -> ModuleType:
    return build()


@contextlib.contextmanager
def installed(core: ModuleType) -> Iterator[ModuleType]:
    """``core`` as ``fcntag._cuda``, and no process that has started CUDA yet."""
    import fcntag
    from fcntag.engine import cuda_core

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "fcntag._cuda", core)
        patch.setattr(fcntag, "_cuda", core, raising=False)
        patch.setattr(cuda_core, "_started_in", None)
        yield core


@pytest.fixture
def cuda_core(emulated_core: ModuleType) -> Iterator[ModuleType]:
    """The emulated module as ``fcntag._cuda``, for one test."""
    with installed(emulated_core):
        yield emulated_core
