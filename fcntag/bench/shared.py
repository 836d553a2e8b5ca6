"""The steps that the CPU's bench and the GPU's have in common: settings, models, peers, warnings, starts."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..catalogue.names import load_any
from ..errors import FcntagError
from ..model.file import write_model
from . import machine
from .report import Report, Row
from .timing import ProcessRun, run_process

if TYPE_CHECKING:
    import numpy as np

    from ..engine import Engine
    from ..model.file import Model

# The folder that holds the package: new processes must run the code that is timed here, installed or not.
_PACKAGE_FOLDER = Path(__file__).resolve().parent.parent.parent


class SettingsError(ValueError):
    """A setting, or a variable of the environment, that the engine refuses."""


@contextlib.contextmanager
def settings_checked() -> Iterator[None]:
    """Raise a ValueError of the block as SettingsError; fcntag's own errors pass unchanged."""
    try:
        yield
    except FcntagError:
        raise
    except ValueError as error:
        raise SettingsError(str(error)) from None


class Bench:
    """One run of the bench. A device's bench derives from it, makes ``report``, and fills it.

    Attributes
    ----------
    say : is told the progress, one line at a time
    loaded : name of a model to the model, and whether its weights are random
    report : all results; it exists once the device's engine has shown that it works
    peers : names of the peers that are installed, in the order in which they are timed
    """

    report: Report
    peers: list[str]

    def __init__(self, models: Iterable[str], say: Callable[[str], None]) -> None:
        self.say = say
        self.loaded = {name: load_any(name) for name in dict.fromkeys(models)}

    def find_peers(self, names: Iterable[str], version: Callable[[str], str]) -> list[str]:
        """Those of ``names`` that are installed; the report gets the version of each, or the reason for its absence."""
        installed = []
        for name in names:
            try:
                self.report.peers[name] = version(name)
                installed.append(name)
            except ImportError as error:
                self.report.peers[name] = str(error)
        return installed

    def warn(self, text: str) -> None:
        """Have the report warn its readers."""
        self.report.warnings.append(text)

    def add(self, row: Row) -> None:
        """Add a row to the report."""
        self.report.rows.append(row)


# ---- starts ----


@dataclass(frozen=True)
class ColdStarts:
    """New processes, each from its start to its end."""

    runs: list[ProcessRun]
    others_cores: float | None  # cores that other processes kept busy meanwhile

    @property
    def samples_s(self) -> tuple[float, ...]:
        """Seconds of every process."""
        return tuple(run.wall_s for run in self.runs)

    @property
    def peak_rss_bytes(self) -> int:
        """The largest memory that one of them held."""
        return max(run.peak_rss_bytes for run in self.runs)


def cold_starts(model: Model, arguments: Callable[[Path], list[str]], count: int) -> ColdStarts:
    """Start Python ``count`` times with ``arguments(model file)``, after an untimed start.

    The untimed process fills the file cache and writes the bytecode. Each process finds the package that runs here.
    """
    with tempfile.TemporaryDirectory(prefix="fcntag-bench-") as folder:
        path = Path(folder) / "model.safetensors"
        write_model(path, model.document, model.tensors)
        search = os.pathsep.join([str(_PACKAGE_FOLDER), *filter(None, sys.path)])
        environment = {**os.environ, "PYTHONPATH": search}
        command = [sys.executable, *arguments(path)]
        run_process(command, environment)
        others = machine.OthersCpu()
        runs = [run_process(command, environment) for _ in range(count)]
        return ColdStarts(runs, others.cores())


def engine_starts(
    make: Callable[[], Engine], waves: np.ndarray, count: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Make an engine ``count`` times: seconds until each is there, and seconds of its first call, on ``waves``."""
    load, first = [], []
    for _ in range(count):
        start = time.perf_counter()
        with make() as engine:
            loaded = time.perf_counter()
            engine.scores(waves)
            load.append(loaded - start)
            first.append(time.perf_counter() - loaded)
        gc.collect()
    return tuple(load), tuple(first)
