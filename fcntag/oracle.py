"""The oracle: every operation of the front ends, blocks and heads in float64, from its definition.

Truth for the tests and for ``fcntag validate``.
Plain formulas in NumPy and plain loops under numba; nothing of the engine is imported, nothing is folded, fused or
skipped. The spectrum is the DFT as it is defined, from a table of cosines and sines: no FFT library and none of the
engine's own to trust. Frames of 256 and 512 points go through plain loops, those of other lengths through matrix
products: a second or two for a track.

Shapes: waves [B, n_samples], network input [B, H, W], maps [B, C, H, W]; B = 0 gives empty arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .model.document import Block, Frontend, Log
from .model.filters import frame_window, row_filters
from .model.frontend import DELTA_WIDTH

if TYPE_CHECKING:
    from .model.file import Model

try:
    from numba import njit, prange
except ModuleNotFoundError:
    raise ImportError('the oracle needs numba, which is not installed: pip install "fcntag[validate]"') from None
except ImportError as error:  # a numba that knows nothing of this NumPy says so here
    raise ImportError(f"the oracle needs numba, which cannot be imported: {error}") from None

Array = NDArray[np.float64]
DenominatorRule = Literal["std", "k105", "k107", "k11"]


# ---- front end ----


def frames_of(frontend: Frontend, waves: Array) -> Array:
    """Waves [B, n_samples] with their padding, [B, n_padded]: frame t is [t * hop_length, t * hop_length + n_fft)."""
    n_samples = waves.shape[1]
    n_frames = frontend.n_frames(n_samples)
    if n_frames < 1:
        raise ValueError(f"oracle: n_samples={n_samples} gives no frame; {frontend.framing} framing needs more")
    left = frontend.pad_left(n_samples)
    right = max(0, (n_frames - 1) * frontend.hop_length + frontend.n_fft - left - n_samples)
    if frontend.framing == "center" and frontend.pad_mode == "reflect":  # the edge sample is not repeated
        return np.pad(waves, ((0, 0), (left, max(right, frontend.n_fft // 2))), mode="reflect")
    return np.pad(waves, ((0, 0), (left, right)))


@njit(parallel=True)
def _power_spectrum(padded, taper, cosine, sine, hop_length, n_frames):  # type: ignore[no-untyped-def]
    """|DFT|^2 of every frame: padded [B, n], tables [n_fft, n_bins] -> [B, n_bins, n_frames]."""
    batch = padded.shape[0]
    n_fft, n_bins = cosine.shape
    power = np.empty((batch, n_bins, n_frames))
    for i in prange(batch * n_frames):
        b, t = i // n_frames, i % n_frames
        re, im = np.zeros(n_bins), np.zeros(n_bins)
        for n in range(n_fft):
            value = taper[n] * padded[b, t * hop_length + n]
            for k in range(n_bins):
                re[k] += value * cosine[n, k]
                im[k] -= value * sine[n, k]
        for k in range(n_bins):
            power[b, k, t] = re[k] * re[k] + im[k] * im[k]
    return power


def _power_by_products(frontend: Frontend, padded: Array, bins: NDArray[np.int64], n_frames: int) -> Array:
    """|DFT|^2 of every frame at some bins: padded [B, n] -> [B, len(bins), n_frames]."""
    n_fft, taper = frontend.n_fft, frame_window(frontend)
    turn = 2.0 * np.pi / n_fft * np.arange(n_fft)
    cosine, sine = np.cos(turn), np.sin(turn)
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft, axis=1)[:, :: frontend.hop_length, :]
    power = np.empty((len(padded), len(bins), n_frames))
    for begin in range(0, len(bins), 128):  # 16 MB of tables for 8192 points
        part = slice(begin, begin + 128)
        angle = np.outer(np.arange(n_fft), bins[part]) % n_fft
        real, imaginary = cosine[angle], sine[angle]
        for clip, out in zip(frames, power, strict=True):  # by itself: a product may round by the number of its rows
            for first in range(0, n_frames, 512):
                windowed = clip[first : min(first + 512, n_frames)] * taper
                out[part, first : first + 512] = (np.square(windowed @ real) + np.square(windowed @ imaginary)).T
    return power


def mel_power(frontend: Frontend, waves: ArrayLike) -> Array:
    """Waves [B, n_samples] -> what the filters give [B, n_mels, n_frames] (STFT: n_bins), before exponent and log."""
    waves = np.asarray(waves, dtype=np.float64)
    n_fft, n_bins = frontend.n_fft, frontend.n_fft // 2 + 1
    padded = np.ascontiguousarray(frames_of(frontend, waves))
    n_frames, filters = frontend.n_frames(waves.shape[1]), row_filters(frontend)
    if n_fft in (256, 512):
        # k * n is reduced modulo n_fft while it is an integer, so that the tables are right to the last bit
        angle = 2.0 * np.pi / n_fft * (np.outer(np.arange(n_fft), np.arange(n_bins)) % n_fft)
        taper = frame_window(frontend)
        power = _power_spectrum(padded, taper, np.cos(angle), np.sin(angle), frontend.hop_length, n_frames)
    else:
        used = np.flatnonzero(filters.any(axis=0))
        filters, power = filters[:, used], _power_by_products(frontend, padded, used, n_frames)
    return np.matmul(filters, np.sqrt(power) if frontend.spectrum == "magnitude" else power)


def log_compress(log: Log, power: Array) -> Array:
    """Mel power [B, n_mels, n_frames] -> its logarithm by the document's rule, same shape."""
    if log.kind == "none":
        return power
    if log.kind == "log10p1":
        return np.log10(log.gain * power + 1.0)
    if log.kind == "log1p":
        return np.log1p(log.gain * power)
    if log.kind in ("ln", "log10"):
        return {"ln": np.log, "log10": np.log10}[log.kind](np.maximum(power, log.amin) + log.offset)
    db = 10.0 * np.log10(np.maximum(power, log.amin))
    peak = db.max(axis=(1, 2), keepdims=True)  # each segment's own
    if log.ref == "max":
        db, peak = db - peak, np.zeros_like(peak)
    return db if log.top_db is None else np.maximum(db, peak - log.top_db)


def mfcc(log_mel: Array, n_mfcc: int) -> Array:
    """Log-mel [B, n_mels, n_frames] -> [B, 3 * n_mfcc, n_frames]: coefficients, their deltas, their delta-deltas.

    The orthonormal DCT-II over the bands. A delta is the first derivative of the line, a delta-delta the second of the
    parabola, that lies closest to the DELTA_WIDTH frames around; near an end, to the first or last so many.
    """
    n_mels, n_frames = log_mel.shape[1:]
    k, m = np.arange(n_mfcc)[:, None], np.arange(n_mels)[None, :]
    dct = np.sqrt(2.0 / n_mels) * np.cos(np.pi * k * (2 * m + 1) / (2 * n_mels))
    dct[0] = np.sqrt(1.0 / n_mels)
    coefficients = np.matmul(dct, log_mel)
    reach = DELTA_WIDTH // 2
    if n_frames < DELTA_WIDTH:
        raise ValueError(f"oracle: {n_frames} frames; deltas need at least {DELTA_WIDTH}")
    windows = np.lib.stride_tricks.sliding_window_view(coefficients, DELTA_WIDTH, axis=2)
    centre = np.clip(np.arange(n_frames) - reach, 0, n_frames - DELTA_WIDTH)
    rows = [coefficients]
    for order in (1, 2):
        # first row of the pseudoinverse: from samples to the highest power's coefficient in the least-squares fit
        powers = np.vander(np.arange(-reach, reach + 1.0), order + 1)
        derivative = order * np.linalg.pinv(powers)[0]
        rows.append((windows @ derivative)[:, :, centre])
    return np.concatenate(rows, axis=1)


def log_mel(
    frontend: Frontend, waves: ArrayLike, scale: ArrayLike | None = None, shift: ArrayLike | None = None
) -> Array:
    """Waves [B, n_samples] -> the network's normalised input [B, H, W].

    ``scale``, ``shift``: the tensors input.scale and input.shift, where the normalization has them.
    Raises ValueError if they are missing or their length does not fit.
    """
    power = mel_power(frontend, waves) ** frontend.power_exponent
    if frontend.rounding == "float16":  # the original held float32 before: two roundings, as there
        # beyond the largest float16 the original became infinite and its scores NaN: here the power stays at 65504
        power = np.minimum(power, 65504.0).astype(np.float32).astype(np.float16).astype(np.float64)
    x = log_compress(frontend.log, power)
    if frontend.kind == "mfcc":
        x = mfcc(x, frontend.n_mfcc)
    if frontend.normalization == "standardize":
        x = (x - x.mean(axis=(1, 2), keepdims=True)) / (x.std(axis=(1, 2), keepdims=True) + 1e-10)
    elif frontend.normalization == "standardize_per_mel":
        x = x - x[:, :, :1]  # a row that never changes is 0 exactly: 1e-10 would make its rounding large
        x = (x - x.mean(axis=2, keepdims=True)) / (x.std(axis=2, keepdims=True) + 1e-10)
    elif frontend.normalization != "none":
        shape = {"scalar": (1, 1), "per_mel": (x.shape[1], 1), "per_frame": (1, x.shape[2])}[frontend.normalization]
        if scale is None or shift is None:
            raise ValueError(f"oracle: normalization {frontend.normalization!r} needs input.scale and input.shift")
        x = x * np.asarray(scale, np.float64).reshape(shape) + np.asarray(shift, np.float64).reshape(shape)
    return x if frontend.time_axis == 1 else np.ascontiguousarray(x.transpose(0, 2, 1))


def network_input(model: Model, waves: ArrayLike) -> Array:
    """:func:`log_mel` with the model's own front end and input tensors."""
    return log_mel(model.document.frontend, waves, model.tensors.get("input.scale"), model.tensors.get("input.shift"))


# ---- network ----


@njit(parallel=True)
def _conv(x, weight, bias):  # type: ignore[no-untyped-def]
    """Cross-correlation, stride 1: x [B, C, H + k - 1, W + k - 1] (zeros already around it) -> [B, O, H, W]."""
    batch, in_channels = x.shape[0], x.shape[1]
    out_channels, kernel = weight.shape[0], weight.shape[2]
    height, width = x.shape[2] - kernel + 1, x.shape[3] - kernel + 1
    y = np.empty((batch, out_channels, height, width))
    for i in prange(batch * out_channels):
        b, o = i // out_channels, i % out_channels
        for h in range(height):
            row = np.full(width, bias[o])
            for c in range(in_channels):
                for u in range(kernel):
                    for v in range(kernel):
                        tap = weight[o, c, u, v]
                        for w in range(width):
                            row[w] += tap * x[b, c, h + u, w + v]
            y[b, o, h] = row
    return y


@njit(parallel=True)
def _max_pool(x, window_h, window_w, stride_h, stride_w, height, width):  # type: ignore[no-untyped-def]
    """Max-pool without padding: x [B, C, H, W] -> [B, C, height, width]."""
    batch, channels = x.shape[0], x.shape[1]
    y = np.empty((batch, channels, height, width))
    for i in prange(batch * channels):
        b, c = i // channels, i % channels
        for h in range(height):
            for w in range(width):
                best = x[b, c, h * stride_h, w * stride_w]
                for u in range(window_h):
                    for v in range(window_w):
                        value = x[b, c, h * stride_h + u, w * stride_w + v]
                        if value > best or np.isnan(value):  # a NaN must not vanish in a comparison
                            best = value
                y[b, c, h, w] = best
    return y


def conv(x: ArrayLike, weight: ArrayLike, bias: ArrayLike) -> Array:
    """Convolution with zero padding 'same', stride 1: x [B, C, H, W], weight [O, C, k, k], bias [O] -> [B, O, H, W]."""
    weight = np.ascontiguousarray(weight, dtype=np.float64)
    edge = weight.shape[2] // 2
    padded = np.pad(np.asarray(x, dtype=np.float64), ((0, 0), (0, 0), (edge, edge), (edge, edge)))
    return _conv(padded, weight, np.asarray(bias, dtype=np.float64))


def activate(x: Array, activation: str) -> Array:
    """relu, elu (alpha 1) or none."""
    if activation == "relu":
        return np.maximum(x, 0.0)
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0.0))) if activation == "elu" else x


def max_pool(x: Array, window: tuple[int, int], stride: tuple[int, int]) -> Array:
    """Max-pool over (H, W), no padding, floor: [B, C, H, W] -> [B, C, (H - wh) // sh + 1, (W - ww) // sw + 1]."""
    height, width = ((n - w) // s + 1 if n >= w else 0 for n, w, s in zip(x.shape[2:], window, stride, strict=True))
    return _max_pool(np.ascontiguousarray(x), *window, *stride, height, width)


def one_block(block: Block, tensors: Mapping[str, np.ndarray], i: int, x: ArrayLike) -> Array:
    """Block ``i`` alone: its input [B, C, H, W] -> its pooled output [B, C', H', W']."""
    y = activate(conv(x, tensors[f"blocks.{i}.weight"], tensors[f"blocks.{i}.bias"]), block.activation)
    if block.post_affine:
        scale, shift = (tensors[f"blocks.{i}.{n}"].astype(np.float64) for n in ("scale", "shift"))
        y = scale[:, None, None] * y + shift[:, None, None]
    return max_pool(y, block.pool.window, block.pool.stride)


def blocks(model: Model, x: ArrayLike) -> list[Array]:
    """Network input x [B, H, W] -> the pooled output [B, C, H, W] of every block."""
    maps, y = [], np.asarray(x, dtype=np.float64)[:, None]
    for i, block in enumerate(model.document.blocks):
        y = one_block(block, model.tensors, i, y)
        maps.append(y)
    return maps


def flatten(y: Array, order: str) -> Array:
    """Last map [B, C, H, W] -> features [B, F]: "chw", "hwc" (channel fastest), "max" or "mean" over (H, W)."""
    if order == "max":
        return y.max(axis=(2, 3))
    if order == "mean":
        return y.mean(axis=(2, 3))
    return (y if order == "chw" else y.transpose(0, 2, 3, 1)).reshape(y.shape[0], int(np.prod(y.shape[1:])))


def dense_layer(model: Model, stem: str, x: ArrayLike) -> Array:
    """The dense layer whose tensors are ``{stem}.weight`` and ``{stem}.bias``: x [B, inputs] -> [B, outputs]."""
    weight, bias = (model.tensors[f"{stem}.{n}"].astype(np.float64) for n in ("weight", "bias"))
    return np.asarray(x, dtype=np.float64) @ weight.T + bias


def hidden_layers(model: Model, x: ArrayLike) -> list[Array]:
    """Features of the last map [B, in_features] -> the output [B, out_features] of every hidden layer."""
    outputs, y = [], np.asarray(x, dtype=np.float64)
    for i, layer in enumerate(model.document.head.hidden):
        y = activate(dense_layer(model, f"head.hidden.{i}", y), layer.activation)
        outputs.append(y)
    return outputs


def embedding(model: Model, y: Array) -> Array:
    """Last map [B, C, H, W] -> what enters the last dense layer [B, last_features]."""
    x = flatten(y, model.document.head.flatten)
    return [x, *hidden_layers(model, x)][-1]


def features(model: Model, x: ArrayLike, which: Literal["head", "blocks"] = "head") -> Array:
    """Network input x [B, H, W] -> what enters the last dense layer, or every block's mean over H, W ("blocks")."""
    maps = blocks(model, x)
    if which == "blocks":
        return np.concatenate([y.mean(axis=(2, 3)) for y in maps], axis=1)
    return embedding(model, maps[-1])


def logits(model: Model, x: ArrayLike) -> Array:
    """Network input x [B, H, W] -> logits [B, n_tags]."""
    return dense_layer(model, "head", features(model, x))


def sigmoid(z: Array) -> Array:
    """1 / (1 + exp(-z)), without overflow."""
    return np.exp(-np.logaddexp(0.0, -z))


def scores_of(model: Model, x: ArrayLike) -> Array:
    """Network input x [B, H, W] -> scores [B, n_tags] in [0, 1]."""
    return sigmoid(logits(model, x))


def dense(model: Model, x: ArrayLike) -> Array:
    """Input of a whole track x [1, H, W] -> scores [n_positions, n_tags]: blocks of all, head at every column.

    ``fcntag.engine.dense`` tells its use.
    """
    document = model.document
    axis = 2 + document.frontend.time_axis
    last, columns = blocks(model, x)[-1], document.map_sizes()[-1][axis - 2]
    cut = [np.take(last, range(p, p + columns), axis=axis) for p in range(last.shape[axis] - columns + 1)]
    return np.concatenate([sigmoid(dense_layer(model, "head", embedding(model, y))) for y in cut])


def scores(model: Model, waves: ArrayLike) -> Array:
    """Waves [B, n_samples] at the model's rate -> scores [B, n_tags] in [0, 1]."""
    return scores_of(model, network_input(model, waves))


# ---- unfolded batch-norm with the statistics of the batch, as the Keras 1 releases were published ----


@dataclass(frozen=True, kw_only=True)
class RawBlock:
    """conv -> batch-norm -> ELU -> max-pool (stride = window), unfolded, float64.

    ``weight`` [O, C, 3, 3] is a cross-correlation: kernels of a Theano file come rotated by 180 degrees already.
    ``mean``, ``var`` [O]: frozen or running statistics; None: those of the batch (Keras 1, mode 2).
    """

    weight: NDArray[np.floating]
    bias: NDArray[np.floating]
    gamma: NDArray[np.floating]
    beta: NDArray[np.floating]
    pool: tuple[int, int]
    mean: NDArray[np.floating] | None = None
    var: NDArray[np.floating] | None = None


@dataclass(frozen=True)
class RawResult:
    """``scores`` [B, n_tags]; of each block, ``maps``: pooled output [B, C, H, W], ``stats``: (mean, var) [C]."""

    scores: Array
    maps: list[Array]
    stats: list[tuple[Array, Array]]


def denominator(spread: ArrayLike, eps: float, rule: DenominatorRule) -> Array:
    """The divisor of a batch-norm. ``spread`` is a variance, except for the rule "std".

    "std": spread + eps (a stored ``running_std`` up to Keras 1.0.6 on Theano). "k105": sqrt(var + eps) + eps
    (Keras to 1.0.5, and 1.0.6 on Theano). "k107": sqrt(var) + eps (1.0.7 on Theano). "k11": sqrt(var + eps) (later).
    """
    spread = np.asarray(spread, dtype=np.float64)
    if rule == "std":
        return spread + eps
    if rule == "k107":
        return np.sqrt(spread) + eps
    return np.sqrt(spread + eps) + (eps if rule == "k105" else 0.0)


def batch_statistics_scores(
    raw_blocks: Sequence[RawBlock],
    head_weight: ArrayLike,
    head_bias: ArrayLike,
    x: ArrayLike,
    *,
    eps: float,
    rule: DenominatorRule,
) -> RawResult:
    """Network input x [B, H, W] through unfolded blocks; B matters: every clip's scores depend on the whole batch.

    ``head_weight`` [C, n_tags] (Keras order), ``head_bias`` [n_tags]. The variance of a batch is the biased one.
    """
    y = np.asarray(x, dtype=np.float64)[:, None]
    maps, stats = [], []
    for block in raw_blocks:
        y = conv(y, block.weight, block.bias)
        mean = y.mean(axis=(0, 2, 3)) if block.mean is None else np.asarray(block.mean, np.float64)
        var = y.var(axis=(0, 2, 3)) if block.var is None else np.asarray(block.var, np.float64)
        gain = np.asarray(block.gamma, np.float64) / denominator(var, eps, rule)
        y = (y - mean[:, None, None]) * gain[:, None, None] + np.asarray(block.beta, np.float64)[:, None, None]
        y = max_pool(activate(y, "elu"), block.pool, block.pool)
        maps.append(y)
        stats.append((mean, var))
    z = flatten(y, "chw") @ np.asarray(head_weight, np.float64) + np.asarray(head_bias, np.float64)
    return RawResult(sigmoid(z), maps, stats)
