"""The promises of an installation: a light import, a core that needs no extra, embedded weights, one clear message."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import conftest
import pytest

import fcntag

EXTRAS = ("torch", "tensorflow", "librosa", "h5py", "pooch", "numba", "cupy", "av", "pyarrow", "matplotlib", "scipy")


def run_python(code: str, **env: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env={**os.environ, **env}
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_import_loads_neither_numpy_nor_any_extra():
    code = "import sys, json, fcntag; print(json.dumps(sorted(m for m in sys.modules if '.' not in m)))"
    loaded = set(json.loads(run_python(code)))
    assert not loaded & {"numpy", "soundfile", "soxr", "safetensors", *EXTRAS}


def test_tagging_loads_no_extra():
    code = (
        "import sys, json, numpy as np, fcntag\n"
        "with fcntag.Tagger() as tagger: tagger.tag(np.zeros(16000 * 4, np.float32), sample_rate=16000)\n"
        "print(json.dumps(sorted(m for m in sys.modules if '.' not in m)))"
    )
    assert not set(json.loads(run_python(code))) & set(EXTRAS)


def test_every_public_name_can_be_imported():
    for name in fcntag.__all__:
        assert getattr(fcntag, name) is not None


def test_package_stays_small():
    """15 MB is the promise for the core without its dependencies."""
    folder = Path(fcntag.__file__).parent
    weights = folder / "weights" if (folder / "weights").is_dir() else folder.parent / "weights"
    files = {*folder.rglob("*"), *weights.rglob("*")}
    assert sum(f.stat().st_size for f in files if f.is_file() and "__pycache__" not in f.parts) < 15e6


def test_licence_and_notice_travel_with_the_weights():
    folder = Path(fcntag.__file__).parent
    weights = folder / "weights" if (folder / "weights").is_dir() else folder.parent / "weights"
    notice = (weights / "NOTICE.md").read_text()
    assert "Music Technology Group, Universitat Pompeu Fabra" in notice
    assert "Permission to use, copy, modify" in notice


# ---- how people start the tests ----


def test_python_m_pytest_in_the_checkout_tests_the_package():
    """It puts the checkout first on ``sys.path``, whose ``fcntag`` has no compiled core unless it is built in place."""
    command = [sys.executable, "-m", "pytest", "tests/test_result.py"]
    variables = {**os.environ, "PYTEST_ADDOPTS": ""}
    run = subprocess.run(
        command, cwd=conftest.REPOSITORY, env=variables, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_tests_without_the_package_say_what_to_type(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as caught:
        conftest.leave_out_the_source()
    assert f"pip install '{conftest.REPOSITORY}[test]'" in str(caught.value)
    assert "\n" not in str(caught.value)
