"""Compiles CUDA sources with the emulator (``csrc/emulation``) into programs and shared objects that need no GPU.

Three modes: ``plain``; ``asan``, AddressSanitizer and UndefinedBehaviorSanitizer; ``tsan``, ThreadSanitizer. Objects
and programs are kept for the run of the tests: a source that several programs or processes need is compiled once.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from support.run_folder import once, run_folder

REPOSITORY = Path(__file__).resolve().parents[2]
MODES = ("plain", "asan", "tsan")

RUNTIME = ("csrc/emulation/runtime.cpp", "csrc/cuda/carveout.cpp")
# These files play the GPU. ThreadSanitizer must not see them: they tell it themselves what kernels do
# (csrc/emulation/sanitizers.h).
MACHINE = tuple(f"csrc/emulation/{name}.cpp" for name in ("emulator", "fibers", "block_operations", "warp_operations"))

_COMPILER = os.environ.get("CXX", "g++")
_FLAGS = ("-std=c++17", "-fPIC", "-pthread", "-g1", "-ffp-contract=off", "-Wall", "-Wextra")
# Headers of csrc/cuda for a host compiler: they have to be found before those that nvcc takes.
_DOUBLES = "-Icsrc/emulation/include"
# With this machine's own instructions fma() is no call of a function, and the machine's matrix products are vectors.
_FAST = ("-O3", "-march=native")
# Not vectorised: GCC 12 makes fmaddsub of a * b - c * d even where contraction is off, and results would depend on it.
# Higher levels take long to compile, with a sanitizer above all, and gain little.
_KERNELS = {
    "plain": ("-O2", "-march=native", "-fno-tree-vectorize"),
    "asan": ("-O1", "-march=native"),
    "tsan": ("-O1", "-march=native"),
}
_SANITIZERS = {
    "plain": (),
    "asan": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"),
    "tsan": ("-fsanitize=thread",),
}
_DEFINITIONS = {"plain": (), "asan": ("-DEMULATOR_ASAN",), "tsan": ("-DEMULATOR_TSAN",)}


def compiler(*arguments: str) -> None:
    """Run the compiler in the repository; its errors fail the calling test."""
    done = subprocess.run([_COMPILER, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{_COMPILER} {' '.join(arguments)}\n{done.stderr}"


def _name(*what: object) -> str:
    return hashlib.sha256(repr(what).encode()).hexdigest()[:16]


@functools.cache
def _object(source: str, mode: str, flags: tuple[str, ...], includes: tuple[str, ...]) -> Path:
    machine = source in MACHINE
    options = [*(_FAST if machine else _KERNELS[mode]), *_FLAGS, _DOUBLES]
    options += [*(f"-I{folder}" for folder in includes), "-Icsrc"]
    options += [*_DEFINITIONS[mode], *flags]
    if not (machine and mode == "tsan"):
        options += _SANITIZERS[mode]
    target = run_folder("emulation") / f"{mode}-{Path(source).stem}-{_name(source, options)}.o"
    return once(target, lambda part: compiler(*options, "-x", "c++", "-c", source, "-o", str(part)))


@functools.cache
def _link(
    sources: tuple[str, ...],
    mode: str,
    shared: bool,
    includes: tuple[str, ...] = (),
    flagged: tuple[str, ...] = (),
    flags: tuple[str, ...] = (),
) -> Path:
    assert mode in MODES, f"mode={mode!r}; allowed: {MODES}"
    everything = dict.fromkeys((*sources, *RUNTIME, *MACHINE))
    with ThreadPoolExecutor(2) as pool:
        # Folders to include first are for sources from outside of the repository: the others' objects serve everyone.
        objects = list(
            pool.map(
                lambda source: _object(
                    source,
                    mode,
                    flags if source in flagged else (),
                    includes if Path(source).is_absolute() else (),
                ),
                everything,
            )
        )
    folder = run_folder("emulation") / f"{mode}-{_name(objects, shared)}"
    folder.mkdir(exist_ok=True)
    options = ["-pthread", *_SANITIZERS[mode], *(["-shared"] if shared else [])]
    target = folder / (Path(sources[0]).stem + (".so" if shared else ""))
    return once(target, lambda part: compiler(*map(str, objects), *options, "-o", str(part)))


def program(*sources: str, mode: str = "plain", includes: Sequence[str] = ()) -> Path:
    """The program of ``sources`` (relative to the repository; one of them has ``main``), the emulator and its runtime.

    Sources given by an absolute path look for headers in ``includes`` first. A compiler error fails the calling test
    with the compiler's output.
    """
    return _link(sources, mode, False, tuple(includes))


def shared_object(*sources: str, flagged: Sequence[str] = (), flags: Sequence[str] = ()) -> Path:
    """As :func:`program`, but a library to load; ``flags`` are more options for the compiler of ``flagged`` sources."""
    return _link(sources, "plain", True, flagged=tuple(flagged), flags=tuple(flags))


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
