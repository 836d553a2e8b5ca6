"""Builds fcntag._C, and fcntag._cuda where nvcc is found, by running CMake; every file and flag is in CMakeLists.txt.

Environment: FCNTAG_CUDA=auto|0|1 and FCNTAG_CUDA_ARCHS (e.g. 80,90a; default: all) are passed on to CMake; CMAKE_ARGS
adds arguments of one's own.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = Path(self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        configure = [
            "cmake",
            "-S",
            str(ROOT),
            "-B",
            str(build),
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DFCNTAG_CUDA={os.environ.get('FCNTAG_CUDA', 'auto')}",
            f"-DFCNTAG_CUDA_ARCHS={os.environ.get('FCNTAG_CUDA_ARCHS', '').replace(',', ';')}",
            f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}",
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(os.cpu_count() or 1))
        subprocess.run(configure, check=True)
        # Every target: _C, and _cuda where CMake made it one.
        subprocess.run(["cmake", "--build", str(build), "--parallel", jobs], check=True)


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
    cmdclass={"build_ext": CMakeBuild},
)
