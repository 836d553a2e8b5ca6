"""Lets `pytest benchmarks/ --benchmark-only` collect bench_*.py, and keeps BLAS to one thread."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before NumPy is imported: BLAS threads spin beside single-threaded front ends and would be timed with them.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """The suites are named bench_*.py, so that `pytest` alone never runs them."""
    if file_path.name.startswith("bench_") and file_path.suffix == ".py":
        return pytest.Module.from_parent(parent, path=file_path)
    return None
