"""Fixtures that every test file may use; and the package that is tested: installed, or built in the checkout."""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def leave_out_the_source() -> None:
    """Take the checkout off ``sys.path``, where ``python -m pytest`` puts it, unless its ``fcntag`` is built in place.

    Without a package to test, the run ends with the command that installs it.
    """
    if not (REPOSITORY / "fcntag" / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}").exists():
        sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != REPOSITORY]
    if importlib.util.find_spec("fcntag") is None:
        sys.exit(f"fcntag is not installed; type: {sys.executable} -m pip install '{REPOSITORY}[test]'")


leave_out_the_source()
pytest_plugins = ["support.cli_runner", "support.emulated_cuda", "support.model_fixtures"]


def pytest_configure(config: pytest.Config) -> None:
    from support import run_folder

    run_folder.open_run(config.add_cleanup)


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
