"""The result of the bench: rows of timing samples, each with its meaning, as JSON and back."""

from __future__ import annotations

import dataclasses
import json
import statistics
from dataclasses import dataclass, field
from typing import Any

from .samples import percentile

# The version of the JSON's layout. A result of another version is refused.
FORMAT = 1

# The stages of one clip, in order. The network is also timed on batches of windows.
CLIP_STAGES = ("decode", "resample", "mel", "network")
# The phases of an engine's life: new process, engine from memory, first call, and all later calls.
PHASES = ("cold", "load", "first", "steady")

# Fields of a row that have another key in JSON. Results that were saved by earlier versions have these keys.
_JSON_NAMES = {"variant": "network"}


@dataclass(frozen=True)
class Row:
    """The samples of one stage, in one engine, with one batch.

    Attributes
    ----------
    model : name of the network.
    stage : "decode", "resample", "mel", "network" or "tag" (the whole path), "block 0" ..., "head", or a phase:
        "cold" (new process to its exit), "load" (engine from a model in memory), "first" (first call of it). On a
        GPU also "h2d" (waves to the GPU), "scores" (waves to scores, all on it), "scores, cold cache" (the level-2
        cache cleared before it) and "end to end" (host arrays in and out).
    engine : "fcntag" or a peer's name.
    batch : windows in one call; 0 stands for as many as one clip has.
    samples_s : seconds of every timed call.
    variant : the network that the engine was given, "original" or "reduced". The JSON calls it "network".
    contend : other processes that kept one core each busy meanwhile.
    audio_s : seconds of audio that one call stands for.
    flop : floating-point operations of a direct convolution of the network given (a multiply-add is two).
    bytes : least number that one call has to move: weights, input and scores, once each.
    max_score_difference : largest difference from fcntag's float32 scores of the same input.
    ratio : median of the ratios of a peer's samples to fcntag's of the same round; above 1: the peer is slower.
    others_cores : cores that other processes kept busy while this was timed.
    peak_rss_bytes : of the process ("cold" only).
    precision : of the arithmetic, where one report has several; "" where its settings say it.
    """

    model: str
    stage: str
    engine: str
    batch: int
    samples_s: tuple[float, ...]
    variant: str = "original"
    contend: int = 0
    audio_s: float = 0.0
    flop: float = 0.0
    bytes: float = 0.0
    max_score_difference: float | None = None
    ratio: float | None = None
    others_cores: float | None = None
    peak_rss_bytes: int | None = None
    precision: str = ""

    @property
    def key(self) -> tuple[str, str, str, int, str, int, str]:
        """The fields in which rows of two results must agree to be compared."""
        return (self.model, self.stage, self.engine, self.batch, self.variant, self.contend, self.precision)

    @property
    def label(self) -> str:
        """The key in words."""
        batch = f", batch {self.batch}" if self.batch else ""
        contend = f", {self.contend} busy processes" if self.contend else ""
        precision = f", {self.precision}" if self.precision else ""
        return f"{self.model}, {self.stage}, {self.engine} ({self.variant}){precision}{batch}{contend}"

    @property
    def median_s(self) -> float:
        """Median of the samples."""
        return statistics.median(self.samples_s)

    def to_dict(self) -> dict[str, Any]:
        """The row in JSON types, with figures that follow from the samples, for readers that want no more."""
        out = {_JSON_NAMES.get(name, name): value for name, value in dataclasses.asdict(self).items()}
        out["samples_s"] = list(self.samples_s)
        for q in (10, 50, 90, 99):
            out[f"p{q}_s"] = percentile(self.samples_s, q)
        out["min_s"] = min(self.samples_s)
        if self.audio_s:
            out["real_time_factor"] = self.audio_s / self.median_s
        return out

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Row:
        """The row that ``to_dict`` wrote; the figures that follow from the samples are left out."""
        names = {f.name: _JSON_NAMES.get(f.name, f.name) for f in dataclasses.fields(cls)}
        known = {name: data[key] for name, key in names.items() if key in data}
        known["samples_s"] = tuple(float(s) for s in data["samples_s"])
        if not known["samples_s"]:
            raise ValueError(f"row {known.get('stage')!r} has no samples")
        return cls(**known)


@dataclass
class Report:
    """The whole result of one run of the bench.

    Attributes
    ----------
    environment : of :func:`machine.environment`.
    settings : those that were asked for.
    ceilings : fma_gflops, copy_gbytes.
    models : name -> {random_weights, windows_per_clip, multiply_adds, reduced_multiply_adds, memory_bytes ...}.
    peers : name -> version, or why there is none.
    rows : in the order in which they were timed.
    warnings : sentences that a reader of the numbers has to know.
    refused : peers that are installed and yet were not timed, and why.
    """

    environment: dict[str, Any]
    settings: dict[str, Any]
    ceilings: dict[str, float] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    peers: dict[str, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """The text of the file that ``--json`` writes and ``--compare`` reads."""
        data = {"format": FORMAT, "tool": "fcntag bench", **self.__dict__}
        data["rows"] = [row.to_dict() for row in self.rows]
        data["bottlenecks"] = {name: self.bottleneck(name) for name in self.models}
        return json.dumps(data, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Report:
        """A report that ``to_json`` wrote; raises ValueError, one line, for anything else."""
        try:
            data = json.loads(text)
            if not isinstance(data, dict) or data.get("tool") != "fcntag bench":
                raise ValueError("not a result of fcntag bench")
            if data.get("format") != FORMAT:
                raise ValueError(f"format {data.get('format')!r}; this version reads {FORMAT}")
            known = {f.name: data[f.name] for f in dataclasses.fields(cls)}
            known["rows"] = [Row.from_dict(row) for row in data["rows"]]
            return cls(**known)
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"damaged: {type(error).__name__}: {error}") from None

    def find(self, **wanted: Any) -> list[Row]:
        """Rows whose fields have these values."""
        return [row for row in self.rows if all(getattr(row, name) == value for name, value in wanted.items())]

    def bottleneck(self, model: str) -> str:
        """A sentence that names the stage which takes most of tagging a clip with ``model``."""
        stages = {row.stage: row.median_s for row in self.find(model=model, batch=0) if row.stage in CLIP_STAGES}
        if not stages:
            return f"{model}: the stages of a clip were not timed"
        total = sum(stages.values())
        stage = max(stages, key=lambda name: stages[name])
        parts = ", ".join(f"{name} {1e3 * seconds:.1f} ms" for name, seconds in stages.items())
        return f"{model}: {stage} takes {100 * stages[stage] / total:.0f} % of tagging a clip ({parts})"
