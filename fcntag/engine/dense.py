"""Dense evaluation: a track of any length goes through the blocks once, and the head slides over the last map.

The front end computes the whole track, with the zeros that the segment rule puts around it; a maximum, mean or
deviation is that of the whole track. The blocks compute the whole of its log-mel. The head is then a convolution: it
runs at every column of the last map where a window's worth of columns begins. Neighbouring positions share all work
below the head. ``fcntag.pipeline.dense_plan`` tells where the positions lie.

The scores of a position are not bit for bit those of a window cut out there. A window has zero padding at its own ends
and, with framing "center", reflected samples; the track has them only at the track's ends. The two are equal where
neither exists (1 x 1 kernels, unpadded frames that stand alone). Elsewhere they differ by the effect of a border.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DeviceError
from ..model.activation import activate, sigmoid
from ..pipeline.dense_plan import DensePlan, plan_dense
from .cpu import CpuEngine

if TYPE_CHECKING:
    from ..model.document import ModelDocument
    from ..model.file import Model
    from .base import Engine

# Frames of the input that go through the blocks at a time, at least three windows. More would take over some hundred MB
# of maps in the widest network. Fewer would cut a song into parts, and each length of a part packs the weights anew.
CHUNK_FRAMES = 16384


def check_engine(engine: Engine) -> CpuEngine:
    """``engine``, if it can evaluate whole tracks; raises DeviceError where it computes on a GPU."""
    if not isinstance(engine, CpuEngine):
        raise DeviceError(f"dense evaluation is built for the CPU; this model is on {engine.device}")
    return engine


def dense_scores(engine: Engine, wave: np.ndarray) -> np.ndarray:
    """Scores of every position of a track.

    Parameters
    ----------
    wave : float32 [n_samples] at the model's rate

    Returns
    -------
    float32 [n_positions, n_tags]

    Raises
    ------
    ModelError, AudioError : as :func:`plan_dense`
    ValueError : another shape
    DeviceError : the engine computes on a GPU
    """
    engine = check_engine(engine)
    document = engine.document
    wave = np.asarray(wave, np.float32)
    if wave.ndim != 1:
        raise ValueError(f"wave has shape {wave.shape}; it must be [n_samples]")
    plan = plan_dense(document, len(wave))
    trail = document.segments.trail if document.segments.rule == "hop" else 0
    x = engine.track_rows(np.pad(wave, (plan.lead, trail))[None])
    # The proof of channel reduction holds for inputs of any length, unless they are divided by a deviation over all of
    # their values, or of a row's.
    model = engine.whole_model if document.frontend.standardized_axes else engine.needed_model
    logits = np.concatenate([_head(model, plan, part) for part in _last_maps(engine, model, plan, x)])
    return sigmoid(logits).astype(np.float32)


def _last_maps(engine: CpuEngine, model: Model, plan: DensePlan, x: np.ndarray) -> Any:
    """The last map [C, h, w] of the track, in parts that begin ``window_columns - 1`` before the last one's end.

    A part is computed from the frames that its columns see. The zero padding of an inner edge reaches its first
    columns, which are computed too and dropped. A part begins at a multiple of the step, so that its pooling windows
    lie where those of the whole track do.
    """
    axis = model.document.frontend.time_axis
    positions = max(1, max(CHUNK_FRAMES, 3 * model.document.input_size()[axis]) // plan.step_frames)
    networks: dict[tuple[int, int], Any] = {}
    for first in range(0, plan.n_positions, positions):
        end = min(first + positions, plan.n_positions) + plan.window_columns - 1
        drop = min(first, _reached(model.document, axis))
        begin_frame = (first - drop) * plan.step_frames
        end_frame = min(plan.n_frames, begin_frame + _frames_of(model.document, axis, end - first + drop))
        part = np.ascontiguousarray(x.take(range(begin_frame, end_frame), axis=1 + axis))
        size = part.shape[1:]
        if size not in networks:
            networks.clear()  # only the last part has another size
            networks[size] = engine.map_network(model, *size)
        h, w = model.document.sizes_from(*size)[-1]
        found = engine.last_map(networks[size], part).reshape(-1, h, w)
        yield found.take(range(drop, drop + end - first), axis=1 + axis)


def _reached(document: ModelDocument, axis: int) -> int:
    """How many of the last map's first columns the zeros before an inner edge reach."""
    columns = 0
    for block in document.blocks:
        columns = -(-(columns + block.kernel // 2) // block.pool.stride[axis])
    return columns


def _frames_of(document: ModelDocument, axis: int, columns: int) -> int:
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
    elif order == "mean":
        features = windows.mean(axis=(2, 3), dtype=np.float64)
    else:
        features = (windows if order == "chw" else windows.transpose(0, 2, 3, 1)).reshape(len(windows), -1)
    y = features.astype(np.float64)
    for i, layer in enumerate(model.document.head.hidden):
        y = activate(_dense(model, f"head.hidden.{i}", y), layer.activation)
    return _dense(model, "head", y)


def _dense(model: Model, stem: str, x: np.ndarray) -> np.ndarray:
    weight, bias = (model.tensors[f"{stem}.{name}"].astype(np.float64) for name in ("weight", "bias"))
    found: np.ndarray = x @ weight.T + bias
    return found
