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
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .ranges import ChannelRange, affine, channel_ranges, sum_taps

if TYPE_CHECKING:
    from .document import ModelDocument, Pool
    from .modelfile import Model

TOLERANCE = 1e-10
_SMALLEST_NORMAL = np.finfo(np.float32).smallest_normal


@dataclass(frozen=True)
class BlockReduction:
    """What happened to one block's output channels.

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


@dataclass(frozen=True)
class Reduction:
    """Everything that :func:`reduce_model` found.

    Attributes:
        flatten: the head's order, for :meth:`restore_features`.
        blocks: per block, channels before and after and why.
        input_before, input_after: (H, W) of the network's input, and of its part at the top left that is ever seen.
        samples_before, samples_after: length of a segment, and how much of its start the seen frames reach.
            Equal where the front end needs the whole segment for a maximum, mean or deviation.
        macs_before: multiply-adds of a segment, every convolution output counted.
        macs_after: those that can reach a score: kept channels, convolution outputs that a pooling window covers.
        denormals_flushed: weights below the smallest normal float32 that were set to 0.
        score_bound: proven bound on the change of any score, see the module.
    """

    flatten: Literal["chw", "hwc", "max"]
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
        """Features [B, F'] that enter the reduced head -> [B, F] of the original head, same order."""
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
        out = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("blocks", "flatten")}
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
    seen = needed_input(document, height, width)
    return reduced, Reduction(
        flatten=document.head.flatten,
        blocks=channels.blocks,
        input_before=(height, width),
        input_after=seen,
        samples_before=document.segments.n_samples,
        samples_after=_needed_samples(document, seen),
        macs_before=document.multiply_adds(),
        macs_after=_needed_macs(reduced.document),
        denormals_flushed=channels.denormals_flushed,
        score_bound=channels.score_bound,
    )


# ---- rows, columns and samples that pooling never sees ----


def needed_input(document: ModelDocument, height: int, width: int) -> tuple[int, int]:
    """(H', W'): the part of an [H, W] input, from its top left, on which the same network gives the same features.

    Let a block's full input have n rows, of which the first m are needed, and let a needed row of its pooled output
    be covered by convolution rows below e = (rows - 1) * stride + window. Then m = min(n, e + 1) for a 3x3 kernel, m =
    min(n, e) for 1x1, walking back from the last block, all of whose rows are needed. Columns are the same.

    Why the cropped network needs no padding of its own: say that the first m rows of a block's input are those of the
    full network (true of the cropped input). If m = e + 1, convolution rows below e read rows up to e, all right. If
    m = n, nothing is missing, and there is no row beyond either, since a cropped map is never larger than the full
    one; the zero padding is the real one. Either way the pooled rows that the next block needs are right, whatever
    other rows the map has. The last map is needed whole, and has the full size: no less, as shown, and no more.

    Raises ValueError if the input is too small for the network.
    """
    sizes = document.sizes_from(height, width)
    if min(sizes[-1]) < 1:
        raise ValueError(f"{document.name}: an input of {height} x {width} is too small for its pools")
    return _needed_sizes(document, sizes)[0]


def _needed_sizes(document: ModelDocument, sizes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Needed part of the input and of every block's output, given their full sizes."""
    needed = [sizes[-1]]
    for block, full in zip(reversed(document.blocks), reversed(sizes[:-1]), strict=True):
        halo = block.kernel // 2
        rows, columns = (
            min(n, (out - 1) * stride + window + halo)
            for n, out, window, stride in zip(full, needed[-1], block.pool.window, block.pool.stride, strict=True)
        )
        needed.append((rows, columns))
    return needed[::-1]


def _covered(out: int, pool: Pool, axis: int) -> int:
    """How many convolution rows ``out`` pooling windows cover: a stride above the window leaves gaps."""
    window, stride = pool.window[axis], pool.stride[axis]
    return (out - 1) * min(stride, window) + window


def _needed_macs(document: ModelDocument) -> int:
    total = len(document.tags) * document.head.in_features
    for block, (rows, columns) in zip(document.blocks, _needed_sizes(document, document.map_sizes())[1:], strict=True):
        outputs = _covered(rows, block.pool, 0) * _covered(columns, block.pool, 1)
        total += outputs * block.in_channels * block.out_channels * block.kernel**2
    return total


def _needed_samples(document: ModelDocument, seen: tuple[int, int]) -> int:
    frontend, n_samples = document.frontend, document.segments.n_samples
    if not frontend.frames_stand_alone:
        return n_samples
    n_frames = seen[1] if frontend.layout == "mel_time" else seen[0]
    end = (n_frames - 1) * frontend.hop_length + frontend.n_fft - frontend.pad_left(n_samples)
    if frontend.framing == "center" and frontend.pad_mode == "reflect":
        end = max(end, frontend.n_fft // 2 + 1)  # the first frame reads what is reflected into its padding
    return min(end, n_samples)


# ---- channels ----


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
    """head.weight as [n_tags, C, positions], a view."""
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

    behind = np.eye(len(document.tags)) / 4.0  # a score changes by at most a quarter of its logit's change
    positions = _head_weights(document, tensors["head.weight"]).shape[2] if document.head.flatten == "hwc" else 1
    flush("head.weight", behind, np.tile(ranges[-1].magnitude, positions))
    head = _head_weights(document, tensors["head.weight"])
    reads = sum_taps(head)[:, :, None]  # a constant is the same at every position
    gain = sum_taps(np.abs(head)) / 4.0  # [n_tags, C]: change of a score per change of the block's output
    plan: list[BlockReduction] = []
    for i in range(len(document.blocks) - 1, -1, -1):
        now = ranges[i + 1]
        reach = gain.max(axis=0)
        if not plan:
            reach = np.maximum(reach, 1.0)  # these channels are also the features that a caller may ask for
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
    weight = _head_weights(document, tensors["head.weight"])
    reduced = _select(weight, before, dtype)
    if before.carrier:  # it is 1 at every position: its weights' sum at one of them does for all
        constants = np.array([value for _, value in before.removed])
        sums = weight[:, [c for c, _ in before.removed]].astype(np.float64).sum(axis=2) @ constants
        reduced[:, -1] = 0.0
        reduced[:, -1, 0] = _rounded(sums, dtype)
    if document.head.flatten == "hwc":
        reduced = reduced.transpose(0, 2, 1)
    out["head.weight"] = reduced.reshape(len(reduced), -1)
    out["head.bias"] = tensors["head.bias"].copy()
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
    head = dataclasses.replace(document.head, in_features=document.features())
    return dataclasses.replace(document, head=head).validate()
