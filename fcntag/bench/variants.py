"""The two forms of a network that are timed: the original, and the losslessly reduced one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..reduce import reduce_model

if TYPE_CHECKING:
    from ..model.file import Model


@dataclass(frozen=True)
class Variant:
    """A network as an engine or a peer is given it.

    Attributes
    ----------
    name : "original" or "reduced"
    original : the model whose front end makes the network's input, whichever variant this is
    model : the model whose blocks and head are run
    height, width : the part of the input that the network reads
    multiply_adds : of one window
    """

    name: str
    original: Model
    model: Model
    height: int
    width: int
    multiply_adds: int

    @property
    def n_samples(self) -> int:
        """Samples of one window."""
        return self.original.document.segments.n_samples

    def crop(self, x: np.ndarray) -> np.ndarray:
        """The part of whole inputs [B, H, W] that this network reads."""
        return np.ascontiguousarray(x[:, : self.height, : self.width])

    def min_bytes(self, batch: int) -> float:
        """Bytes that a run of the network has to move at least: float32 weights, input and scores, once each."""
        weights = sum(a.nbytes for name, a in self.model.tensors.items() if not name.startswith("input."))
        return float(weights + 4 * batch * (self.height * self.width + len(self.model.document.tags)))


def original_variant(model: Model) -> Variant:
    """The network as its file has it."""
    document = model.document
    return Variant("original", model, model, *document.input_size(), document.multiply_adds())


def reduced_variant(model: Model) -> Variant:
    """The network without its constant channels, on the part of the input that its scores depend on."""
    small, reduction = reduce_model(model)
    return Variant("reduced", model, small, *reduction.input_after, reduction.macs_after)
