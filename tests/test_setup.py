"""``setup.py``: objects of an earlier build are used again only where they are what a new build would make."""

from __future__ import annotations

import json
import os
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import conftest
import pytest
import setuptools

OLD = 1_600_000_000  # long before any build


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A checkout that was there long before the build."""
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    folder = tmp_path / "checkout"
    (folder / "csrc" / "cuda").mkdir(parents=True)
    (folder / "build").mkdir()
    (folder / "fcntag").mkdir()
    shutil.copy(conftest.REPOSITORY / "setup.py", folder)
    for name in ("CMakeLists.txt", "csrc/a.cpp", "csrc/a.h", "csrc/cuda/b.cu"):
        (folder / name).write_text(f"// {name}")
        os.utime(folder / name, (OLD, OLD))
    return folder


def inputs(checkout: Path, *configuration: str):
    return SimpleNamespace(**runpy.run_path(str(checkout / "setup.py")))._Inputs(list(configuration))


@pytest.fixture
def stamp(checkout) -> Path:
    path = checkout / "build" / "stamp.json"
    inputs(checkout, "-DFCNTAG_CUDA=auto").write(path)
    return path


def allowed(checkout: Path, *configuration: str) -> bool:
    return inputs(checkout, *(configuration or ("-DFCNTAG_CUDA=auto",))).allow(checkout / "build" / "stamp.json")


def test_the_same_sources_are_compiled_once(checkout, stamp, monkeypatch):
    monkeypatch.setenv("CMAKE_BUILD_PARALLEL_LEVEL", "7")
    os.utime(checkout / "csrc" / "a.cpp", (OLD - 1, OLD - 1))  # its bytes are what counts
    assert allowed(checkout)


def test_what_is_newer_is_left_to_make(checkout, stamp):
    (checkout / "csrc" / "a.h").write_text("// another")
    (checkout / "csrc" / "new.cpp").write_text("// a new source is in no object")
    assert allowed(checkout)


@pytest.mark.parametrize("name", ["CMakeLists.txt", "csrc/a.cpp", "csrc/a.h", "csrc/cuda/b.cu"])
def test_other_sources_that_are_older_than_the_objects(checkout, stamp, name):
    (checkout / name).write_text("// of another checkout, copied with its time")
    os.utime(checkout / name, (OLD, OLD))
    assert not allowed(checkout)


def test_other_headers(checkout, stamp):
    (checkout / "csrc" / "cuda" / "a.h").write_text("// hides ../a.h from b.cu")
    assert not allowed(checkout)


def test_another_configuration(checkout, stamp, monkeypatch, tmp_path):
    assert not allowed(checkout, "-DFCNTAG_CUDA=0")
    with monkeypatch.context() as patch:
        patch.setenv("CXXFLAGS", "-O0")
        assert not allowed(checkout)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvcc").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "nvcc").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)  # installed, or another one
    assert not allowed(checkout)


def test_another_python_or_place(checkout, stamp, tmp_path):
    values = json.loads(stamp.read_text())
    values["surroundings"]["python"][0] = "3.9.1"
    stamp.write_text(json.dumps(values))
    assert not allowed(checkout)
    inputs(checkout, "-DFCNTAG_CUDA=auto").write(stamp)
    shutil.copytree(checkout, tmp_path / "copy")  # CMake refuses a folder that has been moved
    assert allowed(checkout)
    assert not allowed(tmp_path / "copy")


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"started": 1, "sources": 2}'])
def test_objects_that_nothing_describes(checkout, stamp, text):
    stamp.unlink()
    if text is not None:
        stamp.write_text(text)
    assert not allowed(checkout)


def test_a_source_that_is_edited_while_it_is_compiled(checkout, stamp):
    stamp.unlink()
    before = inputs(checkout, "-DFCNTAG_CUDA=auto")
    (checkout / "csrc" / "a.cpp").write_text("// edited")
    before.write(stamp)
    assert not stamp.exists()


def test_copies_keep_their_times_where_nothing_changed(checkout, tmp_path):
    mirror = runpy.run_path(str(checkout / "setup.py"))["_mirror"]
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "deep").mkdir(parents=True)
    for name in ("same.h", "deep/changed.h", "gone.h"):
        (source / name).write_text(name)
    mirror(source, target)
    for path in (target / "same.h", target / "deep" / "changed.h"):
        os.utime(path, (OLD, OLD))
    (source / "deep" / "changed.h").write_text("another")
    (source / "gone.h").unlink()
    mirror(source, target)
    assert (target / "same.h").stat().st_mtime == OLD
    assert (target / "deep" / "changed.h").stat().st_mtime > OLD
    assert (target / "deep" / "changed.h").read_text() == "another"
    assert not (target / "gone.h").exists()
