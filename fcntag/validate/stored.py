"""Stages in a NumPy file: written as a golden of one machine, read as the reference of another.

The keys are ``waves`` [B, n_samples] at the model's rate; ``mel`` [B, H, W], the network's input, normalised, in the
model's layout; ``block1``, ``block2``, ... [B, C, H, W], pooled outputs; ``scores`` [B, n_tags]. One of the first two
must be there. Every stage follows from the one before, so errors add up as in ``tolerances.chained``.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ModelError
from ..model.file import write_atomically
from ..model.npz import read_npz

if TYPE_CHECKING:
    from ..model.document import ModelDocument

Array = np.ndarray[Any, Any]
MAX_BYTES = 2 << 30  # unpacked: 20 windows of the widest network


class StoredError(ModelError):
    """A bad file of stored arrays; the message names it."""


@dataclass
class Stored:
    """The arrays of one file; those that it does not hold are None or missing."""

    path: str
    waves: Array | None = None
    mel: Array | None = None
    blocks: dict[int, Array] = field(default_factory=dict)  # from 1
    scores: Array | None = None

    @property
    def batch(self) -> int:
        """Number of segments."""
        arrays = (self.waves, self.mel, *self.blocks.values(), self.scores)
        return next(len(array) for array in arrays if array is not None)


def read(path: str, document: ModelDocument) -> Stored:
    """Read and check; raises StoredError naming the file and the array for anything that does not fit the model."""
    try:
        arrays = read_npz(path, MAX_BYTES)
    except ModelError as error:
        raise StoredError(f"{path}: {error}") from None
    stored = Stored(path)
    sizes = document.map_sizes()
    shape: tuple[int, ...]
    for key, array in arrays.items():
        match = re.fullmatch(r"block([1-9][0-9]?)", key)
        if key == "waves":
            stored.waves, shape = array, (document.segments.n_samples,)
        elif key == "mel":
            stored.mel, shape = array, sizes[0]
        elif key == "scores":
            stored.scores, shape = array, (len(document.tags),)
        elif match and int(match[1]) <= len(document.blocks):
            i = int(match[1])
            stored.blocks[i], shape = array, (document.blocks[i - 1].out_channels, *sizes[i])
        else:
            known = f"waves, mel, block1 to block{len(document.blocks)}, scores"
            raise StoredError(f"{path}: {key[:80]!r}: unknown array; known: {known}")
        if array.dtype.kind != "f" or array.ndim != len(shape) + 1 or array.shape[1:] != shape or not len(array):
            raise StoredError(
                f"{path}: {key}: {array.dtype} {list(array.shape)}; {document.name} has floats "
                f"[batch, {', '.join(map(str, shape))}]"
            )
        if not np.isfinite(array).all():
            raise StoredError(f"{path}: {key}: holds NaN or infinity")
        if len(array) != stored.batch:
            raise StoredError(f"{path}: {key}: {len(array)} segments, other arrays have {stored.batch}")
    if not stored.blocks and stored.mel is None and stored.scores is None:
        raise StoredError(f"{path}: nothing to compare with: no mel, block1, ... or scores")
    return stored


def write(path: str, stored: Stored) -> None:
    """Write as float32, atomically. Raises ModelError if it cannot be written."""
    arrays = {"waves": stored.waves, "mel": stored.mel, "scores": stored.scores}
    arrays |= {f"block{i}": array for i, array in stored.blocks.items()}
    buffer = io.BytesIO()
    np.savez(buffer, **{key: np.asarray(array, np.float32) for key, array in arrays.items() if array is not None})
    write_atomically(path, buffer.getvalue())


def rounding(array: Array) -> float:
    """Relative error of a value that is stored in the array's type."""
    return float(np.finfo(array.dtype).eps) / 2
