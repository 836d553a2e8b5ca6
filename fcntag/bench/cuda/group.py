"""Contenders of the GPU bench: checked before they are timed, then timed in turn."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...engine import create_engine
from ..variants import Variant
from . import peers
from .peers import SPIN_S, STAGES, Contender, n_inputs
from .work import DEVICE_TIME, network_stages

if TYPE_CHECKING:
    from ...model.file import Model

Key = tuple[str, str]  # engine, variant

# Scores may differ from float32's by so much. An engine or peer that differs more computes another network, and is not
# timed.
MAX_DIFFERENCE = {"float32": 1e-4, "tf32": 5e-3, "float16": 1e-2, "bfloat16": 5e-2}
# The same for a peer that is a front end alone: relative L2 of its log-mel of noise. Noise leaves no band near the
# logarithm's floor, where float32 says little.
MAX_MEL_DIFFERENCE = 1e-3
# So many random clips are compared; a batch repeats them.
CHECKED_CLIPS = 4
# Contenders take turns in so many rounds, each of which begins with another one: A B C, B C A, ...
ROUNDS = 4
# A row gets at least so many samples, however long they take.
MIN_REPEATS = 12


@dataclass(frozen=True)
class Reference:
    """fcntag's float32 results, which all others are compared with.

    Attributes
    ----------
    waves : random clips [CHECKED_CLIPS, n_samples]
    scores : [CHECKED_CLIPS, n_tags]
    log_mel : the network's inputs [CHECKED_CLIPS, H, W]
    difference : of the first clip's scores from those of ``checked_against``
    checked_against : in words, the computation that the first clip was checked against
    """

    waves: np.ndarray
    scores: np.ndarray
    log_mel: np.ndarray
    difference: float
    checked_against: str


def random_clips(model: Model) -> np.ndarray:
    """The clips [CHECKED_CLIPS, n_samples] on which contenders are compared, the same each time."""
    rng = np.random.default_rng(0)
    return rng.random((CHECKED_CLIPS, model.document.segments.n_samples), np.float32) - np.float32(0.5)


def make_reference(model: Model, make_engine: Callable[[], Any], known: np.ndarray | None = None) -> Reference:
    """Random clips, and the results of ``make_engine()``, a float32 engine of ``model``, for them.

    The first clip's scores are compared with ``known``, those of the float64 oracle [1, n_tags] where somebody keeps
    them, or else with the oracle's or the CPU engine's, computed now.
    """
    waves = random_clips(model)
    with make_engine() as engine:
        scores, log_mel = engine.scores(waves), engine.log_mel(waves)
    if known is not None:
        against = "the float64 oracle's stored scores"
        return Reference(waves, scores, log_mel, float(np.abs(scores[:1] - known).max()), against)
    try:
        from ... import oracle

        expected, against = oracle.scores(model, waves[:1]), "the float64 oracle"
    except ImportError:
        with create_engine(model, device="cpu") as exact:
            expected, against = exact.scores(waves[:1]), "fcntag's CPU engine (the oracle needs numba)"
    return Reference(waves, scores, log_mel, float(np.abs(scores[:1] - expected).max()), against)


@dataclass(frozen=True)
class Checked:
    """A contender that computes the network, the variant that it was given, and its scores' largest difference.

    The difference of a front end is that of its log-mel: relative L2.
    """

    contender: Contender
    variant: Variant
    difference: float


class Ours:
    """fcntag's engine as a contender."""

    stages: tuple[str, ...] = STAGES

    def __init__(self, engine: Any, batch: int) -> None:
        self._engine, self._batch = engine, batch
        self._inputs = n_inputs(batch, engine.document.segments.n_samples)

    def output(self, waves: np.ndarray) -> np.ndarray:
        return self._engine.scores(waves)

    def times(self, stage: str, repeats: int) -> list[float]:
        if stage == "scores":
            return self._engine.replay_times(self._batch, repeats, inputs=self._inputs)
        if stage == "scores" + DEVICE_TIME:
            return self._engine.replay_times(self._batch, repeats, inputs=self._inputs, spin_s=SPIN_S)
        if stage == "end to end":
            return self._engine.end_to_end_times(self._batch, repeats)
        times = self._engine.stage_times(self._batch, repeats)
        if stage == "mel":
            return times["mel"]
        # The stages are timed apart and added up, so the gaps between kernels count in full. A recorded graph shortens
        # them.
        return [sum(parts) for parts in zip(*(times[name] for name in network_stages(times)), strict=True)]

    def close(self) -> None:
        """Do nothing: the bench made the engine, and closes it."""


def checked_peer(name: str, variant: Variant, precision: str, batch: int, device: str, reference: Reference) -> Checked:
    """Peer ``name`` on a batch, compared with ``reference``.

    Raises RuntimeError if its results differ too much, or whatever its runtime raises.
    """
    contender = peers.make(name, variant, precision, batch, peers.device_name(device))
    try:
        found = contender.output(np.resize(reference.waves, (batch, reference.waves.shape[1])))
        if contender.stages[0] == "mel":
            expected = np.resize(reference.log_mel, (batch, *reference.log_mel.shape[1:]))
            expected = expected[:, : variant.height, : variant.width]
            difference = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
            allowed = MAX_MEL_DIFFERENCE
        else:
            difference = float(np.abs(found - np.resize(reference.scores, found.shape)).max())
            allowed = MAX_DIFFERENCE[precision]
        if not difference <= allowed:  # this refuses NaN as well
            raise RuntimeError(f"its results differ by {difference:.1e}, more than {allowed:.0e}")
    except Exception:
        contender.close()
        raise
    return Checked(contender, variant, difference)


def alternate(
    contenders: dict[Key, Contender],
    stage: str,
    repeats: Callable[[float], int],
    failed: Callable[[Key, Exception], None],
) -> dict[Key, list[list[float]]]:
    """Seconds of ``stage`` by round, of every contender that got through all rounds.

    The first contender is fcntag's.

    Parameters
    ----------
    repeats : from the seconds of one call to the number of samples
    failed : is told the exception of a peer, whose part ends with it; fcntag's exceptions are raised
    """
    ours = next(iter(contenders))
    dropped: set[Key] = set()

    def times(key: Key, count: int) -> list[float]:
        try:
            return contenders[key].times(stage, count)
        except Exception as error:
            if key == ours:
                raise
            failed(key, error)
            dropped.add(key)
            return []

    rounds = ROUNDS if len(contenders) > 1 else 1
    counts = {key: -(-repeats(statistics.median(times(key, 3) or [1.0])) // rounds) for key in contenders}
    samples: dict[Key, list[list[float]]] = {key: [] for key in contenders}
    keys = list(contenders)
    for k in range(rounds):
        turn = k % len(keys)
        for key in keys[turn:] + keys[:turn]:
            if key not in dropped:
                samples[key].append(times(key, counts[key]))
    return {key: found for key, found in samples.items() if key not in dropped}
