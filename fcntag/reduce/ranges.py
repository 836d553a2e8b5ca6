"""Interval arithmetic in float64: the range of every channel of a network, whatever is played."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..model.activation import activate
from ..model.filters import dct_matrix, delta_weights

if TYPE_CHECKING:
    from ..model.document import Frontend, ModelDocument
    from ..model.file import Model

_FLOAT16_MAX = 65504.0
_FLOAT32_MAX = float(np.finfo(np.float32).max)
# Far above float64's rounding in a sum of 10^5 terms, far below anything that decides: makes the intervals safe.
_SLACK = 1e-10


@dataclass(frozen=True)
class ChannelRange:
    """Bounds on a block's output whatever is played, per channel [C], float64."""

    low: np.ndarray
    high: np.ndarray
    centre: np.ndarray  # a value in [low, high] that replaces the channel if it is constant
    deviation: np.ndarray  # bound on |value - centre|, without the cancellation that high - low suffers
    dead: np.ndarray  # bool: a ReLU holds it at 0

    @property
    def magnitude(self) -> np.ndarray:
        return np.maximum(np.abs(self.low), np.abs(self.high))


def input_range(document: ModelDocument, tensors: dict[str, np.ndarray]) -> tuple[float, float]:
    """Smallest and largest value that the front end can give the network, for any audio that it gives no inf or NaN.

    The mel power before the log is at most float32's largest number, or float16's where it is rounded to that.
    """
    frontend = document.frontend
    ends = _log_range(frontend)
    low, high = (np.array([end]) for end in ends) if frontend.kind != "mfcc" else _mfcc_range(frontend, *ends)  # a row
    if axes := frontend.standardized_axes:
        shape = (1, *frontend.rows_and_frames(*document.input_size()))
        most = math.sqrt(math.prod(shape[axis] for axis in axes))  # (x - mean)^2 <= n * variance
        low, high = np.array([-most]), np.array([most])
    elif frontend.normalization != "none":
        scale, shift = (tensors[f"input.{name}"].astype(np.float64) for name in ("scale", "shift"))
        if frontend.normalization == "per_frame":  # any frame of any row
            low, high = np.array([low.min()]), np.array([high.max()])
        both = np.stack([scale * low + shift, scale * high + shift])
        low, high = both.min(axis=0), both.max(axis=0)
    least, most = float(low.min()), float(high.max())
    slack = 1e-5 * (most - least)  # float32 arithmetic in the front end
    return least - slack, most + slack


def _mfcc_range(frontend: Frontend, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of every row [3 * n_mfcc], where every band of the log-mel lies in [low, high]."""
    dct = dct_matrix(frontend.n_mels, frontend.n_mfcc)
    positive, negative = np.maximum(dct, 0).sum(axis=1), np.minimum(dct, 0).sum(axis=1)
    ends = positive * low + negative * high, positive * high + negative * low
    # Weights of a derivative sum to 0: half the range, either way, times the sum of their sizes.
    half = (ends[1] - ends[0]) / 2
    deltas = [np.abs(weights).sum() * half for weights in delta_weights()]
    return np.concatenate([ends[0], *(-d for d in deltas)]), np.concatenate([ends[1], *deltas])


def _log_range(frontend: Frontend) -> tuple[float, float]:
    log = frontend.log
    most = _FLOAT16_MAX if frontend.rounding == "float16" else _FLOAT32_MAX
    if log.kind == "none":
        return 0.0, most
    if log.kind in ("log10p1", "log1p"):
        return 0.0, (math.log10 if log.kind == "log10p1" else math.log)(log.gain * most + 1.0)
    if log.kind in ("ln", "log10"):
        function = math.log if log.kind == "ln" else math.log10
        return function(log.amin + log.offset), function(max(most, log.amin) + log.offset)
    low, high = 10.0 * math.log10(log.amin), 10.0 * math.log10(most)
    if log.ref == "max":
        low, high = low - high, 0.0
        if log.top_db is not None:
            low = max(low, -log.top_db)
    return low, high


def affine(tensors: dict[str, np.ndarray], i: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift [C] after the activation of block ``i``, float64; 1 and 0 where it has none."""
    bias = tensors[f"blocks.{i}.bias"]
    scale, shift = tensors.get(f"blocks.{i}.scale"), tensors.get(f"blocks.{i}.shift")
    if scale is None or shift is None:
        return np.ones(len(bias)), np.zeros(len(bias))
    return scale.astype(np.float64), shift.astype(np.float64)


def sum_taps(weight: np.ndarray) -> np.ndarray:
    """Weights [O, C, ...] -> their sums [O, C], accumulated in float64 without a float64 copy of a large network."""
    taps = math.prod(weight.shape[2:])
    return np.einsum("oct->oc", weight.reshape(*weight.shape[:2], taps), dtype=np.float64)


def channel_ranges(model: Model) -> list[ChannelRange]:
    """Interval arithmetic from the front end through the blocks; the first element is the network's input."""
    low, high = (np.array([end]) for end in input_range(model.document, model.tensors))
    centre = np.clip(0.0, low, high)
    ranges = [ChannelRange(low, high, centre, np.maximum(high - centre, centre - low), np.zeros(1, bool))]
    for i, block in enumerate(model.document.blocks):
        weight = model.tensors[f"blocks.{i}.weight"]
        bias = model.tensors[f"blocks.{i}.bias"].astype(np.float64)
        scale, shift = affine(model.tensors, i)
        low, high, centre, strays = ranges[-1].low, ranges[-1].high, ranges[-1].centre, ranges[-1].deviation
        if block.kernel > 1:  # any tap may lie in the zero padding
            low, high, strays = np.minimum(low, 0.0), np.maximum(high, 0.0), np.maximum(strays, np.abs(centre))
        positive, negative = sum_taps(np.maximum(weight, 0)), sum_taps(np.minimum(weight, 0))
        slack = _SLACK * (positive - negative) @ ranges[-1].magnitude
        up, down = positive @ high + negative @ low + slack, positive @ low + negative @ high - slack
        middle = (positive + negative) @ centre
        dead = (block.activation == "relu") & (bias + up <= 0.0)
        first, last = activate(bias + down, block.activation), activate(bias + up, block.activation)
        # How far the sum moves: from its own interval, or from what its inputs stray, which knows no cancellation and
        # so sees that a sum of constants is one. And how far the activation lets it (a ReLU that hardly opens), with
        # the rounding of the additions to the bias.
        moves = np.minimum(np.maximum(up - middle, middle - down), (positive - negative) @ strays)
        spread = last - first + 1e-15 * (np.abs(bias) + np.abs(up) + np.abs(down))
        deviation = np.where(dead, 0.0, np.abs(scale) * np.minimum(moves, spread))
        ends = scale * first + shift, scale * last + shift
        centre = scale * np.where(dead, 0.0, activate(bias + middle, block.activation)) + shift
        ranges.append(ChannelRange(np.minimum(*ends), np.maximum(*ends), centre, deviation, dead))
    return ranges
