"""Any stack of the document's block, from a list of plain layers. A network that does not fit exactly is refused.

A reader (ONNX graph, state dict) gives its layers in order. :class:`Stack` puts them into blocks and a head, float64:

* An affine (batch-norm) before the activation is folded into the convolution; one behind it becomes the post-affine.
* A layer behind a max-pool moves in front of it, where its output never falls as its input rises (ReLU, ELU, an affine
  without negative scales): the result is the same. Max-pools in a row become one.
* A channel whose affine behind a max-pool has a negative scale is computed with the other sign, which the weights of
  the next layer undo. The zeros of its padding have no sign.
* A global average becomes a dense layer over all positions, with its weights divided by their number.
* A dense layer or whole-map convolution is the head. Before the head it is a 1x1 convolution of a 1x1 map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError
from ..model.document import Block, Head, Pool

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
    """scale * x + shift, [C] each."""

    scale: Array
    shift: Array


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
    """Over (H, W), to a 1x1 map."""

    kind: Literal["max", "average"]


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
    sign: Array | None = None  # [C] of 1 and -1: the network's map is this times the block's; None: all 1

    @property
    def pooled(self) -> bool:
        return self.window != (1, 1) or self.stride != (1, 1)


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
        self._global: Literal["max", "average"] | None = None
        self._before = self.size  # the map that a global pool reduced

    def add(self, layer: Layer) -> None:
        """Append a layer. :meth:`finish` refuses one that the document cannot express."""
        self._layers.append(layer)

    def finish(self, logits: bool = False) -> tuple[tuple[Block, ...], Head, int]:
        """The document's blocks and head, and the number of tags. It fills ``tensors``.

        ``logits`` says that the stack ends before the sigmoid. Raises ModelError that names a layer that does not fit.
        """
        layers = list(self._layers)
        if layers and isinstance(layers[-1], Sigmoid):
            if logits:
                raise ModelError(f"{layers[-1].where}: the network ends in a sigmoid; its output are not logits")
            layers.pop()
        elif not logits:
            end = layers[-1].where if layers else "the input"
            raise ModelError(f"{end}: the network must end in a sigmoid; say --logits if scores are its sigmoid")
        weighted = [(i, layer) for i, layer in enumerate(layers) if isinstance(layer, (Conv, Dense))]
        if not weighted:
            raise ModelError("no convolution and no dense layer in it")
        last, head = weighted[-1]
        steps: dict[type[Layer], Callable[..., None]] = {
            Conv: self._conv,
            Dense: self._dense,
            Affine: self._affine,
            Activation: self._activation,
            MaxPool: self._max_pool,
            GlobalPool: self._global_pool,
            Sigmoid: self._sigmoid,
        }
        for layer in layers[:last]:
            steps[type(layer)](layer)
        return self._head(head, layers[last + 1 :])

    # ---- layers ----

    def _conv(self, layer: Conv) -> None:
        kernel = layer.weight.shape[2:]
        self._check_channels(layer.where, layer.weight.shape[1])
        edge = kernel[0] // 2
        if kernel not in ((1, 1), (3, 3)):
            raise ModelError(f"{layer.where}: a kernel of {kernel[0]} x {kernel[1]}; built: 1 x 1, 3 x 3")
        if layer.pads != (edge,) * 4:
            raise ModelError(
                f"{layer.where}: pads {list(layer.pads)}; built: zero padding 'same', {[edge] * 4} for this kernel"
            )
        self._end_global_pool()
        weight = self._with_signs(layer.weight)
        self._blocks.append(_Block(layer.where, weight, layer.bias))
        self._channels = len(layer.weight)

    def _dense(self, layer: Dense) -> None:
        """A dense layer before the head: a 1x1 convolution of a 1x1 map."""
        self._end_global_pool()
        if self._now != (1, 1):
            raise ModelError(
                f"{layer.where}: a dense layer on a map of {self._now[0]} x {self._now[1]}, with more weights behind "
                "it; built: as the last layer, or on a map of 1 x 1"
            )
        self._conv(Conv(layer.where, layer.weight[:, :, None, None], layer.bias, (0, 0, 0, 0)))

    def _affine(self, layer: Affine) -> None:
        block = self._block(layer.where)
        self._check_channels(layer.where, len(layer.scale))
        if self._global == "average":
            raise ModelError(f"{layer.where}: an affine behind a global average, and no dense layer between")
        scale, shift = layer.scale, layer.shift
        if block.pooled or self._global == "max":
            scale = scale if block.sign is None else scale * block.sign
            sign = np.where(scale < 0, -1.0, 1.0)
            scale, shift = scale * sign, shift * sign
            block.sign = sign if (sign < 0).any() else None
        if block.activation == "none" and block.scale is None:
            block.weight = block.weight * scale[:, None, None, None]
            block.bias = block.bias * scale + shift
            return
        if block.scale is None or block.shift is None:
            block.scale, block.shift = np.ones_like(scale), np.zeros_like(scale)
        block.scale, block.shift = block.scale * scale, block.shift * scale + shift

    def _activation(self, layer: Activation) -> None:
        block = self._block(layer.where)
        if self._global == "average":
            raise ModelError(f"{layer.where}: an activation behind a global average, and no dense layer between")
        if block.scale is not None or block.activation not in ("none", layer.kind) or block.activation == "elu":
            raise ModelError(
                f"{layer.where}: a second activation in the block of {block.where}; built: one, then an affine, a pool"
            )
        self._check_signs(layer.where, "an activation")
        block.activation = layer.kind

    def _max_pool(self, layer: MaxPool) -> None:
        block = self._block(layer.where)
        if layer.window != (1, 1):
            self._check_signs(layer.where, "a max-pool")
        for n, window in zip(self._now, layer.window, strict=True):
            if window > n:
                raise ModelError(f"{layer.where}: a window of {list(layer.window)} on a map of {list(self._now)}")
        height, width = ((n - w) // s + 1 for n, w, s in zip(self._now, layer.window, layer.stride, strict=True))
        self._now = (height, width)
        (wh, ww), (sh, sw) = block.window, block.stride
        block.window = ((layer.window[0] - 1) * sh + wh, (layer.window[1] - 1) * sw + ww)
        block.stride = (layer.stride[0] * sh, layer.stride[1] * sw)

    def _global_pool(self, layer: GlobalPool) -> None:
        self._block(layer.where)
        if self._now != (1, 1):  # of a 1x1 map it changes nothing
            if layer.kind == "max":
                self._check_signs(layer.where, "a max-pool")
            self._global, self._before, self._now = layer.kind, self._now, (1, 1)

    def _sigmoid(self, layer: Sigmoid) -> None:
        raise ModelError(f"{layer.where}: a sigmoid before the end; built: one, as the last layer")

    # ---- helpers ----

    def _block(self, where: str) -> _Block:
        if not self._blocks:
            raise ModelError(f"{where}: before the first convolution; built there: an affine of the input")
        return self._blocks[-1]

    def _check_channels(self, where: str, channels: int) -> None:
        if channels != self._channels:
            raise ModelError(f"{where}: for {channels} channels, but {self._channels} arrive")

    def _check_signs(self, where: str, what: str) -> None:
        """Refuse a layer that is not odd behind channels that are computed with the other sign."""
        sign = self._blocks[-1].sign
        if sign is not None:
            raise ModelError(
                f"{where}: {what} behind a batch-norm behind a max-pool, with {int((sign < 0).sum())} negative scales: "
                "another value is the largest then; built: the batch-norm in front of the pool, or without negative "
                "scales"
            )

    def _with_signs(self, weight: Array) -> Array:
        """Weights [O, C, ...] for the map of the last block, from those for the network's own map."""
        sign = self._blocks[-1].sign if self._blocks else None
        return weight if sign is None else weight * sign.reshape(1, -1, *(1,) * (weight.ndim - 2))

    def _end_global_pool(self) -> None:
        """A global pool with more blocks behind it: a window as large as the map."""
        if self._global == "average":
            raise ModelError(
                f"a global average behind {self._blocks[-1].where}, with more layers than the head behind it"
            )
        if self._global == "max":
            self._now, self._global = self._before, None
            block = self._blocks[-1]
            sign, block.sign = block.sign, None  # of an affine behind the global pool, so behind this one too
            self._max_pool(MaxPool(block.where, self._now, self._now))
            block.sign = sign

    def _head(self, layer: Conv | Dense, behind: list[Layer]) -> tuple[tuple[Block, ...], Head, int]:
        if isinstance(layer, Conv):
            behind = self._head_pool(layer, behind)
            layer = self._whole_map(layer)
        weight, bias = layer.weight, layer.bias
        for after in behind:
            if not isinstance(after, Affine):
                raise ModelError(f"{after.where}: between the last weights, {layer.where}, and the sigmoid")
            weight, bias = weight * after.scale[:, None], bias * after.scale + after.shift
        if not self._blocks:
            raise ModelError(f"{layer.where}: no convolution before the head")
        flatten: Literal["chw", "max"] = "max" if self._global == "max" else "chw"
        height, width = self._now
        if weight.shape[1] != self._channels * height * width:
            raise ModelError(
                f"{layer.where}: {weight.shape[1]} features, but {self._channels} x {height} x {width} arrive"
            )
        axes = layer.axes
        if axes != "chw" and (height, width) != (1, 1):
            extent = {"c": self._channels, "h": height, "w": width}
            cube = weight.reshape(len(weight), *(extent[axis] for axis in axes))
            cube = cube.transpose(0, *(1 + axes.index(axis) for axis in "chw"))
            weight = np.ascontiguousarray(cube).reshape(len(weight), -1)
        weight = self._with_signs(weight.reshape(len(weight), self._channels, -1)).reshape(len(weight), -1)
        if self._global == "average":
            positions = self._before[0] * self._before[1]
            weight = np.repeat(weight / positions, positions, axis=1)
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
        self.tensors["head.weight"], self.tensors["head.bias"] = weight, bias
        return tuple(blocks), Head(flatten=flatten, in_features=weight.shape[1]), len(weight)

    def _head_pool(self, layer: Conv, behind: list[Layer]) -> list[Layer]:
        """A 1x1 convolution, then a global average: the same in the other order."""
        if behind and isinstance(behind[0], GlobalPool) and self._now != (1, 1):
            if behind[0].kind != "average" or layer.weight.shape[2:] != (1, 1):
                raise ModelError(f"{behind[0].where}: behind the last weights; built: an average behind a 1 x 1 kernel")
            self._global_pool(behind[0])
        return [after for after in behind if not isinstance(after, GlobalPool)]

    def _whole_map(self, layer: Conv) -> Dense:
        """A convolution with one output position, as a dense layer."""
        kernel, (top, left, bottom, right) = layer.weight.shape[2:], layer.pads
        height, width = self._now
        self._check_channels(layer.where, layer.weight.shape[1])
        out = (height + top + bottom - kernel[0] + 1, width + left + right - kernel[1] + 1)
        if out != (1, 1):
            raise ModelError(
                f"{layer.where}: the last layer gives a map of {out[0]} x {out[1]}; built: one value a tag"
            )
        taps = layer.weight[:, :, top : top + height, left : left + width]
        return Dense(layer.where, taps.reshape(len(taps), -1), layer.bias)
