"""Channels that are constant or unused, and denormal weights: taken out, with a proven bound on every score's change.

``fcntag.reduce`` states the proof.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .ranges import ChannelRange, affine, channel_ranges, sum_taps

if TYPE_CHECKING:
    from ..model.document import ModelDocument
    from ..model.file import Model


TOLERANCE = 1e-10
_SMALLEST_NORMAL = np.finfo(np.float32).smallest_normal


@dataclass(frozen=True)
class BlockReduction:
    """The change of one block's output channels.

    Attributes:
        channels_before: output channels of the original.
        kept: original index of the reduced block's channels, in order; the carrier, if there is one, follows them.
        removed: (original index, value that replaces the channel) of the others.
        dead: how many of ``removed`` a ReLU holds at 0 for every input.
        constant: how many move too little to matter.
        unused: how many move, but are read by nothing that matters; their value is 0.
        carrier: whether one more channel, constantly 1, stands for the removed ones.
    """

    channels_before: int
    kept: tuple[int, ...]
    removed: tuple[tuple[int, float], ...] = ()
    dead: int = 0
    constant: int = 0
    unused: int = 0
    carrier: bool = False

    @property
    def channels_after(self) -> int:
        """Output channels of the reduced block, the carrier included."""
        return len(self.kept) + self.carrier

    def restore(self, maps: np.ndarray, axis: int = 1) -> np.ndarray:
        """Reduced maps or features, ``channels_after`` along ``axis``, with the original's channels in their places."""
        maps = np.moveaxis(maps, axis, 0)
        out = np.empty((self.channels_before, *maps.shape[1:]), maps.dtype)
        out[list(self.kept)] = maps[: len(self.kept)]
        for channel, value in self.removed:
            out[channel] = value
        return np.ascontiguousarray(np.moveaxis(out, 0, axis))


@dataclass(frozen=True)
class ChannelReduction:
    """Result of :func:`reduce_channels`: ``blocks``, flushed weights, and the proven bound on any score's change."""

    blocks: tuple[BlockReduction, ...]
    denormals_flushed: int
    score_bound: float


def reduce_channels(
    model: Model, *, tolerance: float = TOLERANCE, exact: bool = False
) -> tuple[Model, ChannelReduction]:
    """Remove output channels that are constant or unused, and denormal weights; see the module for the proof.

    Args:
        model: checked, as from ``read_model``.
        tolerance: largest change of any score in [0, 1] that may be provoked, proven, in exact arithmetic; >= 0.
            At 0 only what cannot change a score at all is removed: channels that a ReLU holds at 0, and the like.
        exact: keep the carrier's weights in float64, for the oracle (an engine needs float32).

    Returns:
        The reduced model, with the name, sha256 and path of the original and a validated document; ``model`` itself
        where there is nothing to do. A block is left alone where removing saves no channel.

    Raises:
        ValueError: ``tolerance`` is negative or not finite.
    """
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"tolerance={tolerance}; must be finite and at least 0")
    with np.errstate(over="ignore", invalid="ignore"):  # inf and NaN bounds are no bounds: such a channel stays
        plan, tensors, flushed, spent = _plan(model, channel_ranges(model), tolerance)
    report = ChannelReduction(tuple(plan), flushed, spent)
    if not flushed and not any(block.removed for block in plan):
        return model, report
    tensors = _rebuild(model.document, tensors, plan, np.float64 if exact else np.float32)
    for array in tensors.values():
        array.flags.writeable = False
    return dataclasses.replace(model, document=_reduced_document(model.document, plan), tensors=tensors), report


def _head_weights(document: ModelDocument, weight: np.ndarray) -> np.ndarray:
    """The weights of the first dense layer as [outputs, C, positions], a view."""
    channels = document.blocks[-1].out_channels
    if document.head.flatten == "hwc":
        return weight.reshape(len(weight), -1, channels).transpose(0, 2, 1)
    return weight.reshape(len(weight), channels, -1)


def _plan(
    model: Model, ranges: list[ChannelRange], tolerance: float
) -> tuple[list[BlockReduction], dict[str, np.ndarray], int, float]:
    """Which channels go, the tensors without denormals, how many of those there were, and the bound spent.

    From the last block to the first: the change of a score is then at most the sum, over the blocks, of what replacing
    channels of the *original* block does through the blocks behind it as *reduced*; so ``ranges`` of the original and
    gains of the reduced network are the right pair.
    """
    document, tensors = model.document, dict(model.tensors)
    flushed, spent = 0, 0.0

    def flush(name: str, gain: np.ndarray, magnitude: np.ndarray) -> None:
        """Denormals of a weight [O, C, ...] to 0, if the budget allows it.

        ``gain`` [n_tags, O]: change of a score per change of a row's sum; ``magnitude`` [C]: bound on the inputs.
        """
        nonlocal flushed, spent
        weight = tensors[name]
        tiny = (weight != 0) & (np.abs(weight) < _SMALLEST_NORMAL)
        if not tiny.any():
            return
        lost = np.abs(np.where(tiny, weight, 0).astype(np.float64)).reshape(len(weight), len(magnitude), -1).sum(axis=2)
        cost = float((gain @ (lost @ magnitude)).max())
        if spent + cost <= tolerance:
            tensors[name] = np.where(tiny, np.float32(0), weight)
            flushed += int(tiny.sum())
            spent += cost

    first = f"{document.dense_layers()[0][0]}.weight"
    behind = _behind_first_dense(document, tensors)
    positions = _head_weights(document, tensors[first]).shape[2] if document.head.flatten == "hwc" else 1
    flush(first, behind, np.tile(ranges[-1].magnitude, positions))
    head = _head_weights(document, tensors[first])
    reads = sum_taps(head)[:, :, None]  # a constant is the same at every position
    taps = sum_taps(np.abs(head))
    # [n_tags, C]: change of a score per change of the block's output
    gain = behind @ taps if document.head.hidden else taps / 4.0
    plan: list[BlockReduction] = []
    for i in range(len(document.blocks) - 1, -1, -1):
        now = ranges[i + 1]
        reach = gain.max(axis=0)
        if not plan:  # the features that a caller may ask for are these channels, or what hidden layers make of them
            reach = np.maximum(reach, _feature_gain(document, tensors, taps))
        constant, unused = now.deviation * reach, now.magnitude * reach
        # Where both would do, 0 is the better value: it needs no carrier.
        zeroed = (unused < constant) | ((unused <= 1e-6 * tolerance) & (now.deviation > 0.0))
        cost, values = np.where(zeroed, unused, constant), np.where(zeroed, 0.0, now.centre)
        block, cost_of_block = _choose(cost, values, behind, reads, tolerance - spent, now.dead, zeroed)
        spent += cost_of_block
        plan.append(block)
        kept = list(block.kept)
        scale = np.abs(affine(tensors, i)[0])
        flush(f"blocks.{i}.weight", gain * scale, ranges[i].magnitude)
        weight = tensors[f"blocks.{i}.weight"][kept]
        behind, reads = gain[:, kept] * scale[kept], weight.reshape(*weight.shape[:2], document.blocks[i].kernel ** 2)
        gain = behind @ sum_taps(np.abs(reads))
    return plan[::-1], tensors, flushed, spent


def _behind_first_dense(document: ModelDocument, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """[n_tags, outputs]: change of a score per change of the first dense layer's sums.

    A score changes by at most a quarter of its logit's change, and no activation changes by more than its input.
    """
    behind = np.eye(len(document.tags)) / 4.0
    for stem, _, _ in document.dense_layers()[:0:-1]:
        behind = behind @ np.abs(tensors[f"{stem}.weight"]).astype(np.float64)
    return behind


def _feature_gain(document: ModelDocument, tensors: dict[str, np.ndarray], taps: np.ndarray) -> np.ndarray | float:
    """Bound [C] on any feature's change per change of a channel; ``taps`` [outputs, C] of the first dense layer."""
    hidden = document.head.hidden
    if not hidden:
        return 1.0
    if len(hidden) == 1:
        return np.asarray(taps.max(axis=0))
    most = np.abs(tensors[f"head.hidden.{len(hidden) - 1}.weight"]).max(axis=0).astype(np.float64)
    for i in range(len(hidden) - 2, 0, -1):
        most = most @ np.abs(tensors[f"head.hidden.{i}.weight"]).astype(np.float64)
    return np.asarray(most @ taps)


def _choose(
    cost: np.ndarray,
    values: np.ndarray,
    behind: np.ndarray,
    reads: np.ndarray,
    budget: float,
    dead: np.ndarray,
    unused: np.ndarray,
) -> tuple[BlockReduction, float]:
    """The cheapest channels of a block, as many as ``budget`` allows, and what they cost together.

    ``reads`` [O, C, taps] are the weights of whatever reads the block, ``behind`` [n_tags, O] what a change of those
    sums does to a score: without a carrier, the constants are lost to them.
    """
    order = np.argsort(cost, kind="stable")
    total = np.concatenate([[0.0], np.cumsum(cost[order])])
    count = int((total[1:] <= budget).sum())  # a NaN is not
    removed = np.sort(order[:count])
    lost = np.einsum("oct,c->ot", reads[:, removed].astype(np.float64), values[removed])
    dropping = float((behind @ np.abs(lost).sum(axis=1)).max()) if count else 0.0
    carrier = not total[count] + dropping <= budget
    if count == len(cost) and not carrier:  # a block must have a channel
        count -= 1
        removed = np.sort(order[:count])
    if count - carrier <= 0:
        return BlockReduction(len(cost), tuple(range(len(cost)))), 0.0
    is_dead, is_unused = dead[removed], unused[removed] & ~dead[removed]
    return BlockReduction(
        channels_before=len(cost),
        kept=tuple(int(c) for c in np.setdiff1d(np.arange(len(cost)), removed)),
        removed=tuple((int(c), float(values[c])) for c in removed),
        dead=int(is_dead.sum()),
        unused=int(is_unused.sum()),
        constant=int((~is_dead & ~is_unused).sum()),
        carrier=carrier,
    ), float(total[count] + (0.0 if carrier else dropping))


def _rebuild(
    document: ModelDocument, tensors: dict[str, np.ndarray], plan: list[BlockReduction], dtype: Any
) -> dict[str, np.ndarray]:
    """Tensors of the reduced network; only what a carrier needs is new, the rest is selected."""
    out = {name: array.copy() for name, array in tensors.items() if name.startswith("input.")}
    before = BlockReduction(1, (0,))
    for i, block in enumerate(plan):
        kept = list(block.kept)
        weight = _select(tensors[f"blocks.{i}.weight"][kept], before, dtype)
        if block.carrier:
            weight = np.concatenate([weight, np.zeros((1, *weight.shape[1:]), weight.dtype)])
        out[f"blocks.{i}.weight"] = weight
        for name, value in (("bias", 1.0), ("scale", 1.0), ("shift", 0.0)):
            if f"blocks.{i}.{name}" in tensors:
                array = tensors[f"blocks.{i}.{name}"][kept]
                out[f"blocks.{i}.{name}"] = np.append(array, array.dtype.type(value)) if block.carrier else array
        before = block
    stem, _, _ = document.dense_layers()[0]
    weight = _head_weights(document, tensors[f"{stem}.weight"])
    reduced = _select(weight, before, dtype)
    if before.carrier:  # it is 1 at every position: its weights' sum at one of them does for all
        constants = np.array([value for _, value in before.removed])
        sums = weight[:, [c for c, _ in before.removed]].astype(np.float64).sum(axis=2) @ constants
        reduced[:, -1] = 0.0
        reduced[:, -1, 0] = _rounded(sums, dtype)
    if document.head.flatten == "hwc":
        reduced = reduced.transpose(0, 2, 1)
    out |= {name: array.copy() for name, array in tensors.items() if name.startswith("head.")}
    out[f"{stem}.weight"] = reduced.reshape(len(reduced), -1)
    return {name: np.ascontiguousarray(array) for name, array in out.items()}


def _select(weight: np.ndarray, before: BlockReduction, dtype: Any) -> np.ndarray:
    """Weights [O, C, ...] for the channels that ``before`` leaves, with those of its carrier."""
    kept = np.ascontiguousarray(weight[:, list(before.kept)])
    if not before.carrier:
        return kept
    constants = np.array([value for _, value in before.removed])
    removed = weight[:, [c for c, _ in before.removed]].astype(np.float64)
    carried = _rounded(np.tensordot(removed, constants, axes=([1], [0])), dtype)
    return np.concatenate([kept, carried[:, None]], axis=1)


def _rounded(array: np.ndarray, dtype: Any) -> np.ndarray:
    """Float64 sums, rounded once, without denormals."""
    return np.where(np.abs(array) < _SMALLEST_NORMAL, 0.0, array).astype(dtype)


def _reduced_document(document: ModelDocument, plan: list[BlockReduction]) -> ModelDocument:
    channels = [1, *(block.channels_after for block in plan)]
    blocks = tuple(
        dataclasses.replace(block, in_channels=channels[i], out_channels=channels[i + 1])
        for i, block in enumerate(document.blocks)
    )
    document = dataclasses.replace(document, blocks=blocks)
    head = dataclasses.replace(document.head, in_features=document.n_features())
    return dataclasses.replace(document, head=head).validate()
