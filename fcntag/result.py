"""The results of ``Tagger``: plain data, typed, with the record that the command line writes as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .pipeline import Done, Failed

if TYPE_CHECKING:
    import numpy as np

    from .pipeline import Outcome


@dataclass(frozen=True)
class ModelInfo:
    """Which weights gave a result. ``sha256`` is that of the model file, in hex."""

    name: str
    sha256: str

    def to_dict(self) -> dict[str, str]:
        """``{name, sha256}``"""
        return {"name": self.name, "sha256": self.sha256}


@dataclass(frozen=True)
class EngineInfo:
    """The version of fcntag, the device really used, and the precision that computed a result."""

    version: str
    device: str
    precision: str

    def to_dict(self) -> dict[str, str]:
        """``{version, device, precision}``"""
        return {"version": self.version, "device": self.device, "precision": self.precision}


@dataclass(frozen=True, eq=False)
class Result:
    """The scores of one track.

    A track that could not be analysed (``tag_many`` only) has ``error`` set, and ``scores``, ``segments`` None.
    """

    path: str  # file name as given; "<array>", "<bytes>", "<stdin>" ... where there is none
    tags: tuple[str, ...]  # labels, [n_tags]
    model: ModelInfo
    engine: EngineInfo
    duration_s: float | None = None  # of the source, in seconds
    scores: np.ndarray | None = None  # float32 [n_tags], 0 to 1: mean over the segments of their sigmoids
    segments: np.ndarray | None = None  # float32 [n_segments, n_tags]
    start_s: list[float] = field(default_factory=list)  # [n_segments], seconds, clipped to the track
    end_s: list[float] = field(default_factory=list)  # [n_segments]
    warnings: tuple[str, ...] = ()  # parts that were left out or padded; without the file's name
    error: str | None = None  # one line that starts with the file's name

    def top(self, n: int | None = 5, threshold: float | None = None) -> list[tuple[str, float]]:
        """The best tags, highest score first (equal scores: in the model's order).

        Parameters
        ----------
        n : int >= 1, at most so many; None: all
        threshold : float, only scores >= threshold; None: no limit

        Returns
        -------
        list of (label, score); empty for a failed track

        Raises
        ------
        ValueError : n below 1
        """
        return [(self.tags[i], float(self.scores[i])) for i in self._order(n, threshold)]  # type: ignore[index]

    def to_dict(self, n: int | None = None, threshold: float | None = None) -> dict[str, Any]:
        """The record that ``fcntag tag -f jsonl`` writes, of plain JSON types.

        ``path, duration_s, model{name, sha256}, engine{version, device, precision}, tags[{label, score}],
        segments[{start_s, end_s}], warnings[], error``. ``n`` and ``threshold`` limit ``tags`` as in ``top``
        (default: all tags). A score is the shortest decimal that reads back as the same float32.
        """
        return {
            "path": self.path,
            "duration_s": self.duration_s,
            "model": self.model.to_dict(),
            "engine": self.engine.to_dict(),
            "tags": [{"label": self.tags[i], "score": shortest(self.scores[i])} for i in self._order(n, threshold)],  # type: ignore[index]
            "segments": [{"start_s": a, "end_s": b} for a, b in zip(self.start_s, self.end_s, strict=True)],
            "warnings": list(self.warnings),
            "error": self.error,
        }

    def _order(self, n: int | None, threshold: float | None) -> list[int]:
        if n is not None and n < 1:
            raise ValueError(f"n: {n} must be 1 or more, or None for all")
        if self.scores is None:
            return []
        order = (-self.scores).argsort(kind="stable")[:n].tolist()
        return [i for i in order if threshold is None or self.scores[i] >= threshold]


@dataclass(frozen=True, eq=False)
class EmbedResult:
    """The features of one track: what enters the last dense layer ("head"), or every block's mean ("blocks")."""

    path: str
    which: str  # "head" or "blocks"
    model: ModelInfo
    engine: EngineInfo
    duration_s: float | None = None
    mean: np.ndarray | None = None  # float32 [F], mean over the segments
    segments: np.ndarray | None = None  # float32 [n_segments, F]
    start_s: list[float] = field(default_factory=list)
    end_s: list[float] = field(default_factory=list)
    warnings: tuple[str, ...] = ()
    error: str | None = None


def result_of(
    outcome: Outcome, tags: tuple[str, ...], model: ModelInfo, engine: EngineInfo, notes: tuple[str, ...]
) -> Result:
    """The Result of a track whose values are scores [n_segments, n_tags] (or rows that hold them one after the other).

    ``notes`` are warnings that every result of the model carries.
    """
    common = {"tags": tags, **_common(outcome, model, engine, notes)}
    if isinstance(outcome, Failed):
        return Result(**common, error=str(outcome.error))
    values = outcome.values.reshape(-1, len(tags))
    return Result(**common, **_times(outcome), scores=mean_of(values), segments=values)


def embedding_of(
    outcome: Outcome, which: str, model: ModelInfo, engine: EngineInfo, notes: tuple[str, ...]
) -> EmbedResult:
    """The EmbedResult of a track whose values are features [n_segments, F]; ``notes`` as for :func:`result_of`."""
    common = {"which": which, **_common(outcome, model, engine, notes)}
    if isinstance(outcome, Failed):
        return EmbedResult(**common, error=str(outcome.error))
    return EmbedResult(**common, **_times(outcome), mean=mean_of(outcome.values), segments=outcome.values)


def _common(outcome: Outcome, model: ModelInfo, engine: EngineInfo, notes: tuple[str, ...]) -> dict[str, Any]:
    warnings = (*outcome.warnings, *notes)
    return {
        "path": outcome.path,
        "model": model,
        "engine": engine,
        "duration_s": outcome.duration_s,
        "warnings": warnings,
    }


def _times(outcome: Done) -> dict[str, Any]:
    return {"start_s": outcome.plan.start_s, "end_s": outcome.plan.end_s}


def shortest(score: Any) -> float:
    """A float32 as the Python float with the shortest decimal that reads back as the same float32."""
    return float(str(score))


def mean_of(values: np.ndarray) -> np.ndarray:
    """Mean over the segments, [n_segments, K] -> float32 [K].

    In float64, segment after segment: the result cannot depend on how the segments were batched.
    """
    import numpy as np

    total = np.zeros(values.shape[1], np.float64)
    for value in values:
        total += value
    return (total / len(values)).astype(np.float32)
