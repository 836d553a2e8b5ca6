"""The model document: the JSON in a model file's metadata, as dataclasses, and the only place that validates it.

A model is data: front end, segmenting, block list and head are described here and nowhere else in code.
Every field is required unless it has a default; an unknown, missing or out-of-range field raises
``ModelError`` and names the field by its path, e.g. ``blocks[2].pool.stride[0]``.

Shapes use one notation: a front end turns ``[n_samples]`` into ``[H, W]``, where (H, W) is
(n_rows, n_frames) for ``layout="mel_time"`` and (n_frames, n_rows) for ``layout="time_mel"``; rows are mel bands, STFT
bins, or MFCC with their deltas.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Literal

from ..errors import ModelError
from .frontend import DELTA_WIDTH, Frontend, Log, check_frontend, check_kind_fields, check_range
from .json_fields import build, reject_constant, show, unique_keys

__all__ = [
    "FORMAT",
    "Block",
    "Dense",
    "Frontend",
    "Head",
    "Log",
    "Metric",
    "ModelDocument",
    "Pool",
    "Segments",
    "Source",
    "Variant",
]

FORMAT = 1  # raise it when an old reader would misread a new file
MAX_CHANNELS = 8192  # 4 x the widest layer of the paper: above it a document is damaged, not ambitious
MAX_BLOCKS = 64
MAX_TAGS = 100_000
MAX_HIDDEN = 8
MAX_HIDDEN_FEATURES = 65536
MAX_SAMPLES = 1 << 26  # one segment: 70 minutes at 16 kHz
MAX_JSON_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class Segments:
    """Which windows of a track go through the network, and how their scores become the track's. In samples.

    center: one window in the middle, [(n - n_samples) // 2, (n + n_samples) // 2). first: one window at the start.
    hop: windows at -lead + k * hop_samples as long as they end at most ``trail`` samples after the track.
    spread: ``count`` windows at k * ((n - n_samples) // count).
    Samples outside the track are zeros. The track's scores are the mean of the windows' sigmoids.
    """

    rule: Literal["center", "first", "hop", "spread"]
    n_samples: int
    hop_samples: int = 0  # rule hop
    lead: int = 0  # rule hop: zeros that belong in front of the track (framing context)
    trail: int = 0  # rule hop: how far the last window may reach beyond the track
    count: int = 1  # rule spread
    # A track shorter than one window: "zeros" appends zeros, "repeat" repeats the track until it fills one.
    short: Literal["zeros", "repeat"]
    # A track of [min_samples, n_samples) is analysed at its own length, unpadded; 0: never.
    min_samples: int = 0
    aggregate: Literal["mean"] = "mean"


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Max-pool over (H, W), no padding, floor: size (n - window) // stride + 1; stride and window may differ."""

    window: tuple[int, int]
    stride: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Block:
    """conv (zero padding 'same', stride 1) + bias -> activation -> [scale * x + shift] -> max-pool.

    Tensors ``blocks.{i}.weight`` [out_channels, in_channels, kernel, kernel] (cross-correlation),
    ``blocks.{i}.bias`` [out_channels], and with ``post_affine`` ``blocks.{i}.scale``, ``blocks.{i}.shift``
    [out_channels]. A batch-norm before the activation is folded into weight and bias by the converter.
    """

    kernel: int
    in_channels: int
    out_channels: int
    activation: Literal["relu", "elu", "none"]
    post_affine: bool = False
    pool: Pool = field(default_factory=lambda: Pool(window=(1, 1), stride=(1, 1)))

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) after pooling; 0 where the map is smaller than the window."""
        size = [
            (n - w) // s + 1 if n >= w else 0
            for n, w, s in zip((height, width), self.pool.window, self.pool.stride, strict=True)
        ]
        return size[0], size[1]


@dataclass(frozen=True, kw_only=True)
class Dense:
    """A hidden dense layer of the head: activation(weight @ x + bias).

    Tensors ``head.hidden.{i}.weight`` [out_features, features that arrive], ``head.hidden.{i}.bias`` [out_features].
    A batch-norm in front of it or behind it is folded into the layers around it by the converter.
    """

    out_features: int
    activation: Literal["relu", "elu", "none"]


@dataclass(frozen=True, kw_only=True)
class Head:
    """Last map [C, H, W] -> features -> hidden layers -> sigmoid(weight @ x + bias).

    Tensors ``head.weight`` [n_tags, last_features], ``head.bias`` [n_tags], and those of the hidden layers.
    ``flatten``: order of the features: "chw" (channel slowest) or "hwc" (channel fastest); "max" and "mean": global
    maximum or mean over (H, W), C features. ``in_features`` is their number.
    """

    flatten: Literal["chw", "hwc", "max", "mean"]
    in_features: int
    activation: Literal["sigmoid"] = "sigmoid"
    # The features that this model is published for: "head", those that enter the last dense layer, or "blocks", the
    # mean over (H, W) of every block's pooled output.
    default_features: Literal["head", "blocks"] = "head"
    hidden: tuple[Dense, ...] = ()

    @property
    def last_features(self) -> int:
        """Number of values that enter the last dense layer, which gives the tags."""
        return self.hidden[-1].out_features if self.hidden else self.in_features


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the weights come from. ``sha256`` is that of the original file, in hex."""

    url: str
    sha256: str
    file: str
    authors: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A figure somebody published for these weights; fcntag has not measured it unless ``by`` says so."""

    dataset: str
    name: str
    value: float
    by: str


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The same weights under other pools; loaded by the name ``{model}-{variant}``."""

    name: str
    note: str
    pools: tuple[Pool, ...]


@dataclass(frozen=True, kw_only=True)
class ModelDocument:
    """Everything about a model but its numbers."""

    format: int
    name: str
    description: str
    tags: tuple[str, ...]
    licence: str  # SPDX identifier, or a plain sentence where none is stated
    licence_notice: str  # the notice that must travel with the weights; "" if none
    training_data: str
    source: Source
    metrics: tuple[Metric, ...]
    notes: tuple[str, ...]  # for the user: estimates, frozen statistics, choices of ours
    frontend: Frontend
    segments: Segments
    blocks: tuple[Block, ...]
    head: Head
    variants: tuple[Variant, ...] = ()
    random_weights: bool = False  # nobody trained them: scores mean nothing, and whoever shows them says so

    # ---- derived ----

    def input_size(self, n_samples: int | None = None) -> tuple[int, int]:
        """(H, W) of the network's input for a segment of ``n_samples`` (default: the document's window)."""
        frames = self.frontend.n_frames(self.segments.n_samples if n_samples is None else n_samples)
        return self.frontend.shape(self.frontend.n_rows, frames)

    def map_sizes(self, n_samples: int | None = None) -> list[tuple[int, int]]:
        """(H, W) of the input and after every block."""
        return self.sizes_from(*self.input_size(n_samples))

    def sizes_from(self, height: int, width: int) -> list[tuple[int, int]]:
        """``map_sizes`` for an input [height, width], which need not be that of a segment."""
        sizes = [(height, width)]
        for block in self.blocks:
            sizes.append(block.output_size(*sizes[-1]))
        return sizes

    def n_features(self, n_samples: int | None = None) -> int:
        """Number of features that leave the last map for a segment of ``n_samples``; 0 if it is too short."""
        height, width = self.map_sizes(n_samples)[-1]
        channels = self.blocks[-1].out_channels
        if self.head.flatten in ("max", "mean"):
            return channels if height and width else 0
        return channels * height * width

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor, all float32, that the model file must hold: no more and no less."""
        shapes: dict[str, tuple[int, ...]] = {}
        frontend = self.frontend
        length = {
            "scalar": 1,
            "per_mel": frontend.n_rows,
            "per_frame": frontend.n_frames(self.segments.n_samples),
        }.get(frontend.normalization)
        if length is not None:
            shapes["input.scale"] = shapes["input.shift"] = (length,)
        for i, block in enumerate(self.blocks):
            shapes[f"blocks.{i}.weight"] = (block.out_channels, block.in_channels, block.kernel, block.kernel)
            for name in ("bias", "scale", "shift") if block.post_affine else ("bias",):
                shapes[f"blocks.{i}.{name}"] = (block.out_channels,)
        for stem, inputs, outputs in self.dense_layers():
            shapes[f"{stem}.weight"], shapes[f"{stem}.bias"] = (outputs, inputs), (outputs,)
        return shapes

    def dense_layers(self) -> list[tuple[str, int, int]]:
        """Every dense layer of the head in order: the stem of its tensors' names, its inputs and its outputs."""
        hidden = self.head.hidden
        sizes = [self.head.in_features, *(layer.out_features for layer in hidden), len(self.tags)]
        stems = [*(f"head.hidden.{i}" for i in range(len(hidden))), "head"]
        return list(zip(stems, sizes[:-1], sizes[1:], strict=True))

    def multiply_adds(self) -> int:
        """Multiply-adds of one segment, nominal: every convolution output, dropped rows and columns included."""
        total = 0
        for block, (height, width) in zip(self.blocks, self.map_sizes(), strict=False):
            total += height * width * block.in_channels * block.out_channels * block.kernel**2
        return total + self.head_multiply_adds()

    def head_multiply_adds(self) -> int:
        """Those of the dense layers alone."""
        return sum(inputs * outputs for _, inputs, outputs in self.dense_layers())

    def with_variant(self, name: str) -> ModelDocument:
        """The document with the pools of variant ``name``; raises ModelError if there is none."""
        for variant in self.variants:
            if variant.name == name:
                blocks = tuple(dataclasses.replace(b, pool=p) for b, p in zip(self.blocks, variant.pools, strict=True))
                return dataclasses.replace(
                    self, name=f"{self.name}-{name}", blocks=blocks, notes=(variant.note, *self.notes), variants=()
                )
        known = ", ".join(v.name for v in self.variants) or "none"
        raise ModelError(f"{self.name}: no variant {name!r}; it has: {known}")

    # ---- JSON ----

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces, so that equal documents are equal bytes.

        Fields that came after the first version are left out where they have their default. A document that the first
        reader understands therefore keeps the bytes that it had then.
        """
        tree = dataclasses.asdict(self)
        for name in self.frontend.idle_fields():
            del tree["frontend"][name]
        if not self.frontend.log.offset:
            del tree["frontend"]["log"]["offset"]
        if not self.random_weights:
            del tree["random_weights"]
        if self.head.default_features == "head":
            del tree["head"]["default_features"]
        if not self.head.hidden:
            del tree["head"]["hidden"]
        return json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> ModelDocument:
        """Parse and validate; raises ModelError that names the first bad field."""
        if len(text) > MAX_JSON_BYTES:
            raise ModelError(f"document: {len(text)} characters of JSON; at most {MAX_JSON_BYTES}")
        try:
            data = json.loads(text, parse_constant=reject_constant, object_pairs_hook=unique_keys)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"document: not valid JSON: {error}") from None
        document = build(cls, data, "document", {Frontend: check_kind_fields})
        _check(document)
        return document

    def validate(self) -> ModelDocument:
        """Check a document that was built in Python the way a file's is checked; returns it re-read."""
        return ModelDocument.from_json(self.to_json())


def _check(doc: ModelDocument) -> None:
    """Everything that types alone do not say: ranges, and that the stages fit one another."""
    if doc.format != FORMAT:
        raise ModelError(f"document.format: {doc.format} is not supported; this version reads {FORMAT}")
    if not doc.name or doc.name != doc.name.strip() or "/" in doc.name:
        raise ModelError(f"document.name: {show(doc.name)} must be a plain, non-empty name")
    check_range("tags: number", len(doc.tags), 1, MAX_TAGS)
    for where, text in [("name", doc.name), *((f"tags[{i}]", tag) for i, tag in enumerate(doc.tags))]:
        if not text.isprintable() or not text:  # they go to terminals: no escape sequences, no newlines
            raise ModelError(f"document.{where}: {show(text)} must be printable text")
    if len(set(doc.tags)) != len(doc.tags):
        repeated = next(t for t in doc.tags if doc.tags.count(t) > 1)
        raise ModelError(f"document.tags: {show(repeated)} appears twice")
    fe, seg = doc.frontend, doc.segments
    check_frontend(fe)
    # The reflection reads n_fft // 2 samples behind the edge one, which a shorter segment does not have.
    reflected = fe.n_fft // 2 + 1 if fe.framing == "center" and fe.pad_mode == "reflect" else 1
    check_range("segments.n_samples", seg.n_samples, max(fe.frame_length, reflected), MAX_SAMPLES)
    check_range("segments.min_samples", seg.min_samples, 0, seg.n_samples)
    if seg.min_samples:
        check_range("segments.min_samples", seg.min_samples, reflected, seg.n_samples)
    if fe.kind == "mfcc":
        for name, n_samples in (("n_samples", seg.n_samples), ("min_samples", seg.min_samples or seg.n_samples)):
            if fe.n_frames(n_samples) < DELTA_WIDTH:
                frames = fe.n_frames(n_samples)
                raise ModelError(
                    f"document.segments.{name}: {n_samples} are {frames} frames; deltas need {DELTA_WIDTH}"
                )
    check_range("segments.count", seg.count, 1, 1024)
    if seg.rule == "hop":
        check_range("segments.hop_samples", seg.hop_samples, fe.hop_length, MAX_SAMPLES)
        check_range("segments.lead", seg.lead, 0, seg.n_samples - 1)
        check_range("segments.trail", seg.trail, 0, seg.n_samples - 1)
    check_range("blocks: number", len(doc.blocks), 1, MAX_BLOCKS)
    height, width = doc.input_size()
    channels = 1
    for i, block in enumerate(doc.blocks):
        where = f"blocks[{i}]"
        if block.kernel not in (1, 3):
            raise ModelError(f"document.{where}.kernel: {block.kernel} is not built; built: 1, 3")
        check_range(f"{where}.out_channels", block.out_channels, 1, MAX_CHANNELS)
        if block.in_channels != channels:
            raise ModelError(f"document.{where}.in_channels: {block.in_channels}, but {channels} arrive")
        for axis, n in ((0, height), (1, width)):
            check_range(f"{where}.pool.window[{axis}]", block.pool.window[axis], 1, n)
            check_range(f"{where}.pool.stride[{axis}]", block.pool.stride[axis], 1, MAX_SAMPLES)
        height, width = block.output_size(height, width)
        channels = block.out_channels
    check_range("head.hidden: number", len(doc.head.hidden), 0, MAX_HIDDEN)
    for i, layer in enumerate(doc.head.hidden):
        check_range(f"head.hidden[{i}].out_features", layer.out_features, 1, MAX_HIDDEN_FEATURES)
    if doc.head.in_features != doc.n_features():
        raise ModelError(
            f"document.head.in_features: {doc.head.in_features}, but the last block gives {doc.n_features()}"
            f" ({channels} x {height} x {width}, flatten {doc.head.flatten!r})"
        )
    if seg.min_samples and doc.n_features(seg.min_samples) != doc.head.in_features:
        raise ModelError(
            f"document.segments.min_samples: {seg.min_samples} samples give {doc.n_features(seg.min_samples)}"
            f" features, not {doc.head.in_features}"
        )
    if seg.min_samples and fe.normalization == "per_frame":
        raise ModelError("document.segments.min_samples: must be 0 with per_frame normalization (it fixes the length)")
    for i, variant in enumerate(doc.variants):
        if len(variant.pools) != len(doc.blocks):
            raise ModelError(f"document.variants[{i}].pools: {len(variant.pools)} pools for {len(doc.blocks)} blocks")
        _check(doc.with_variant(variant.name))
