"""Any stack of the document's block, from a list of plain layers. A network that does not fit exactly is refused.

A reader (ONNX graph, state dict) gives its layers in order. :class:`Stack` puts them into blocks and a head, float64:

* An affine (batch-norm) before the activation is folded into the convolution; one behind it becomes the post-affine.
* A layer behind a max-pool moves in front of it, where its output never falls as its input rises (ReLU, ELU, an affine
  without negative scales): the result is the same. Max-pools in a row become one.
* An affine with negative scales behind a max-pool waits for the next weights. A dense layer takes all of it. A
  convolution takes the signs; so does one of 1x1 where an activation or a maximum comes first.
* Dense layers behind the map, or behind a global pool, are the head and its hidden layers. So is a convolution that
  gives one position.
* A network that ends in a convolution and a pool has a head that passes its channels on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError
from ..model.document import Block, Head, Pool
from .dense_tail import DenseTail, in_order

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Layer:
    """One layer. ``where`` is its name in messages, e.g. "/conv1/Conv (Conv)"."""

    where: str


@dataclass(frozen=True)
class Conv(Layer):
    """Stride 1, no groups, no dilation. ``weight`` [O, C, kh, kw]; ``pads``: zeros at top, left, bottom, right."""

    weight: Array
    bias: Array
    pads: tuple[int, int, int, int]


@dataclass(frozen=True)
class Affine(Layer):
    """scale * x + shift, [C] each; or one of each value, in the order of ``axes`` as for :class:`Dense`."""

    scale: Array
    shift: Array
    axes: str = field(default="c", kw_only=True)


@dataclass(frozen=True)
class Activation(Layer):
    kind: Literal["relu", "elu"]


@dataclass(frozen=True)
class MaxPool(Layer):
    """No padding, floor."""

    window: tuple[int, int]
    stride: tuple[int, int]


@dataclass(frozen=True)
class GlobalPool(Layer):
    """Over the whole of ``axes``, 0: H, 1: W, each of which has size 1 then."""

    kind: Literal["max", "average"]
    axes: tuple[int, ...] = (0, 1)


@dataclass(frozen=True)
class Dense(Layer):
    """``weight`` [O, F] over the map's values in the order of ``axes``, e.g. "chw" or "hwc"; ``bias`` [O]."""

    weight: Array
    bias: Array
    axes: str = "chw"


@dataclass(frozen=True)
class Sigmoid(Layer):
    pass


@dataclass
class _Block:
    where: str
    weight: Array
    bias: Array
    activation: Literal["relu", "elu", "none"] = "none"
    scale: Array | None = None
    shift: Array | None = None
    window: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)

    @property
    def pooled(self) -> bool:
        return self.window != (1, 1) or self.stride != (1, 1)

    @property
    def bare(self) -> bool:
        """Whether it is a convolution and nothing else."""
        return self.activation == "none" and self.scale is None and not self.pooled

    def apply(self, scale: Array, shift: Array) -> None:
        """An affine in front of the pool."""
        if self.activation == "none" and self.scale is None:
            self.weight = self.weight * scale[:, None, None, None]
            self.bias = self.bias * scale + shift
            return
        if self.scale is None or self.shift is None:
            self.scale, self.shift = np.ones_like(scale), np.zeros_like(scale)
        self.scale, self.shift = self.scale * scale, self.shift * scale + shift


@dataclass
class Stack:
    """Blocks and head. Give it every layer by :meth:`add`, then call :meth:`finish`.

    Attributes
    ----------
    size : (H, W) of the network's input
    tensors : ``blocks.0.weight`` ... ``head.bias`` by the document's names, float64; empty until it is finished
    """

    size: tuple[int, int]
    tensors: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._layers: list[Layer] = []
        self._blocks: list[_Block] = []
        self._now = self.size
        self._channels = 1
        self._pools: dict[int, Literal["max", "average"]] = {}  # axes that a global pool reduced, and nothing took yet
        self._before = self.size  # the map in front of them
        self._late: Affine | None = None  # behind a pool, in the order "chw": it cannot move in front of it
        self._tail: DenseTail | None = None  # the dense layers, once there is one

    def add(self, layer: Layer) -> None:
        """Append a layer. :meth:`finish` refuses one that the document cannot express."""
        self._layers.append(layer)

    def finish(self, logits: bool = False) -> tuple[tuple[Block, ...], Head, int]:
        """The document's blocks and head, and the number of tags. It fills ``tensors``.

        ``logits`` says that the stack ends before the sigmoid. Raises ModelError that names a layer that does not fit.
        """
        layers = self._in_front_of_the_sigmoid(logits)
        if not any(isinstance(layer, (Conv, Dense)) for layer in layers):
            raise ModelError("no convolution and no dense layer in it")
        steps: dict[type[Layer], Callable[..., None]] = {
            Conv: self._conv,
            Dense: self._dense,
            Affine: self._affine,
            Activation: self._activation,
            MaxPool: self._max_pool,
            GlobalPool: self._global_pool,
        }
        for layer in layers:
            steps[type(layer)](layer)
        if self._tail is None:
            self._end_in_a_convolution()
        assert self._tail is not None
        head = self._tail.finish(self.tensors)
        return self._finish_blocks(), head, len(self.tensors["head.bias"])

    def _in_front_of_the_sigmoid(self, logits: bool) -> list[Layer]:
        layers = list(self._layers)
        end = layers[-1].where if layers else "the input"
        sigmoid = next((i for i, layer in enumerate(layers) if isinstance(layer, Sigmoid)), len(layers))
        behind = layers[sigmoid + 1 :]
        if sigmoid == len(layers):
            if not logits:
                raise ModelError(f"{end}: the network must end in a sigmoid; say --logits if scores are its sigmoid")
            return layers
        where = layers[sigmoid].where
        if logits:
            raise ModelError(f"{where}: the network ends in a sigmoid; its output are not logits")
        for layer in behind:
            if isinstance(layer, GlobalPool) and layer.kind == "average":
                raise ModelError(f"{layer.where}: a mean of scores; built: the mean in front of the sigmoid, {where}")
            if not isinstance(layer, (GlobalPool, MaxPool)):
                raise ModelError(f"{where}: a sigmoid before the end; built: one, as the last layer")
        return layers[:sigmoid] + behind  # the maximum of sigmoids is the sigmoid of the maximum

    # ---- layers ----

    def _conv(self, layer: Conv) -> None:
        kernel = layer.weight.shape[2:]
        self._check_channels(layer.where, layer.weight.shape[1])
        if self._tail is not None or (self._pools and self._now == (1, 1)):
            self._dense(self._as_dense(layer))
            return
        edge = kernel[0] // 2
        same = kernel in ((1, 1), (3, 3)) and layer.pads == (edge,) * 4
        if not same and self._positions(layer) == (1, 1):
            self._dense(self._as_dense(layer))
            return
        if kernel not in ((1, 1), (3, 3)):
            raise ModelError(f"{layer.where}: a kernel of {kernel[0]} x {kernel[1]}; built: 1 x 1, 3 x 3")
        if not same:
            raise ModelError(
                f"{layer.where}: pads {list(layer.pads)}; built: zero padding 'same', {[edge] * 4} for this kernel"
            )
        self._end_pools(layer.where)
        weight = layer.weight
        if self._late is not None:
            if self._late.axes != "c":
                raise ModelError(f"{layer.where}: behind an affine of a flattened map, {self._late.where}")
            sign, self._late = self._take(self._late), None
            weight = weight * sign[:, None, None]  # zero padding stays zero
        self._blocks.append(_Block(layer.where, weight, layer.bias))
        self._channels = len(weight)

    def _dense(self, layer: Dense) -> None:
        if self._tail is None:
            self._tail = self._flatten(layer.where)
        self._tail.dense(layer.where, layer.weight, layer.bias, layer.axes)
        self._channels, self._now = len(layer.weight), (1, 1)

    def _affine(self, layer: Affine) -> None:
        if self._tail is not None:
            self._tail.affine(layer.where, layer.scale, layer.shift)
            return
        block = self._block(layer.where)
        channels, (height, width) = self._channels, self._now
        if layer.axes != "c" and self._now != (1, 1):
            if len(layer.scale) != channels * height * width:
                raise ModelError(
                    f"{layer.where}: for {len(layer.scale)} features, but {channels} x {height} x {width} arrive"
                )
            scale, shift = (in_order(v, layer.axes, channels, height, width) for v in (layer.scale, layer.shift))
            self._wait(Affine(layer.where, scale, shift, axes="chw"))
            return
        self._check_channels(layer.where, len(layer.scale))
        behind_a_pool = block.pooled or bool(self._pools)
        stuck = "average" in self._pools.values() or (behind_a_pool and bool((layer.scale < 0).any()))
        if self._late is not None or stuck:
            self._wait(layer)
        else:
            block.apply(layer.scale, layer.shift)

    def _activation(self, layer: Activation) -> None:
        if self._tail is not None:
            self._tail.activation(layer.where, layer.kind)
            return
        self._block(layer.where)
        if "average" in self._pools.values():
            place = "a global average" if self._late is None else "an affine of features"
            raise ModelError(f"{layer.where}: an activation behind {place}, and no dense layer between")
        self._settle(layer.where)
        block = self._blocks[-1]
        if block.scale is not None or block.activation not in ("none", layer.kind) or block.activation == "elu":
            raise ModelError(
                f"{layer.where}: a second activation in the block of {block.where}; built: one, then an affine, a pool"
            )
        block.activation = layer.kind

    def _max_pool(self, layer: MaxPool) -> None:
        for n, window in zip(self._now, layer.window, strict=True):
            if window > n:
                raise ModelError(f"{layer.where}: a window of {list(layer.window)} on a map of {list(self._now)}")
        if self._now == (1, 1) and layer.window == (1, 1):
            return
        self._block(layer.where)
        self._end_pools(layer.where)
        self._settle(layer.where)
        self._pool(layer.window, layer.stride)

    def _pool(self, window: tuple[int, int], stride: tuple[int, int]) -> None:
        """Add a max-pool to those of the last block."""
        block, (height, width) = self._blocks[-1], self._now
        if any(w < s and n > 1 for w, s, n in zip(block.window, block.stride, window, strict=True)):
            # Between the windows are values that no window has: one window around several would take them in.
            block = self._passing_on(block.where, np.ones(self._channels))
        self._now = ((height - window[0]) // stride[0] + 1, (width - window[1]) // stride[1] + 1)
        (wh, ww), (sh, sw) = block.window, block.stride
        block.window = ((window[0] - 1) * sh + wh, (window[1] - 1) * sw + ww)
        block.stride = (stride[0] * sh, stride[1] * sw)

    def _global_pool(self, layer: GlobalPool) -> None:
        axes = [axis for axis in layer.axes if self._now[axis] > 1]  # along another one it changes nothing
        if not axes:
            return
        self._block(layer.where)
        if layer.kind == "max":
            if "average" in self._pools.values():
                raise ModelError(f"{layer.where}: a maximum of averages; built: an average of maxima")
            self._settle(layer.where)
        else:
            if self._late is not None and self._late.axes != "c":
                raise ModelError(f"{layer.where}: behind an affine of a flattened map, {self._late.where}")
            if "max" in self._pools.values():
                self._end_pools(layer.where)
        if not self._pools:
            self._before = self._now
        self._pools |= dict.fromkeys(axes, layer.kind)
        self._now = (1 if 0 in axes else self._now[0], 1 if 1 in axes else self._now[1])

    # ---- affines that wait ----

    def _wait(self, layer: Affine) -> None:
        """Keep an affine for the next weights, behind one that waits already."""
        late = self._late
        if late is None:
            self._late = layer
            return
        positions = self._now[0] * self._now[1]
        scale, shift, axes = late.scale, late.shift, layer.axes
        if late.axes != layer.axes:
            if layer.axes == "c":
                raise ModelError(f"{layer.where}: behind an affine of a flattened map, {late.where}")
            scale, shift = np.repeat(scale, positions), np.repeat(shift, positions)
        self._late = Affine(late.where, scale * layer.scale, shift * layer.scale + layer.shift, axes=axes)

    def _settle(self, where: str) -> None:
        """Move the affine that waits in front of the pools, because no weights come before the layer ``where``."""
        late = self._late
        if late is None:
            return
        if late.axes != "c":
            raise ModelError(f"{where}: behind an affine of a flattened map, {late.where}")
        self._late = None
        sign = self._take(late)
        if (sign < 0).any():
            self._end_pools(where)
            self._passing_on(late.where, sign)

    def _take(self, late: Affine) -> Array:
        """Move an affine in front of the pools of the last block; -1 for each channel whose negative leaves it then.

        The largest value stays the largest where the scale is not negative.
        """
        sign = np.where(late.scale < 0, -1.0, 1.0)
        self._blocks[-1].apply(np.abs(late.scale), late.shift * sign)
        return sign

    def _passing_on(self, where: str, scale: Array) -> _Block:
        """A block that multiplies every channel, for what cannot be in the last block."""
        self._blocks.append(_Block(where, np.diag(scale)[:, :, None, None], np.zeros(self._channels)))
        return self._blocks[-1]

    # ---- helpers ----

    def _block(self, where: str) -> _Block:
        if not self._blocks:
            raise ModelError(f"{where}: before the first convolution; built there: an affine of the input")
        return self._blocks[-1]

    def _check_channels(self, where: str, channels: int) -> None:
        if channels != self._channels:
            raise ModelError(f"{where}: for {channels} channels, but {self._channels} arrive")

    def _end_pools(self, where: str) -> None:
        """Global maxima with more of the map behind them: a window as large as the map."""
        if "average" in self._pools.values():
            raise ModelError(f"{where}: behind a global average of {self._blocks[-1].where}; built there: dense layers")
        if self._pools:
            height, width = (n if axis in self._pools else 1 for axis, n in enumerate(self._before))
            self._now, self._pools = self._before, {}
            self._pool((height, width), (height, width))

    def _flatten(self, where: str) -> DenseTail:
        """The features of the map as it is now, for dense layers."""
        if not self._blocks:
            raise ModelError(f"{where}: no convolution before the dense layer")
        kinds = set(self._pools.values())
        if kinds == {"max"} and self._now != (1, 1):
            self._end_pools(where)
            kinds = set()
        flatten: Literal["chw", "max", "mean"] = "chw"
        if kinds and self._now == (1, 1):
            flatten = "max" if kinds == {"max"} else "mean"
        tail = DenseTail(self._channels, self._now, flatten)
        if kinds and flatten == "chw":
            tail.averaged = self._before
        if self._late is not None:
            positions = self._now[0] * self._now[1] if self._late.axes == "c" else 1
            tail.affine(self._late.where, *(np.repeat(v, positions) for v in (self._late.scale, self._late.shift)))
        return tail

    def _positions(self, layer: Conv) -> tuple[int, int]:
        """Height and width of what a convolution gives."""
        (height, width), kernel, (top, left, bottom, right) = self._now, layer.weight.shape[2:], layer.pads
        return height + top + bottom - kernel[0] + 1, width + left + right - kernel[1] + 1

    def _as_dense(self, layer: Conv) -> Dense:
        """A convolution with one output position, as a dense layer."""
        (height, width), (top, left, _, _) = self._now, layer.pads
        out = self._positions(layer)
        if out != (1, 1):
            raise ModelError(
                f"{layer.where}: the last layer gives a map of {out[0]} x {out[1]}; built: one value a tag"
            )
        taps = layer.weight[:, :, top : top + height, left : left + width]
        return Dense(layer.where, taps.reshape(len(taps), -1), layer.bias)

    def _end_in_a_convolution(self) -> None:
        """The head of a network whose last weights are a convolution's."""
        block = self._blocks[-1]
        if self._now != (1, 1):
            height, width = self._now
            raise ModelError(f"{block.where}: the last layer gives a map of {height} x {width}; built: one value a tag")
        average = "average" in self._pools.values()
        late, self._late = self._late, None
        edge = block.weight.shape[2] // 2
        if block.bare and (not self._pools or (average and edge == 0 and len(self._blocks) > 1)):
            # An average of a 1 x 1 convolution is the convolution of the average.
            self._blocks.pop()
            self._channels = block.weight.shape[1]
            self._dense(Dense(block.where, block.weight[:, :, edge, edge], block.bias))
        elif not block.pooled and not self._pools:
            raise ModelError(f"{block.where}: an activation between the last weights and the sigmoid")
        else:
            self._dense(Dense(block.where, np.eye(self._channels), np.zeros(self._channels)))
        if late is not None:
            assert self._tail is not None
            self._tail.affine(late.where, late.scale, late.shift)

    def _finish_blocks(self) -> tuple[Block, ...]:
        blocks, channels = [], 1
        for i, block in enumerate(self._blocks):
            blocks.append(
                Block(
                    kernel=block.weight.shape[2],
                    in_channels=channels,
                    out_channels=len(block.weight),
                    activation=block.activation,
                    post_affine=block.scale is not None,
                    pool=Pool(window=block.window, stride=block.stride),
                )
            )
            channels = len(block.weight)
            self.tensors[f"blocks.{i}.weight"], self.tensors[f"blocks.{i}.bias"] = block.weight, block.bias
            if block.scale is not None and block.shift is not None:
                self.tensors[f"blocks.{i}.scale"], self.tensors[f"blocks.{i}.shift"] = block.scale, block.shift
        return tuple(blocks)
