"""The same values in every way that NumPy may lay them out in memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def sliced(array: np.ndarray) -> np.ndarray:
    """Every second value along the last axis of a larger array, whose other values are not finite."""
    wide = np.full((*array.shape[:-1], 2 * array.shape[-1]), np.nan, array.dtype)
    wide[..., ::2] = array
    return wide[..., ::2]


def unaligned(array: np.ndarray) -> np.ndarray:
    """One byte behind the place where a float may lie."""
    memory = np.zeros(array.nbytes + 1, np.uint8)
    moved = memory[1:].view(array.dtype).reshape(array.shape)
    moved[...] = array
    return moved


def read_only(array: np.ndarray) -> np.ndarray:
    fixed = array.copy()
    fixed.setflags(write=False)
    return fixed


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "fortran": lambda a: np.asfortranarray(a) if a.ndim > 1 else sliced(a),
    "negative stride": lambda a: np.ascontiguousarray(a[..., ::-1])[..., ::-1],
    "sliced": sliced,
    "swapped bytes": lambda a: a.astype(a.dtype.newbyteorder("S")),
    "unaligned": unaligned,
    "read-only": read_only,
    "subclass": lambda a: a.view(type("Marked", (np.ndarray,), {})),
}
