"""A converted model beside stored inputs and outputs of the original: it shares nothing with the conversion.

The file is an ``.npz`` of NumPy. It holds one input and one output, floats, a sample in each row:

============= ============================= =========================================================
``waves``     [B, n_samples]                at the model's rate, as long as its window; the front end is compared too
``input``     [B, H, W], [B, 1, H, W] or    what enters the original network: bands x frames or frames x bands
              [B, H, W, 1]
``scores``    [B, n_tags]                   in the order of the tags
``logits``    [B, n_tags]                   the same before the sigmoid
============= ============================= =========================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine import CpuEngine
from ..errors import ModelError
from ..export.check import normalised
from ..model.activation import sigmoid
from ..model.document import ModelDocument
from ..model.file import Model
from ..model.npz import read_npz

# Largest difference of a score. Both sides compute in float32, in other orders of summation and perhaps in TF32;
# another order of layers, activation or pool changes some score by far more.
SCORES = 2e-4
# Relative L2 of the logits, where the file has them: it sees what a sigmoid near 0 or 1 hides.
LOGITS = 2e-3
# The same from waves: other software computes its own Fourier transform, filters and logarithm in float32.
SCORES_OF_WAVES = 2e-3
LOGITS_OF_WAVES = 2e-2
# A score nearer to 0 or 1 moves little, whatever the network: one score at least must lie between.
_TELLS = 0.01
_MAX_BYTES = 1 << 30  # unpacked
_BATCH = 8
_INPUTS, _OUTPUTS = ("waves", "input"), ("scores", "logits")


@dataclass(frozen=True)
class Checked:
    """What was compared: the input's name, the number of samples, the largest difference of a score."""

    what: str
    samples: int
    scores: float


def check_stored(path: str, document: ModelDocument, tensors: dict[str, np.ndarray], normalises: bool) -> Checked:
    """Compare a converted model with the original's stored results.

    Parameters
    ----------
    path : the ``.npz`` file
    document, tensors : the converted model
    normalises : the original network normalises its input itself, so that ``input`` is not normalised

    Raises
    ------
    ModelError : the file is none of this kind, does not fit the model, or its scores differ; the message begins with
        the path and names the sample and the tag
    """
    try:
        arrays = _read(path)
        what, x = _one_of(arrays, _INPUTS)
        result, expected = _one_of(arrays, _OUTPUTS)
        model = Model(document, tensors, "", "")
        y = _as_waves(x, document) if what == "waves" else _as_input(x, model, normalises)
        n_tags = len(document.tags)
        if expected.shape != (len(x), n_tags):
            raise ModelError(f"{result}: {list(expected.shape)}; {len(x)} samples of {n_tags} tags are needed")
        if result == "scores" and not ((expected > _TELLS) & (expected < 1 - _TELLS)).any():
            raise ModelError(
                f"scores: all within {_TELLS:g} of 0 or 1, where a wrong network is not seen; store logits or other "
                "input"
            )
        scores, logits = _compute(model, y, what == "waves")
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    wanted = expected if result == "scores" else sigmoid(expected)
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(scores - wanted)
        apart[~np.isfinite(apart)] = np.inf
        relative = 0.0
        if result == "logits":
            relative = float(np.linalg.norm(logits - expected) / (np.linalg.norm(expected) or 1.0))
    sample, tag = (int(i) for i in np.unravel_index(np.argmax(apart), apart.shape))
    worst = float(apart[sample, tag])
    allowed = (SCORES_OF_WAVES, LOGITS_OF_WAVES) if what == "waves" else (SCORES, LOGITS)
    if not (worst <= allowed[0] and relative <= allowed[1]):
        also = f"; logits differ by a relative {relative:.1e}, allowed {allowed[1]:.0e}" if result == "logits" else ""
        raise ModelError(
            f"{path}: the converted model gives other scores than those stored: they differ by up to {worst:.1e}, "
            f"allowed {allowed[0]:.0e}, most at sample {sample} (from 0), tag {document.tags[tag]!r}: "
            f"{scores[sample, tag]:.6f}, stored {wanted[sample, tag]:.6f}{also}; nothing was written"
        )
    return Checked(what, len(x), worst)


def _read(path: str) -> dict[str, np.ndarray]:
    arrays = read_npz(path, _MAX_BYTES)
    for key, array in arrays.items():
        if key not in (*_INPUTS, *_OUTPUTS):
            raise ModelError(f"{key[:80]!r}: unknown array; known: {', '.join((*_INPUTS, *_OUTPUTS))}")
        if array.dtype.kind != "f" or array.ndim < 2 or not array.size:
            raise ModelError(f"{key}: {array.dtype} {list(array.shape)}; must be floats, one row for each sample")
        if not np.isfinite(array).all():
            raise ModelError(f"{key}: holds NaN or infinity")
    return arrays


def _one_of(arrays: dict[str, np.ndarray], names: tuple[str, ...]) -> tuple[str, np.ndarray]:
    given = [name for name in names if name in arrays]
    if len(given) != 1:
        raise ModelError(f"{'both' if given else 'neither'} {' and '.join(names)} in it; one is needed")
    array = arrays[given[0]].astype(np.float64)
    if given[0] == "scores" and not ((array >= 0) & (array <= 1)).all():
        raise ModelError("scores: from 0 to 1; values before the sigmoid are called logits")
    return given[0], array


def _as_waves(x: np.ndarray, document: ModelDocument) -> np.ndarray:
    n_samples = document.segments.n_samples
    if x.ndim != 2 or x.shape[1] != n_samples:
        raise ModelError(
            f"waves: {list(x.shape)}; the model's window is {n_samples} samples at {document.frontend.sample_rate} Hz"
        )
    return x.astype(np.float32)


def _as_input(x: np.ndarray, model: Model, normalises: bool) -> np.ndarray:
    """[B, H, W] of the engine, from what enters the original network."""
    frontend = model.document.frontend
    size = model.document.input_size()
    rows, frames = frontend.rows_and_frames(*size)
    shape = x.shape
    if x.ndim == 4 and 1 in (x.shape[1], x.shape[3]):
        x = x[:, 0] if x.shape[1] == 1 else x[..., 0]
    if x.ndim != 3 or x.shape[1:] not in ((rows, frames), (frames, rows)):
        raise ModelError(f"input: {list(shape)}; the network takes {rows} bands x {frames} frames")
    bands_first = frontend.time_axis == 1 if rows == frames else x.shape[1] == rows
    x = x if bands_first else x.transpose(0, 2, 1)
    if normalises:
        return normalised(model, x)
    return np.ascontiguousarray(x if frontend.time_axis == 1 else x.transpose(0, 2, 1), np.float32)


def _compute(model: Model, y: np.ndarray, waves: bool) -> tuple[np.ndarray, np.ndarray]:
    scores: list[Any] = []
    logits: list[Any] = []
    with CpuEngine(model, max_batch=_BATCH, reduce=False) as engine:
        for i in range(0, len(y), _BATCH):
            part = engine.log_mel(y[i : i + _BATCH]) if waves else y[i : i + _BATCH]
            scores.append(engine.scores_of(part))
            logits.append(engine.logits(part))
    return np.concatenate(scores).astype(np.float64), np.concatenate(logits).astype(np.float64)
