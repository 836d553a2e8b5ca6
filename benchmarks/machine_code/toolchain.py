"""What the scripts here take from a source tree: cubins by nvcc, their machine code, and the planner's launches."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from machine_code.machine import Launch, Region
from machine_code.sass import Kernel, dump, find_program, parse
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
# What of the memory of a launch the kernel before has written, or another CTA at the same time.
COLD = ("x", "partial")
WRITTEN = ("arrivals",)


class Missing(Exception):
    """A program of the toolkit, or a source tree, that is not there; says which."""


@dataclass(frozen=True)
class Resources:
    """What a CTA of a kernel takes: registers a thread, bytes of stack and local memory, bytes of constant bank 0."""

    registers: int
    stack: int
    local: int
    constants: int


@dataclass
class Built:
    """The kernels of one cubin, by mangled name."""

    kernels: dict[str, Kernel]
    resources: dict[str, Resources]


@dataclass
class Planned:
    """A launch with what the planner says about it (plan_launches.cpp)."""

    launch: Launch
    rows: int
    channels: int
    passes: int
    channel_blocks: int
    taps: int
    chunks: int
    halo_pixels: int
    windows: int
    planned_cycles: float

    @property
    def steps(self) -> int:
        """Taps of channel blocks that a CTA sums, over all passes."""
        return self.passes * self.channel_blocks * self.taps

    @property
    def ctas(self) -> int:
        return self.launch.grid[0] * self.launch.grid[1]


class Toolchain:
    """Compiles the sources of ``source`` into ``work``, once a file and architecture.

    Raises
    ------
    Missing
        nvcc or cuobjdump is neither on PATH nor, cuobjdump, in ``cuda_bin`` or in this Python's packages.
    """

    def __init__(self, source: Path, work: Path | None = None, cuda_bin: Path | None = None) -> None:
        self.source = source.resolve()
        if not (self.source / "csrc/cuda").is_dir():
            raise Missing(f"--source {source}: there is no csrc/cuda in it")
        if work is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="fcntag-machine-code-")
            work = Path(self._temporary.name)
        self.work = work
        self.work.mkdir(parents=True, exist_ok=True)
        cuobjdump = find_program("cuobjdump", cuda_bin)
        if cuobjdump is None:
            raise Missing("cuobjdump was not found: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")
        self.cuobjdump = cuobjdump

    def cubin(self, file: str, architecture: str) -> Path:
        """The cubin of ``file``, a path below csrc/cuda, for ``sm_<architecture>``, with CMakeLists.txt's flags."""
        nvcc = find_program("nvcc")
        if nvcc is None:
            raise Missing("nvcc was not found on PATH")
        target = self.work / f"{file.replace('/', '-').removesuffix('.cu')}-{architecture}.cubin"
        command = [str(nvcc), "-cubin", f"-arch=sm_{architecture}", "-std=c++17", "-O3", "--fmad=true"]
        command += ["-I", str(self.source / "csrc"), str(self.source / "csrc/cuda" / file), "-o"]
        return _once(target, lambda part: _run([*command, str(part)]))

    def built(self, file: str, architecture: str) -> Built:
        """The kernels of a source file as :meth:`cubin` compiles it."""
        return self.read(self.cubin(file, architecture))

    def read(self, binary: Path, *options: str) -> Built:
        """The kernels of a cubin, or of one architecture of a library (``options`` of cuobjdump choose)."""
        kernels = {k.name: k for k in parse(dump(binary, self.cuobjdump, "-sass", *options))}
        return Built(kernels, read_resources(dump(binary, self.cuobjdump, "-res-usage", *options)))

    def built_many(self, wanted: Iterable[tuple[str, str]], jobs: int = 2) -> dict[tuple[str, str], Built]:
        pairs = list(wanted)
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(lambda pair: self.cubin(*pair), pairs))
        return {pair: self.built(*pair) for pair in pairs}

    def planner(self) -> Path:
        """The program plan_launches, made of the planner of ``source``."""
        return _once(self.work / "plan_launches", self._link_planner)

    def _link_planner(self, target: Path) -> None:
        csrc = self.source / "csrc"
        # The tree's own, where it has one: the parameters of an older tree are others.
        main = self.source / "benchmarks/machine_code/plan_launches.cpp"
        sources = [main if main.exists() else HERE / main.name, *sorted((csrc / "cuda/conv").glob("conv_*.c*"))]
        sources += [csrc / "model/network_spec.cpp", csrc / "cuda/half.cpp"]
        compiler = os.environ.get("CXX", "g++")
        flags = ["-std=c++17", "-O1", "-fPIC", "-I", str(csrc / "emulation/include"), "-I", str(csrc), "-x", "c++"]

        def compile_(file: Path) -> Path:
            object_ = self.work / f"{file.name}.o"
            _run([compiler, *flags, "-c", str(file), "-o", str(object_)])
            return object_

        with ThreadPoolExecutor(2) as pool:
            objects = list(pool.map(compile_, sources))
        # The kernels are there for their names: they never run, and nothing that they call has to be.
        link = ["-rdynamic", "-Wl,--unresolved-symbols=ignore-all", "-ldl"]
        _run([compiler, *map(str, objects), *link, "-o", str(target)])

    def plan(self, layers: Sequence[str]) -> list[Planned]:
        """What the planner makes of ``layers``, lines as plan_launches.cpp takes them."""
        done = subprocess.run(
            [str(self.planner())], input="\n".join(layers) + "\n", capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"plan_launches: exit code {done.returncode}: {done.stderr.strip()}")
        return [_planned(entry) for entry in json.loads(done.stdout)]

    def module(self, library: Path, architectures: Sequence[str], code: Sequence[str]) -> dict[str, Built]:
        """The kernels of a built module, for ``architectures``; machine code for those of ``code`` alone.

        Resources come from the headers of the cubins at once; to disassemble an architecture takes seconds.
        """

        def one(architecture: str) -> Built:
            kernels = {}
            if architecture in code:
                text = dump(library, self.cuobjdump, "-sass", "-arch", f"sm_{architecture}")
                kernels = {k.name: k for k in parse(text)}
            usage = dump(library, self.cuobjdump, "-res-usage", "-arch", f"sm_{architecture}")
            return Built(kernels, read_resources(usage))

        with ThreadPoolExecutor(2) as pool:
            return dict(zip(architectures, pool.map(one, architectures), strict=True))

    def compiled(self, files: Sequence[str], architecture: str) -> Built:
        """The kernels of several source files for one architecture."""
        parts = self.built_many([(file, architecture) for file in files]).values()
        return Built(
            {name: kernel for b in parts for name, kernel in b.kernels.items()},
            {name: usage for b in parts for name, usage in b.resources.items()},
        )

    def sources(self) -> list[str]:
        """Every file with kernels, below csrc/cuda."""
        folder = self.source / "csrc/cuda"
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.cu"))


def architectures_of(library: Path, cuobjdump: Path) -> list[str]:
    """The architectures that a module has machine code for, such as ``90a``."""
    return list(dict.fromkeys(re.findall(r"\.sm_(\w+)\.cubin", dump(library, cuobjdump, "-lelf"))))


def _planned(entry: dict) -> Planned:
    regions = [
        Region(
            r["name"],
            r["address"],
            r["bytes"],
            _content(r),
            r["name"] in COLD,
        )
        for r in entry["regions"]
    ]
    launch = Launch(
        entry["name"],
        entry["kernel"],
        tuple(entry["grid"]),
        entry["threads"],
        entry["shared_bytes"],
        bytes.fromhex(entry["params"]),
        regions,
    )
    names = ("rows", "channels", "passes", "channel_blocks", "taps", "chunks")
    names += ("halo_pixels", "windows", "planned_cycles")
    return Planned(launch, **{name: entry[name] for name in names})


def _content(region: dict) -> NDArray[np.uint8] | None:
    if not region["content"]:
        return None
    constant = np.frombuffer(bytes.fromhex(region["content"]), np.uint8)
    return constant.copy() if region["name"] in WRITTEN else constant


def read_resources(text: str) -> dict[str, Resources]:
    """The report of ``cuobjdump -res-usage``, by kernel."""
    found = {}
    for name, usage in re.findall(r"Function (\S+?):\s*\n\s*(REG:.*)", text):
        numbers = {key: int(value) for key, value in re.findall(r"(\w+(?:\[0\])?):(\d+)", usage)}
        found[name] = Resources(numbers["REG"], numbers["STACK"], numbers["LOCAL"], numbers["CONSTANT[0]"])
    return found


def _once(target: Path, make: Callable[[Path], object]) -> Path:
    """``target``, made by ``make(path)`` where it is not there; processes that want the same wait for one another."""
    with open(f"{target}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            part = target.with_name(f"{target.stem}-part{target.suffix}")
            make(part)
            part.rename(target)
    return target


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr.strip()}")
