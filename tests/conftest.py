"""Fixtures that every test file may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.cli_runner import folder, piece
from support.emulated_cuda import cuda_core, emulated_core
from support.model_fixtures import backend, like, models, three_blocks

__all__ = [
    "away_from_the_source",
    "backend",
    "cuda_core",
    "emulated_core",
    "folder",
    "home",
    "like",
    "models",
    "piece",
    "rng",
    "shared",
    "three_blocks",
]

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The reference material (original checkpoints, goldens, music, bad inputs), not part of this repository."""
    folder = Path(os.environ.get("FCNTAG_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "golden").is_dir():
        reason = f"reference material not found at {folder} (set FCNTAG_SHARED)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason + "; in CI no test may skip")
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session", autouse=True)
def away_from_the_source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run where no ``fcntag`` folder lies: a child process would import that, and not the installed package."""
    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("cwd"))
    yield
    os.chdir(before)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A generator seeded by the test's name: other tests cannot change its numbers, and a failure repeats."""
    return np.random.default_rng(list(request.node.nodeid.encode()))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty model store of the test's own."""
    folder = tmp_path / "fcntag-home"
    monkeypatch.setenv("FCNTAG_HOME", str(folder))
    return folder
