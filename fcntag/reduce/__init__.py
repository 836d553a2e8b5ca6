"""The lossless model compiler: work that cannot change a score is taken out before the network runs.

Four reductions, each proven rather than assumed:

* **Channels that are constant** whatever is played are removed. Their values matter to the next block only as a sum,
  so one *carrier* channel takes their place: weights 0, bias 1, hence 1 everywhere in the map and 0 in the next
  convolution's zero padding, exactly like the constants that it stands for. Biases stay as they are, the head's too: a
  small constant added to one would be rounded to the spacing of float32 at the bias, far coarser than its own.
* **Channels that nothing reads** (their outgoing weights are negligible) are removed and replaced by 0.
* **Denormal weights** become 0.
* **Rows and columns of the input that floor pooling can never see** need not be computed: :func:`needed_input`.

The proof for the first three is interval arithmetic in float64: every value the front end can give bounds every
channel of every block, and the absolute weights from there to the scores bound what a deviation can do to a score
(activations and max-pooling never enlarge one; a sigmoid divides it by at least 4). What is removed changes no score by
more than ``tolerance`` altogether, in exact arithmetic, whatever is played (but not for a network input that no sound
can give). Not in that bound: rounding the carrier's weights to float32, some 6e-8 of what the constants do together.

A constant that is not 0 leaves channels of the next 3x3 block constant only away from the border; those stay.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .channels import TOLERANCE, BlockReduction, reduce_channels
from .crop import needed_input, needed_macs, needed_samples

if TYPE_CHECKING:
    from ..model.file import Model

__all__ = ["Reduction", "needed_input", "reduce_channels", "reduce_model"]


@dataclass(frozen=True)
class Reduction:
    """Everything that :func:`reduce_model` found.

    Attributes:
        flatten: the head's order, for :meth:`restore_features`.
        hidden: whether hidden layers stand between the last map and the features that a caller gets.
        blocks: per block, channels before and after and why.
        input_before, input_after: (H, W) of the network's input, and of its part at the top left that is ever needed.
        samples_before, samples_after: length of a segment, and how much of its start the needed frames reach.
            Equal where the front end needs the whole segment for a maximum, mean or deviation.
        macs_before: multiply-adds of a segment, every convolution output counted.
        macs_after: those that can reach a score: kept channels, convolution outputs that a pooling window covers.
        denormals_flushed: weights below the smallest normal float32 that were set to 0.
        score_bound: proven bound on the change of any score, see the module.
    """

    flatten: Literal["chw", "hwc", "max", "mean"]
    hidden: bool
    blocks: tuple[BlockReduction, ...]
    input_before: tuple[int, int]
    input_after: tuple[int, int]
    samples_before: int
    samples_after: int
    macs_before: int
    macs_after: int
    denormals_flushed: int
    score_bound: float

    def restore_features(self, features: np.ndarray) -> np.ndarray:
        """Features [B, F'] that enter the reduced last dense layer -> [B, F] of the original one, same order."""
        if self.hidden:
            return features
        last = self.blocks[-1]
        batch, positions = len(features), features.shape[1] // last.channels_after
        if self.flatten == "hwc":
            maps = last.restore(features.reshape(batch, positions, last.channels_after), axis=2)
        else:
            maps = last.restore(features.reshape(batch, last.channels_after, positions))
        return maps.reshape(batch, last.channels_before * positions)

    def lines(self) -> list[str]:
        """One line per reduction, for people."""
        out = []
        for i, block in enumerate(self.blocks):
            why = [f"{getattr(block, kind)} {kind}" for kind in ("dead", "constant", "unused") if getattr(block, kind)]
            if why:
                carrier = ", 1 carrier added" if block.carrier else ""
                out.append(
                    f"block {i}: {block.channels_before} -> {block.channels_after} channels ({', '.join(why)}{carrier})"
                )
        if self.input_after != self.input_before:
            before, after = ("{} x {}".format(*size) for size in (self.input_before, self.input_after))
            out.append(f"input: {before} -> {after}; pooling never sees the rest")
        if self.samples_after != self.samples_before:
            out.append(f"samples of a segment: {self.samples_before} -> {self.samples_after}")
        if self.denormals_flushed:
            out.append(f"denormal weights set to 0: {self.denormals_flushed}")
        if not out:
            return ["nothing to reduce"]
        before, after = (f"{n / 1e6:.1f}" for n in (self.macs_before, self.macs_after))
        out.append(f"multiply-adds of a segment: {before} -> {after} million")
        out.append(f"proven change of any score, before rounding: at most {self.score_bound:.2g}")
        return out

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: counts and sizes, without the lists of channels."""
        out = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name not in ("blocks", "flatten", "hidden")
        }
        for name in ("input_before", "input_after"):
            out[name] = list(out[name])
        counts = ("channels_before", "channels_after", "dead", "constant", "unused", "carrier")
        out["blocks"] = [{name: getattr(block, name) for name in counts} for block in self.blocks]
        return out


def reduce_model(model: Model, *, tolerance: float = TOLERANCE) -> tuple[Model, Reduction]:
    """:func:`reduce_channels`, and what cropping the input by :func:`needed_input` saves on top.

    The document keeps its front end: whoever runs the reduced model crops the input. Returns ``model`` itself where
    no channel and no weight changes. Arguments and errors are those of :func:`reduce_channels`.
    """
    reduced, channels = reduce_channels(model, tolerance=tolerance)
    document = model.document
    height, width = document.input_size()
    needed = needed_input(document, height, width)
    return reduced, Reduction(
        flatten=document.head.flatten,
        hidden=bool(document.head.hidden),
        blocks=channels.blocks,
        input_before=(height, width),
        input_after=needed,
        samples_before=document.segments.n_samples,
        samples_after=needed_samples(document, needed),
        macs_before=document.multiply_adds(),
        macs_after=needed_macs(reduced.document),
        denormals_flushed=channels.denormals_flushed,
        score_bound=channels.score_bound,
    )
