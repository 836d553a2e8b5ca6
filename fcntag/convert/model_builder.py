"""Building a model tensor by tensor: a tensor that is unset, unknown, wrongly shaped or not finite is refused."""

from __future__ import annotations

import dataclasses

import numpy as np

from ..errors import ModelError
from ..model.document import ModelDocument


class ModelBuilder:
    """Collects every tensor that ``document`` needs, in float64. The end casts them to float32.

    >>> builder = ModelBuilder(document)
    >>> builder.set("blocks.0.weight", weight)
    >>> document, tensors = builder.build()
    """

    def __init__(self, document: ModelDocument) -> None:
        self.document = document.validate()
        self._shapes = self.document.tensor_shapes()
        self._values: dict[str, np.ndarray] = {}

    def set(self, name: str, value: np.ndarray) -> None:
        """Set tensor ``name``; raises ModelError if it is unknown, set already, wrongly shaped or not finite."""
        if name not in self._shapes:
            raise ModelError(f"{name}: the model has no such tensor; it has: {', '.join(self._shapes)}")
        if name in self._values:
            raise ModelError(f"{name}: set twice")
        array = np.asarray(value)
        if array.dtype.kind not in "fiu":
            raise ModelError(f"{name}: dtype is {array.dtype}; must be a real number type")
        if array.shape != self._shapes[name]:
            raise ModelError(f"{name}: shape is {list(array.shape)}; the model needs {list(self._shapes[name])}")
        array = array.astype(np.float64)
        if not np.isfinite(array).all():
            raise ModelError(f"{name}: holds NaN or infinity")
        self._values[name] = array

    def build(self) -> tuple[ModelDocument, dict[str, np.ndarray]]:
        """The document and its float32 tensors; raises ModelError if one is unset or does not fit into float32.

        float32 denormals become zero. They are too small to change a score, and a CPU that does not flush them
        computes with them slowly. A note in the document counts them.
        """
        unset = [name for name in self._shapes if name not in self._values]
        if unset:
            raise ModelError(f"{', '.join(unset)}: not set by the converter")
        tensors = {}
        flushed = 0
        for name in self._shapes:
            with np.errstate(over="ignore", under="ignore"):
                array = self._values[name].astype(np.float32)
            if not np.isfinite(array).all():
                raise ModelError(f"{name}: a value does not fit into float32")
            denormal = (array != 0) & (np.abs(array) < np.finfo(np.float32).tiny)
            # Values that the cast itself underflowed to zero were just as small, and count.
            flushed += int(denormal.sum()) + int(((array == 0) & (self._values[name] != 0)).sum())
            array[denormal] = 0.0
            tensors[name] = array
        document = self.document
        if flushed:
            plural = "s were" if flushed > 1 else " was"
            note = f"{flushed} weight{plural} smaller than float32's smallest normal number and set to zero."
            document = dataclasses.replace(document, notes=(*document.notes, note))
        return document, tensors
