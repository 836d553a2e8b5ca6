"""Dense evaluation: a track of any length goes through the blocks once, and the head slides over the last map.

What is computed: the front end of the whole track (with the zeros that the segment rule puts around it; a maximum, mean
or deviation is the whole track's), the blocks of the whole of it, and at every column of the last map where a window's
worth of columns begins, the head, as a convolution. Neighbouring positions share all work below the head.

The scores of a position are not bit for bit those of a window cut out there: a window has zero padding and, with
framing "center", reflected samples at its own ends, the track only at the track's. They are equal where neither
exists (1 x 1 kernels, unpadded frames that stand alone); elsewhere they differ by what the border of a window costs.

The step between positions is the product of the pools' strides in time: what a network has, not a setting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import DeviceError
from .pipeline.dense_plan import DensePlan, plan_dense

if TYPE_CHECKING:
    from .engine import Engine
    from .model.document import ModelDocument
    from .model.file import Model

# Of the network's input at a time, or three windows: some hundred MB of maps in the widest network. Every length of a
# part packs the weights anew, so a song is best one part.
CHUNK_FRAMES = 16384


def check_device(engine: Engine) -> None:
    """Raise DeviceError where the engine is not on the CPU."""
    if engine.device != "cpu":
        raise DeviceError(f"dense evaluation is built for the CPU; this model is on {engine.device}")


def dense_scores(engine: Engine, wave: np.ndarray) -> np.ndarray:
    """Scores [n_positions, n_tags], float32, of a track [n_samples] at the model's rate; see the module.

    Raises ModelError, AudioError as :func:`plan_dense`; ValueError for another shape; DeviceError on a GPU.
    """
    document = engine.document
    check_device(engine)
    wave = np.asarray(wave, np.float32)
    if wave.ndim != 1:
        raise ValueError(f"wave has shape {wave.shape}; it must be [n_samples]")
    plan = plan_dense(document, len(wave))
    trail = document.segments.trail if document.segments.rule == "hop" else 0
    x = engine.whole_input(np.pad(wave, (plan.lead, trail))[None])
    # What channel reduction proves holds for inputs of any length, but for a deviation over more values.
    model = engine.original if document.frontend.normalization == "standardize" else engine.running
    logits = np.concatenate([_head(model, plan, part) for part in _last_maps(engine, model, plan, x)])
    return _sigmoid(logits).astype(np.float32)


def _last_maps(engine: Engine, model: Model, plan: DensePlan, x: np.ndarray) -> Any:
    """The last map [C, h, w] of the track, in parts that begin ``window_columns - 1`` before the last one's end.

    A part is computed from the frames that its columns see. The first columns, which an inner edge's zero padding
    reaches, are computed too and dropped; what begins at a multiple of the step has its pooling windows where the whole
    track has them.
    """
    axis = model.document.frontend.time_axis
    positions = max(1, max(CHUNK_FRAMES, 3 * model.document.input_size()[axis]) // plan.step_frames)
    networks: dict[tuple[int, int], Any] = {}
    for first in range(0, plan.n_positions, positions):
        end = min(first + positions, plan.n_positions) + plan.window_columns - 1
        drop = min(first, _reached(model.document, axis))
        begin_frame = (first - drop) * plan.step_frames
        end_frame = min(plan.n_frames, begin_frame + _seen(model.document, axis, end - first + drop))
        part = np.ascontiguousarray(x.take(range(begin_frame, end_frame), axis=1 + axis))
        size = part.shape[1:]
        if size not in networks:
            networks.clear()  # the last part alone is of another size
            networks[size] = engine.map_network(model, *size)
        h, w = model.document.sizes_from(*size)[-1]
        found = engine.run_network(networks[size], part, features=True)["features"].reshape(-1, h, w)
        yield found.take(range(drop, drop + end - first), axis=1 + axis)


def _reached(document: ModelDocument, axis: int) -> int:
    """How many of the last map's first columns the zeros before an inner edge reach."""
    columns = 0
    for block in document.blocks:
        columns = -(-(columns + block.kernel // 2) // block.pool.stride[axis])
    return columns


def _seen(document: ModelDocument, axis: int, columns: int) -> int:
    """How many input frames the first ``columns`` of the last map see."""
    for block in reversed(document.blocks):
        columns = (columns - 1) * block.pool.stride[axis] + block.pool.window[axis] + block.kernel // 2
    return columns


def _head(model: Model, plan: DensePlan, last: np.ndarray) -> np.ndarray:
    """Logits [n_positions, n_tags], float64, of a part of the last map [C, h, w]."""
    axis, order = model.document.frontend.time_axis, model.document.head.flatten
    windows = np.lib.stride_tricks.sliding_window_view(last, plan.window_columns, axis=1 + axis)  # [C, h, w, window]
    windows = np.moveaxis(windows, 1 + axis, 0)  # [position, C, the other side, window]
    if axis == 0:
        windows = windows.swapaxes(2, 3)
    if order == "max":
        features = windows.max(axis=(2, 3))
    else:
        features = (windows if order == "chw" else windows.transpose(0, 2, 3, 1)).reshape(len(windows), -1)
    weight, bias = (model.tensors[f"head.{name}"].astype(np.float64) for name in ("weight", "bias"))
    return features.astype(np.float64) @ weight.T + bias


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -z))
