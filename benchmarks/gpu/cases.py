"""The cases of benchmarks/gpu/correctness.py: networks of every pool and edge, front ends, inputs, and references."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from support.make_models import block, make_model

from fcntag.model.document import Log
from fcntag.model.file import Model

PRECISIONS = ("float32", "tf32", "float16", "bfloat16")

# The pools (window, and stride where it differs) of the published and the paper's networks, and some of no network.
POOLS: tuple[tuple[tuple[int, int], tuple[int, int] | None], ...] = (
    ((1, 1), None),
    ((2, 2), None),
    ((2, 4), None),
    ((2, 5), None),
    ((3, 4), None),
    ((3, 5), None),
    ((4, 4), None),
    ((4, 5), None),
    ((3, 8), None),
    ((4, 8), None),
    ((4, 16), None),
    ((8, 17), None),
    ((1, 2), None),
    ((1, 4), None),
    ((4, 1), None),
    ((4, 1), (2, 2)),  # the first of musicnn's MTT_vgg
    ((2, 3), (1, 2)),  # windows that overlap
    ((2, 1), (3, 2)),  # and that leave gaps
)
# Input and output channels of the block that is checked: below, at and beyond every tile's edge.
CHANNELS = ((5, 7), (16, 16), (33, 65), (64, 128), (200, 70))


def _spec(*blocks: Any, **options: Any) -> dict[str, Any]:
    """Arguments of make_model."""
    return {"blocks": list(blocks), **options}


def _networks() -> dict[str, dict[str, Any]]:
    """Name -> arguments of make_model. The pool that is checked is in the second block, which tensor cores compute."""
    found: dict[str, dict[str, Any]] = {}
    for i, (window, stride) in enumerate(POOLS):
        for k, (before, after) in enumerate(CHANNELS):
            if (i + k) % 2 == 0 or k == 3:  # half of the pairs, all pools at full tiles
                name = f"pool {window} stride {stride or window}, {before} to {after} channels"
                last = block(after, affine=True, window=window, stride=stride)
                found[name] = _spec(block(before, window=(1, 2)), last, n_mels=37, n_samples=256 * 150)
    for window, stride in POOLS:  # the first block has kernels of its own
        only = block(40, activation="elu", affine=True, window=window, stride=stride)
        found[f"first block, pool {window} stride {stride or window}"] = _spec(only, n_mels=41, n_samples=38000)
    for activation in ("relu", "elu", "none"):
        for flatten in ("chw", "hwc", "max", "mean"):
            found[f"{activation}, {flatten}, 1x1 in the middle"] = _spec(
                block(12, activation=activation, window=(2, 2)),
                block(24, kernel=1, activation=activation, affine=True),
                block(40, activation=activation, window=(4, 7)),
                flatten=flatten,
                n_samples=12000,
            )
    found["deep, one window at the end"] = _spec(
        block(48, window=(2, 1)), block(150, window=(2, 2)), block(512), block(96, window=(4, 7)), n_samples=256 * 16
    )
    found["hidden layers"] = _spec(
        block(40, window=(2, 2)), block(96, window=(2, 4)), hidden=[(1024, "relu"), (100, "elu"), (7, "none")]
    )
    found["hidden layer behind a mean"] = _spec(block(70, window=(2, 2)), flatten="mean", hidden=[(200, "relu")])
    found["single pixel"] = _spec(block(1, window=(20, 16)))
    found["time by mel"] = _spec(
        block(40, window=(4, 1), stride=(2, 2)), block(64, window=(2, 2)), layout="time_mel", flatten="hwc"
    )
    return found


NETWORKS = _networks()
# The networks that the emulator gets.
SMALL = {
    "overlap": _spec(block(17, affine=True, window=(4, 1), stride=(2, 2)), block(20, activation="elu", window=(2, 3))),
    "mean, hidden": _spec(block(9, window=(4, 4)), flatten="mean", hidden=[(20, "elu"), (5, "relu")]),
    "1x1, maximum": _spec(block(3, kernel=1, window=(2, 2)), block(24, window=(3, 5)), flatten="max"),
}
# The networks that compute-sanitizer watches.
ONCE = ("pool (2, 4) stride (2, 4), 33 to 65 channels", "relu, chw, 1x1 in the middle", "deep, one window at the end")

FRONT_ENDS: dict[str, dict[str, Any]] = {  # name -> arguments of tiny
    "centre, reflected": {},
    "floor below the maximum": {"log": Log(kind="db", amin=1e-10, ref="max", top_db=30.0), "normalization": "scalar"},
    "log10p1 of float16, valid": {
        "framing": "valid",
        "rounding": "float16",
        "log": Log(kind="log10p1", gain=1e4),
        "layout": "time_mel",
    },
    "zeros, HTK, squared": {"pad_mode": "constant", "mel_scale": "htk", "mel_norm": "none", "power_exponent": 2},
    "Theano": {"framing": "same_theano", "window": "hann_reversed", "pad_mode": "constant", "normalization": "per_mel"},
    "TensorFlow": {"framing": "same_tensorflow", "pad_mode": "constant", "normalization": "per_frame"},
    "standardised": {"normalization": "standardize", "log": Log(kind="db", amin=1e-7, top_db=60.0)},
    "STFT of 256 points": {
        "kind": "stft",
        "n_fft": 256,
        "n_bins": 128,
        "first_bin": 1,
        "merged_bins": 1,
        **{"n_mels": 0, "fmin": 0.0, "fmax": 0.0, "mel_norm": "none"},  # an STFT has no bands
        "normalization": "per_mel",
    },
    "MFCC, floored": {
        "kind": "mfcc",
        "n_mels": 96,
        "n_mfcc": 30,
        "log": Log(kind="db", amin=1e-10, top_db=80.0),
        "normalization": "per_mel",
    },
    # What the general kernel computes: other lengths, magnitudes, other logarithms.
    "400 points, HTK": {
        "n_fft": 400,
        "hop_length": 160,
        "window": "hamming",
        "mel_scale": "htk",
        "log": Log(kind="ln", offset=1e-6),
    },
    "2048 points, a short window": {
        "n_fft": 2048,
        "win_length": 1200,
        "hop_length": 512,
        "n_mels": 128,
        "log": Log(kind="db", amin=1e-10, top_db=80.0),
    },
    "VGGish": {
        "win_length": 400,
        "hop_length": 160,
        "framing": "valid",
        "pad_mode": "constant",
        "win_position": "start",
        "spectrum": "magnitude",
        "n_mels": 64,
        "fmin": 125.0,
        "fmax": 7500.0,
        "mel_scale": "tensorflow",
        "mel_norm": "none",
        "log": Log(kind="ln", offset=0.01),
        "layout": "time_mel",
    },
    "TensorFlow's own end": {
        "n_fft": 1024,
        "win_length": 801,
        "hop_length": 1000,
        "framing": "pad_end",
        "pad_mode": "constant",
        "window": "hamming_symmetric",
        "win_position": "start",
        "log": Log(kind="log1p", gain=1e4),
    },
    "an odd length with a large prime, each band by itself": {
        "n_fft": 2207,  # whose convolution is too long for the shared memory of any GPU so far
        "hop_length": 441,
        "window": "hann_symmetric",
        "mel_norm": "sum",
        "log": Log(kind="log10", amin=1e-10),
        "normalization": "standardize_per_mel",
    },
    "8192 points of STFT, 35 together, no logarithm": {
        "kind": "stft",
        "n_samples": 10000,
        "n_fft": 8192,
        "hop_length": 1000,
        "spectrum": "magnitude",
        "n_bins": 117,
        "first_bin": 1,
        "merged_bins": 35,
        **{"n_mels": 0, "fmin": 0.0, "fmax": 0.0, "mel_norm": "none"},
        "log": Log(kind="none"),
        "normalization": "standardize",
    },
    "MFCC of 600 points": {
        "kind": "mfcc",
        "n_fft": 600,
        "hop_length": 300,
        "n_mels": 40,
        "n_mfcc": 13,
        "log": Log(kind="ln", amin=1e-10),
    },
    "hops beyond 64 points": {"n_fft": 64, "hop_length": 100, "n_mels": 9, "power_exponent": 2},
}


# The whole models, those that matter most first, with the mean and deviation of their network's inputs.
WHOLE = {
    "fcn4": (-1.0, 0.74),
    "fcn5-narrow": (-1.0, 0.74),
    "mtt-vgg": (-0.2, 0.8),
    "fcn5": (-1.0, 0.74),
    "msd-vgg": (-2.8, 1.7),
    "fcn3": (-1.0, 0.74),
    "fcn4-stft": (-1.2, 0.7),
    "fcn4-mfcc": (0.0, 0.63),
}


def rng_of(name: str) -> np.random.Generator:
    """Random numbers of the case ``name``: the others, and their order, do not change them."""
    return np.random.default_rng(list(name.encode()))


def network(name: str) -> Model:
    """The network ``name`` of NETWORKS or SMALL, the same each time."""
    return make_model(rng_of(name), **(NETWORKS | SMALL)[name])


def inputs(name: str, model: Model, count: int, mean: float = 0.0, deviation: float = 1.0) -> np.ndarray:
    """Network inputs [count, H, W] of the case ``name``, uniform noise: every machine makes the same bits."""
    noise = rng_of(f"{name}, inputs").random((count, *model.document.input_size()), np.float32)
    return np.float32(mean) + np.float32(deviation * 12**0.5) * (noise - np.float32(0.5))


def tiny(n_samples: int = 8000, **frontend: Any) -> Model:
    """Two small blocks behind a front end with these settings."""
    blocks = [block(12, window=(2, 2)), block(20, window=(2, 4), activation="elu", affine=True)]
    return make_model(np.random.default_rng(3), blocks, n_samples=n_samples, **frontend)


def sounds(name: str, model: Model, count: int) -> np.ndarray:
    """Clips [count, n_samples] of the case ``name``: four voices of plucked notes over noise at about -40 dB.

    The noise keeps every band above the logarithm's floor, where float32 says nothing about a transform's quality.
    Integers make it, so every machine makes the same bits.
    """
    n_samples, rate = model.document.segments.n_samples, model.document.frontend.sample_rate
    rng, t = rng_of(f"{name}, sounds"), np.arange(n_samples, dtype=np.int64)
    clips = rng.integers(-1200, 1200, (count, n_samples))
    for clip in clips:
        for voice in range(4):
            length = rate // (2 + voice)  # of a note
            notes = rng.integers(60 << voice, 120 << voice, n_samples // length + 1)  # Hz
            phase = (t * ((notes[t // length] << 16) // rate)) & 0xFFFF
            envelope = 1024 - (t % length) * 1024 // length
            clip += (np.abs(phase - 0x8000) - 0x4000) * envelope >> 10  # a triangle, and its overtones
    return (clips / np.float32(1 << 17)).astype(np.float32)


def pcm_sounds(model: Model) -> Iterator[tuple[str, int, np.ndarray, np.ndarray]]:
    """Name, rate, PCM [2, n_in, n_channels] of other rates, and the mono waves [2, n_samples] that it resamples to."""
    from fcntag.engine import resample_filter

    rate, n_samples = model.document.frontend.sample_rate, model.document.segments.n_samples
    for own, channels in ((44100, 2), (48000, 1), (22050, 2)):
        name = f"PCM at {own} Hz, {channels} channels"
        shape = (2, -(-n_samples * own // rate), channels)
        pcm = rng_of(name).random(shape, np.float32) - np.float32(0.5)
        yield name, own, pcm, np.stack([resample_filter.resample(clip, own, rate)[:n_samples] for clip in pcm])


@contextlib.contextmanager
def installed(core: Any) -> Iterator[None]:
    """Put ``core`` in the place of ``fcntag._cuda`` within the block; None leaves the module that is there."""
    if core is None:
        yield
        return
    import fcntag
    from fcntag.engine import cuda_core

    missing = object()
    saved = sys.modules.get("fcntag._cuda"), getattr(fcntag, "_cuda", missing), cuda_core._started_in
    sys.modules["fcntag._cuda"] = fcntag._cuda = core  # type: ignore[attr-defined]
    cuda_core._started_in = None
    try:
        yield
    finally:
        if saved[0] is None:
            del sys.modules["fcntag._cuda"]
        else:
            sys.modules["fcntag._cuda"] = saved[0]
        if saved[1] is missing:
            del fcntag._cuda  # type: ignore[attr-defined]
        else:
            fcntag._cuda = saved[1]  # type: ignore[attr-defined]
        cuda_core._started_in = saved[2]


# ---- references ----


def logits_of(model: Model, last: np.ndarray) -> np.ndarray:
    """Logits [B, n_tags] of the last block's maps [B, C, H, W], in float64."""
    from fcntag import oracle

    return oracle.dense_layer(model, "head", oracle.embedding(model, last))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-logits)), without overflow."""
    return np.exp(-np.logaddexp(0.0, -logits))


def largest_logit(scores: np.ndarray) -> float:
    """The largest |logit| of scores, 37 at most: float64 has no score nearer to 1."""
    nearest = max(float(np.minimum(scores, 1 - scores).min()), 1e-16)
    return float(np.log((1 - nearest) / nearest))


def rounded_to(values: np.ndarray, precision: str) -> np.ndarray:
    """``values`` rounded to the type's precision, as float64: 11 bits for tf32 and float16, 8 for bfloat16.

    float16 also has its range: subnormal numbers and the largest one count.
    """
    values = np.asarray(values, np.float64)
    if precision == "float16":
        return np.clip(values, -65504.0, 65504.0).astype(np.float16).astype(np.float64)
    mantissa, exponent = np.frexp(values)
    bits = {"tf32": 11, "bfloat16": 8}[precision]
    return np.ldexp(np.round(np.ldexp(mantissa, bits)), exponent - bits)


def rounded_blocks(model: Model, x: np.ndarray, precision: str) -> list[np.ndarray]:
    """The oracle's maps [B, C, H, W], with every block's input and weights rounded to ``precision``."""
    from fcntag import oracle

    maps, y = [], np.asarray(x, np.float64)[:, None]
    for i, one in enumerate(model.document.blocks):
        tensors = dict(model.tensors)
        tensors[f"blocks.{i}.weight"] = rounded_to(model.tensors[f"blocks.{i}.weight"], precision)
        y = oracle.one_block(one, tensors, i, rounded_to(y, precision))
        if precision != "tf32":  # tf32 keeps its maps in float32
            y = rounded_to(y, precision)
        maps.append(y)
    return maps


def mfcc_reference(log_mel: np.ndarray, n_mfcc: int, width: int = 9) -> np.ndarray:
    """Log-mel [B, n_mels, T] -> coefficients, deltas, delta-deltas [B, 3 * n_mfcc, T], by definition, in float64."""
    n_mels, n_frames = log_mel.shape[1:]
    k, n = np.arange(n_mfcc)[:, None], np.arange(n_mels)[None, :]
    dct = np.sqrt(2.0 / n_mels) * np.cos(np.pi * k * (2 * n + 1) / (2 * n_mels))
    dct[0] = np.sqrt(1.0 / n_mels)
    coefficients = np.matmul(dct, log_mel.astype(np.float64))
    parts, half = [coefficients], width // 2
    offsets = np.arange(width) - half
    for order in (1, 2):  # the first derivative of a line, the second of a parabola, fitted to each window
        fit = np.linalg.pinv(np.vander(offsets, order + 1, increasing=True))[order] * order
        middle = np.lib.stride_tricks.sliding_window_view(coefficients, width, axis=2) @ fit
        # Beyond the last whole window its fit goes on, and these derivatives are constant along it.
        at = np.clip(np.arange(n_frames) - half, 0, n_frames - width)
        parts.append(middle[:, :, at])
    return np.concatenate(parts, axis=1)


def top_gap(actual: np.ndarray, expected: np.ndarray, top: int = 5) -> float:
    """Largest distance in ``expected`` between tags that ``actual`` has at another place among the best.

    It is 0 if both have the same order.
    """
    if not np.isfinite(actual).all():
        return float("inf")
    ranks = (np.argsort(-scores, kind="stable")[:top] for scores in (actual, expected))
    return float(max(abs(expected[i] - expected[j]) for i, j in zip(*ranks, strict=True)))


def from_device_arrays(engine: Any, waves: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Scores of ``waves`` in device arrays of each library that is installed; [] on the emulator."""
    found: list[tuple[str, np.ndarray]] = []
    if not engine.device.startswith("cuda"):
        return found
    n_tags = len(engine.document.tags)
    with contextlib.suppress(ImportError):
        import torch

        if torch.cuda.is_available():
            stream = torch.cuda.Stream(engine.device)
            with torch.cuda.stream(stream):
                out = torch.full((len(waves), n_tags), float("nan"), device=engine.device)
                engine.scores(torch.from_numpy(waves).to(engine.device), out=out)  # on PyTorch's current stream
            stream.synchronize()
            found.append(("PyTorch", out.cpu().numpy()))
    with contextlib.suppress(ImportError):
        import cupy

        found.append(("CuPy", cupy.asnumpy(engine.scores(cupy.asarray(waves)))))
    return found
