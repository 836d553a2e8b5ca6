"""Builds fcntag._C, and fcntag._cuda where nvcc is found, by running CMake; every file and flag is in CMakeLists.txt.

Environment: FCNTAG_CUDA=auto|0|1 and FCNTAG_CUDA_ARCHS (e.g. 80,90a; default: all) are passed on to CMake; CMAKE_ARGS
adds arguments of one's own.

The objects stay in build/temp.<platform>-<Python>, so that a second ``pip install`` of the same sources compiles
nothing. CMake compares times only, and keeps the compilers that it found first: :class:`_Inputs` holds what it does not
compare, and where that has changed the objects are thrown away.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
MODULES = ("_C", "_cuda")

# Variables that compilers, nvcc and CMake read by themselves.
VARIABLES = re.compile(
    "(?!CMAKE_BUILD_PARALLEL_LEVEL|CUDA_VISIBLE_DEVICES)"
    "(CC|CXX|(C|CXX|CPP|LD|ARCH)FLAGS|(C|C_INCLUDE_|CPLUS_INCLUDE_|LIBRARY_)PATH|SDKROOT|(CMAKE|CUDA|MACOSX|NVCC).*)"
)


def _identity(program: str) -> list[object]:
    """The file behind a command, and whether it is still the same: an upgrade changes its size or its time."""
    found = shutil.which(program)
    if found is None:
        return []
    path = Path(found).resolve()
    return [str(path), path.stat().st_size, path.stat().st_mtime_ns]


class _Inputs:
    """What the objects in a build folder were made of, as far as CMake would not notice a change of it."""

    def __init__(self, configuration: list[str]) -> None:
        variables = {name: value for name, value in sorted(os.environ.items()) if VARIABLES.fullmatch(name)}
        commands = {variables.get("CXX", "c++"), variables.get("CUDACXX", "nvcc"), "c++", "g++", "clang++", "nvcc"}
        self.surroundings = {
            "root": str(ROOT),  # CMake refuses a folder that has been moved
            "python": [sys.version, sysconfig.get_config_var("SOABI"), sysconfig.get_path("include")],
            "configuration": configuration,
            "variables": variables,
            "compilers": {command: _identity(command) for command in sorted(commands)},
        }
        self.started = time.time()
        self.sources = self._hashes()

    @staticmethod
    def _hashes() -> dict[str, str]:
        files = [ROOT / "CMakeLists.txt", *(path for path in (ROOT / "csrc").rglob("*") if path.is_file())]
        return {
            path.relative_to(ROOT).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(files)
            if "__pycache__" not in path.parts
        }

    def allow(self, stamp: Path) -> bool:
        """Whether the objects that ``stamp`` describes may be used again; make compiles what is newer than they are."""
        try:
            before = json.loads(stamp.read_text())
            sources, started = dict(before["sources"]), float(before["started"])
            if before["surroundings"] != self.surroundings:
                return False
        except (OSError, ValueError, KeyError, TypeError):
            return False

        def headers(names: dict[str, str]) -> set[str]:
            return {name for name in names if name.endswith(".h")}

        # A new header may hide another one of its name, which no object's list of dependencies would show.
        if headers(sources) != headers(self.sources):
            return False
        # A file copied from elsewhere may be another one and yet be older than the objects.
        changed = [name for name, sha256 in self.sources.items() if sources.get(name, sha256) != sha256]
        return all((ROOT / name).stat().st_mtime > started for name in changed)

    def write(self, stamp: Path) -> None:
        """Describe the objects, unless a source was edited while they were made: nobody knows which of them saw it."""
        if self._hashes() == self.sources:
            values = {"started": self.started, "sources": self.sources, "surroundings": self.surroundings}
            stamp.write_text(json.dumps(values, indent=1))


def _mirror(source: Path, target: Path) -> None:
    """Make ``target`` equal to ``source``; files that are equal already keep their times."""
    wanted = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
    for path in list(target.rglob("*")):
        if path.is_file() and path.relative_to(target) not in wanted:
            path.unlink()
    for name in wanted:
        data = (source / name).read_bytes()
        if not (target / name).is_file() or (target / name).read_bytes() != data:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(data)


def _pybind11(folder: Path) -> Path:
    """CMake's folder of pybind11. pip installs pybind11 at another path each time, and all that includes it would be
    compiled anew: a copy in ``folder`` stays where it is."""
    import pybind11

    package = Path(pybind11.__file__).resolve().parent
    include, cmake = Path(pybind11.get_include()).resolve(), Path(pybind11.get_cmake_dir()).resolve()
    if package not in include.parents or package not in cmake.parents:
        return cmake  # a system's package, at a path of its own
    for part in (include, cmake):
        _mirror(part, folder / part.relative_to(package))
    return folder / cmake.relative_to(package)


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        folder = Path(self.build_temp).resolve()
        options = [
            f"-DFCNTAG_CUDA={os.environ.get('FCNTAG_CUDA', 'auto')}",
            f"-DFCNTAG_CUDA_ARCHS={os.environ.get('FCNTAG_CUDA_ARCHS', '').replace(',', ';')}",
            f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}",
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]
        inputs, stamp = _Inputs(options), folder / "fcntag-inputs.json"
        if not inputs.allow(stamp):
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        stamp.unlink(missing_ok=True)  # a build that is killed leaves objects that nothing describes
        for module in MODULES:  # a module that this configuration leaves out must not stay from the one before
            (target / f"{module}{sysconfig.get_config_var('EXT_SUFFIX')}").unlink(missing_ok=True)
        configure = [
            "cmake",
            "-S",
            str(ROOT),
            "-B",
            str(folder),
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={_pybind11(folder / 'pybind11')}",
            *options,
        ]
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(os.cpu_count() or 1))
        try:
            subprocess.run(configure, check=True)
            # Every target: _C, and _cuda where CMake made it one.
            subprocess.run(["cmake", "--build", str(folder), "--parallel", jobs], check=True)
        finally:
            inputs.write(stamp)


class FreshBuild(build):
    def run(self) -> None:
        """Files that an earlier build collected, and that have gone since, must not get into the wheel."""
        if Path(self.build_base) in Path(self.build_lib).parents:  # not where somebody else chose a folder
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


setup(
    # The weights live at the top of the repository and are installed as fcntag/weights.
    packages=[
        *(
            str(path.parent.relative_to(ROOT)).replace(os.sep, ".")
            for path in sorted((ROOT / "fcntag").rglob("__init__.py"))
        ),
        "fcntag.weights",
    ],
    package_dir={"fcntag": "fcntag", "fcntag.weights": "weights"},
    package_data={
        "fcntag": ["py.typed", "*.pyi", "**/*.json"],
        "fcntag.weights": ["*.safetensors", "*.md"],
    },
    ext_modules=[Extension("fcntag._C", sources=[])],
    cmdclass={"build": FreshBuild, "build_ext": CMakeBuild},
)
