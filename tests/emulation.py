"""Compiles CUDA sources with the emulator (``csrc/emulation``) into programs and shared objects that need no GPU.

Three modes: ``plain``; ``asan``, AddressSanitizer and UndefinedBehaviorSanitizer; ``tsan``, ThreadSanitizer. Objects
are kept until the process ends: a source that several programs share is compiled once per mode.
"""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
MODES = ("plain", "asan", "tsan")

RUNTIME = "csrc/emulation/runtime.cpp"
# What plays the GPU. ThreadSanitizer must not see it: it says itself what kernels do (csrc/emulation/sanitizers.h).
MACHINE = tuple(f"csrc/emulation/{name}.cpp" for name in ("emulator", "fibers", "block_operations", "warp_operations"))

_COMPILER = os.environ.get("CXX", "g++")
_FLAGS = ("-std=c++17", "-fPIC", "-pthread", "-g1", "-ffp-contract=off", "-Wall", "-Wextra")
# Headers of csrc/cuda for a host compiler: they have to be found before those that nvcc takes.
_DOUBLES = "-Icsrc/emulation/include"
_SANITIZERS = {
    "plain": (),
    "asan": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"),
    "tsan": ("-fsanitize=thread",),
}
_DEFINITIONS = {"plain": (), "asan": ("-DEMULATOR_ASAN",), "tsan": ("-DEMULATOR_TSAN",)}


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Removed when the process ends. First called before there are threads: each of them would make one of its own."""
    return tempfile.TemporaryDirectory(prefix="fcntag-emulation-")


def _compiler(*arguments: str) -> None:
    done = subprocess.run([_COMPILER, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{_COMPILER} {' '.join(arguments)}\n{done.stderr}"


@functools.cache
def _object(source: str, mode: str, flags: tuple[str, ...], includes: tuple[str, ...]) -> str:
    machine = source in MACHINE
    target = Path(_folder().name) / f"{mode}-{Path(source).stem}-{abs(hash((source, flags, includes))):x}.o"
    # The machine is optimised: most of the time of a kernel goes into switching between its threads.
    options = ["-O2" if machine else "-O1", *_FLAGS, _DOUBLES, *(f"-I{folder}" for folder in includes), "-Icsrc"]
    options += [*_DEFINITIONS[mode], *flags]
    if not (machine and mode == "tsan"):
        options += _SANITIZERS[mode]
    _compiler(*options, "-x", "c++", "-c", source, "-o", str(target))
    return str(target)


@functools.cache
def _link(
    sources: tuple[str, ...], mode: str, flags: tuple[str, ...], shared: bool, includes: tuple[str, ...] = ()
) -> Path:
    assert mode in MODES, f"mode={mode!r}; allowed: {MODES}"
    target = Path(tempfile.mkdtemp(prefix=f"{mode}-", dir=_folder().name)) / Path(sources[0]).stem
    if shared:
        target = target.with_suffix(".so")
    everything = dict.fromkeys((*sources, RUNTIME, *MACHINE))
    with ThreadPoolExecutor(2) as pool:
        # Folders to include first are for sources from outside of the repository: the others' objects serve everyone.
        objects = list(
            pool.map(
                lambda source: _object(source, mode, flags, includes if Path(source).is_absolute() else ()), everything
            )
        )
    _compiler(*objects, "-pthread", *_SANITIZERS[mode], *(["-shared"] if shared else []), "-o", str(target))
    return target


def program(*sources: str, mode: str = "plain", flags: Sequence[str] = (), includes: Sequence[str] = ()) -> Path:
    """The program of ``sources`` (relative to the repository; one of them has ``main``), the emulator and its runtime.

    ``flags`` are more options for the compiler; sources given by an absolute path look for headers in ``includes``
    first.
    A compiler error fails the calling test with the compiler's output.
    """
    return _link(sources, mode, tuple(flags), False, tuple(includes))


def shared_object(*sources: str, mode: str = "plain", flags: Sequence[str] = ()) -> Path:
    """As :func:`program`, but a library to load. In a mode other than plain the loading process needs the sanitizer."""
    return _link(sources, mode, tuple(flags), True)


def run(executable: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; ThreadSanitizer stops it at the first race. ``stdout`` holds both of its outputs."""
    command = [str(executable), *arguments]
    variables = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1", **environment}

    def start(command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=variables,
            timeout=300,
            check=False,
        )

    done = start(command)
    if "ThreadSanitizer: unexpected memory mapping" in done.stdout:  # older runtimes, where addresses are very random
        done = start(["setarch", platform.machine(), "-R", *command])
    return done
