"""Contenders of the GPU bench: checked before they are timed, then timed in turn."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import peers
from .peers import STAGES, Contender, n_inputs
from .work import Variant, network_stages

Key = tuple[str, str]  # engine, network

# Largest difference of a score from float32's: more, and what is timed is not this network.
MAX_DIFFERENCE = {"float32": 1e-4, "tf32": 5e-3, "float16": 1e-2, "bfloat16": 5e-2}
MAX_MEL_DIFFERENCE = 1e-3  # relative L2 of a peer's log-mel of noise, which leaves no band near the logarithm's floor
CHECKED_CLIPS = 4
ROUNDS = 4  # in which contenders take turns: A B C, B C A, ...
MIN_REPEATS = 12


@dataclass(frozen=True)
class Reference:
    """Random clips [CHECKED_CLIPS, n_samples] and what fcntag makes of them in float32: scores and network input."""

    waves: np.ndarray
    scores: np.ndarray
    log_mel: np.ndarray


class Ours:
    """fcntag's engine as a contender."""

    stages = STAGES

    def __init__(self, engine: Any, batch: int) -> None:
        self._engine, self._batch = engine, batch
        self._inputs = n_inputs(batch, engine.document.segments.n_samples)

    def output(self, waves: np.ndarray) -> np.ndarray:
        return self._engine.scores(waves)

    def times(self, stage: str, repeats: int) -> list[float]:
        if stage == "scores":
            return self._engine.replay_times(self._batch, repeats, inputs=self._inputs)
        if stage == "end to end":
            return self._engine.end_to_end_times(self._batch, repeats)
        times = self._engine.stage_times(self._batch, repeats)
        if stage == "mel":
            return times["mel"]
        # Apart and added up: the gaps between kernels count in full, which a recorded graph shortens.
        return [sum(parts) for parts in zip(*(times[name] for name in network_stages(times)), strict=True)]

    def close(self) -> None:
        """The engine is the bench's."""


def checked_peer(
    name: str, variant: Variant, precision: str, batch: int, device: str, reference: Reference
) -> tuple[Contender, float]:
    """Peer ``name`` on a batch, and how far its results are from ``reference``.

    Raises RuntimeError if that is too far, or whatever its runtime raises.
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
        if not difference <= allowed:  # NaN is a difference, too
            raise RuntimeError(f"its results differ by {difference:.1e}, more than {allowed:.0e}")
    except Exception:
        contender.close()
        raise
    return contender, difference


def alternate(
    contenders: dict[Key, Contender],
    stage: str,
    repeats: Callable[[float], int],
    failed: Callable[[Key, Exception], None],
) -> dict[Key, list[list[float]]]:
    """Seconds of ``stage`` by round, of every contender that got through all rounds.

    ``repeats`` gives the samples of one that takes so many seconds a call. The first contender is fcntag's, and what it
    raises is raised; what another raises goes to ``failed`` and ends its part.
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
