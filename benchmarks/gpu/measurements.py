"""Measurements of benchmarks/gpu/correctness.py: a row for each, the differences they state, and the list they make."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Save = Callable[[dict[str, Any]], None]


@dataclasses.dataclass(frozen=True)
class Row:
    """One measurement: ``value`` is a difference, and passes if it is at most ``allowed``."""

    case: str
    precision: str
    what: str
    value: float
    allowed: float
    seconds: float
    note: str = ""

    @property
    def passed(self) -> bool:
        """False for NaN, too."""
        return bool(self.value <= self.allowed)

    def to_dict(self) -> dict[str, Any]:
        """The row in JSON types; a NaN or infinity, which JSON lacks, is a string."""
        value = self.value if np.isfinite(self.value) else str(self.value)
        return {**dataclasses.asdict(self), "value": value, "passed": self.passed}


def max_abs(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference; infinite for another shape or a value that is not finite."""
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return float("inf")
    return float(np.abs(actual - expected).max()) if actual.size else 0.0


def relative_l2(actual: np.ndarray, expected: np.ndarray) -> float:
    """||actual - expected|| / ||expected||; infinite for another shape or a value that is not finite."""
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return float("inf")
    norm = float(np.linalg.norm(expected))
    error = float(np.linalg.norm(actual - expected))
    return error / norm if norm else (0.0 if error == 0 else float("inf"))


def unequal(a: np.ndarray, b: np.ndarray) -> float:
    """The number of values that differ in any bit. A NaN equals a NaN of the same bits."""
    if a.shape != b.shape:
        return float("inf")
    return float(np.count_nonzero(a.view(np.uint32) != b.view(np.uint32)))


class Measurements:
    """The rows of a run, case by case. An exception of one case is a row that failed, and the next case goes on.

    Attributes
    ----------
    precisions : those that are measured
    say, save : get the progress, and the result so far
    end : on time.monotonic()'s clock; a case that would begin later is left out
    plans : precision and tiling of every kernel that ran
    """

    def __init__(
        self,
        precisions: tuple[str, ...],
        say: Callable[[str], None],
        save: Save,
        end: float,
    ) -> None:
        self.precisions, self.say, self.save, self.end = precisions, say, save, end
        self.rows: list[Row] = []
        self.left_out: list[str] = []
        self.plans: set[tuple[Any, ...]] = set()
        self._started = time.monotonic()

    def add(self, case: str, precision: str, what: str, value: float, allowed: float, note: str = "") -> None:
        """A measurement, whose seconds are those since the one before it; a failure is told at once."""
        now = time.monotonic()
        row = Row(case, precision, what, float(value), float(allowed), round(now - self._started, 3), note)
        self._started = now
        self.rows.append(row)
        if not row.passed:
            self.say(f"FAILED {case}, {precision}, {what}: {value:.3g}, allowed {allowed:.3g} {note}")

    @contextlib.contextmanager
    def case(self, name: str, precision: str) -> Iterator[bool]:
        """Whether there is time for a case. An exception inside the block is recorded as a failure."""
        if time.monotonic() > self.end:
            self.left_out.append(f"{name}, {precision}")
            yield False
            return
        self._started = time.monotonic()
        try:
            yield True
        except Exception as error:
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            self.add(name, precision, "no error", float("inf"), 0.0, text)

    def result(self) -> dict[str, Any]:
        """Everything so far, in JSON types."""
        names = ("precision", "rows", "channels", "threads", "split")
        return {
            "rows": [row.to_dict() for row in self.rows],
            "failed": sum(not row.passed for row in self.rows),
            "left_out": self.left_out,
            "kernels": sorted((dict(zip(names, plan, strict=True)) for plan in self.plans), key=str),
        }

    def begin(self, what: str) -> None:
        """Say which cases come, and save all rows so far, which are left if the GPU hangs."""
        self.save(self.result())
        self.say(what)
