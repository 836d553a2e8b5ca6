"""Any stack of the document's block, from a list of plain layers. A network that does not fit exactly is refused.

A reader (ONNX graph, state dict) gives its layers in order. :class:`Stack` puts them into blocks and a head, float64:

* An affine (batch-norm) before the activation is folded into the convolution; one behind it becomes the post-affine.
* A layer behind a max-pool moves in front of it, where its output never falls as its input rises (ReLU, ELU, an affine
  without negative scales): the result is the same. Max-pools in a row become one.
* An affine with negative scales behind a max-pool gives those channels the other sign in front of it, and the weights
  behind it too. An activation or maximum behind that sees the right sign through a 1x1 convolution.
* A global average or maximum, or a flattened map, ends the blocks. Dense layers behind it are the head's: the last one
  gives the tags, those before it are hidden. A whole-map convolution is a dense layer.
* An affine in front of a dense layer, or behind a hidden layer's activation, is folded into the dense layer behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError
from ..model import document
from ..model.document import Block, Head, Pool
from .batchnorm import fold_into_dense

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
    """scale * x + shift, [C] each; behind a flattened map or a dense layer [F] each.

    ``axes``: "c" for one value a channel. A batch-norm of a flattened map has one a feature, in an order as
    :class:`Dense` has it.
    """

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
    signs: Array | None = None  # [C], -1 where the block gives the negative of what the network has

    @property
    def pooled(self) -> bool:
        return self.window != (1, 1) or self.stride != (1, 1)


@dataclass
class _Hidden:
    where: str
    weight: Array
    bias: Array
    activation: Literal["relu", "elu", "none"] = "none"


@dataclass
class _Features:
    """scale * x + shift of the values that enter the next dense layer, in the order of that layer's weights."""

    where: str
    scale: Array
    shift: Array


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
        self._hidden: list[_Hidden] = []
        self._affine_in_front: _Features | None = None  # of the next dense layer

    def add(self, layer: Layer) -> None:
        """Append a layer. :meth:`finish` refuses one that the document cannot express."""
        self._layers.append(layer)

    def finish(self, logits: bool = False) -> tuple[tuple[Block, ...], Head, int]:
        """The document's blocks and head, and the number of tags. It fills ``tensors``.

        ``logits`` says that the stack ends before the sigmoid. Raises ModelError that names a layer that does not fit.
        """
        layers = self._in_front_of_the_sigmoid(logits)
        weighted = [(i, layer) for i, layer in enumerate(layers) if isinstance(layer, (Conv, Dense))]
        if not weighted:
            raise ModelError("no convolution and no dense layer in it")
        last, head = weighted[-1]
        for layer in layers[:last]:
            self._step(layer)
        behind = layers[last + 1 :]
        if isinstance(head, Conv):
            head, behind = self._dense_head(head, behind)
        return self._head(head, behind)

    def _in_front_of_the_sigmoid(self, logits: bool) -> list[Layer]:
        layers = list(self._layers)
        if len(layers) > 1 and isinstance(layers[-2], Sigmoid) and isinstance(layers[-1], GlobalPool):
            if layers[-1].kind == "average":
                raise ModelError(
                    f"{layers[-1].where}: a mean of scores; built: the mean in front of the sigmoid, {layers[-2].where}"
                )
            layers[-2:] = layers[:-3:-1]  # the maximum of sigmoids is the sigmoid of the maximum
        if layers and isinstance(layers[-1], Sigmoid):
            if logits:
                raise ModelError(f"{layers[-1].where}: the network ends in a sigmoid; its output are not logits")
            layers.pop()
        elif not logits:
            end = layers[-1].where if layers else "the input"
            raise ModelError(f"{end}: the network must end in a sigmoid; say --logits if scores are its sigmoid")
        return layers

    def _step(self, layer: Layer) -> None:
        steps: dict[type[Layer], Callable[..., None]] = {
            Conv: self._conv,
            Dense: self._dense,
            Affine: self._affine,
            Activation: self._activation,
            MaxPool: self._max_pool,
            GlobalPool: self._global_pool,
            Sigmoid: self._sigmoid,
        }
        steps[type(layer)](layer)

    # ---- layers ----

    def _conv(self, layer: Conv) -> None:
        kernel = layer.weight.shape[2:]
        self._check_channels(layer.where, layer.weight.shape[1])
        whole_map = self._now != (1, 1) and kernel == self._now and layer.pads == (0, 0, 0, 0)
        if self._hidden or self._global == "average" or self._affine_in_front is not None or whole_map:
            self._dense(self._whole_map(layer))
            return
        edge = kernel[0] // 2
        if kernel not in ((1, 1), (3, 3)):
            raise ModelError(f"{layer.where}: a kernel of {kernel[0]} x {kernel[1]}; built: 1 x 1, 3 x 3")
        if layer.pads != (edge,) * 4:
            raise ModelError(
                f"{layer.where}: pads {list(layer.pads)}; built: zero padding 'same', {[edge] * 4} for this kernel"
            )
        if self._global == "max":  # a window as large as the map
            self._now, self._global = self._before, None
            self._max_pool(MaxPool(self._blocks[-1].where, self._now, self._now))
        weight = layer.weight
        if self._blocks and self._blocks[-1].signs is not None:
            weight = weight * self._blocks[-1].signs[:, None, None]
        self._blocks.append(_Block(layer.where, weight, layer.bias))
        self._channels = len(layer.weight)

    def _dense(self, layer: Dense) -> None:
        """A dense layer before the last one: hidden."""
        self._hidden.append(_Hidden(layer.where, *self._in_the_order_of_the_map(layer)))
        self._affine_in_front, self._now, self._channels = None, (1, 1), len(layer.weight)

    def _affine(self, layer: Affine) -> None:
        if self._hidden or self._global is not None or layer.axes != "c":
            self._affine_of_features(layer)
            return
        block = self._block(layer.where)
        self._check_channels(layer.where, len(layer.scale))
        scale, shift = layer.scale, layer.shift
        if block.signs is not None:
            scale = scale * block.signs
        if block.pooled and ((scale < 0).any() or block.signs is not None):
            # the largest value stays the largest where the sign is turned, and is turned back behind the pool
            block.signs = np.where(scale < 0, -1.0, 1.0)
            scale, shift = scale * block.signs, shift * block.signs
        if block.activation == "none" and block.scale is None:
            block.weight = block.weight * scale[:, None, None, None]
            block.bias = block.bias * scale + shift
            return
        if block.scale is None or block.shift is None:
            block.scale, block.shift = np.ones_like(scale), np.zeros_like(scale)
        block.scale, block.shift = block.scale * scale, block.shift * scale + shift

    def _affine_of_features(self, layer: Affine) -> None:
        """Behind a global pool, a flattened map or a hidden layer: part of the dense layer in front or behind."""
        if not self._hidden and self._global == "max" and self._affine_in_front is None and (layer.scale >= 0).all():
            kind, self._global = self._global, None  # as in front of the maximum
            self._affine(layer)
            self._global = kind
            return
        if len(layer.scale) != self._channels * self._now[0] * self._now[1]:
            raise ModelError(
                f"{layer.where}: for {len(layer.scale)} features, but {self._channels} x {self._now[0]} x "
                f"{self._now[1]} arrive"
            )
        last = self._hidden[-1] if self._hidden else None
        if last is not None and last.activation == "none" and self._affine_in_front is None:
            last.weight, last.bias = last.weight * layer.scale[:, None], last.bias * layer.scale + layer.shift
            return
        scale, shift = (self._as_chw(values[None], layer.axes)[0] for values in (layer.scale, layer.shift))
        if self._affine_in_front is not None:
            scale, shift = self._affine_in_front.scale * scale, self._affine_in_front.shift * scale + shift
        self._affine_in_front = _Features(layer.where, scale, shift)

    def _activation(self, layer: Activation) -> None:
        if self._affine_in_front is not None or (self._global == "average" and not self._hidden):
            place = "an affine of features" if self._affine_in_front is not None else "a global average"
            raise ModelError(f"{layer.where}: an activation behind {place}, and no dense layer between")
        block: _Block | _Hidden = self._hidden[-1] if self._hidden else self._with_its_sign(layer.where)
        scaled = isinstance(block, _Block) and block.scale is not None
        if scaled or block.activation not in ("none", layer.kind) or block.activation == "elu":
            raise ModelError(
                f"{layer.where}: a second activation in the block of {block.where}; built: one, then an affine, a pool"
            )
        block.activation = layer.kind

    def _max_pool(self, layer: MaxPool) -> None:
        for n, window in zip(self._now, layer.window, strict=True):
            if window > n:
                raise ModelError(f"{layer.where}: a window of {list(layer.window)} on a map of {list(self._now)}")
        if self._hidden or self._global is not None:
            return  # of a 1x1 map it changes nothing
        block = self._with_its_sign(layer.where)
        height, width = ((n - w) // s + 1 for n, w, s in zip(self._now, layer.window, layer.stride, strict=True))
        self._now = (height, width)
        (wh, ww), (sh, sw) = block.window, block.stride
        block.window = ((layer.window[0] - 1) * sh + wh, (layer.window[1] - 1) * sw + ww)
        block.stride = (layer.stride[0] * sh, layer.stride[1] * sw)

    def _global_pool(self, layer: GlobalPool) -> None:
        self._block(layer.where)
        if self._now == (1, 1):  # it changes nothing
            return
        if self._affine_in_front is not None:
            raise ModelError(f"{layer.where}: behind an affine of a flattened map, and no dense layer between")
        if layer.kind == "max":
            self._with_its_sign(layer.where)
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

    def _with_its_sign(self, where: str) -> _Block:
        """The last block, with the signs that the network has: by one more block, where they differ."""
        block = self._block(where)
        if block.signs is not None and (block.signs < 0).any():
            block = _Block(where, np.diag(block.signs)[:, :, None, None], np.zeros(self._channels))
            self._blocks.append(block)
        return block

    def _as_chw(self, rows: Array, axes: str) -> Array:
        """[R, F] over the map's values in the order of ``axes`` -> the same in the order "chw"."""
        if axes in ("c", "chw") or self._now == (1, 1):
            return rows
        extent = {"c": self._channels, "h": self._now[0], "w": self._now[1]}
        cube = rows.reshape(len(rows), *(extent[axis] for axis in axes))
        cube = cube.transpose(0, *(1 + axes.index(axis) for axis in "chw"))
        return np.ascontiguousarray(cube).reshape(len(rows), -1)

    def _in_the_order_of_the_map(self, layer: Dense) -> tuple[Array, Array]:
        """Weight and bias of a dense layer, with what comes in front of it folded in; features in the order "chw"."""
        if not self._blocks:
            raise ModelError(f"{layer.where}: no convolution before the dense layer")
        height, width = self._now
        if layer.weight.shape[1] != self._channels * height * width:
            raise ModelError(
                f"{layer.where}: {layer.weight.shape[1]} features, but {self._channels} x {height} x {width} arrive"
            )
        weight, bias = self._as_chw(layer.weight, layer.axes), layer.bias
        if self._affine_in_front is not None:
            weight, bias = fold_into_dense(weight, bias, self._affine_in_front.scale, self._affine_in_front.shift)
        signs = self._blocks[-1].signs
        if signs is not None and not self._hidden:
            weight = weight * np.repeat(signs, height * width)
        return weight, bias

    def _head(self, layer: Dense, behind: list[Layer]) -> tuple[tuple[Block, ...], Head, int]:
        weight, bias = self._in_the_order_of_the_map(layer)
        for after in behind:
            if isinstance(after, GlobalPool):
                continue  # of one value a tag
            if not isinstance(after, Affine):
                raise ModelError(f"{after.where}: between the last weights, {layer.where}, and the sigmoid")
            weight, bias = weight * after.scale[:, None], bias * after.scale + after.shift
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
        for i, hidden in enumerate(self._hidden):
            self.tensors[f"head.hidden.{i}.weight"], self.tensors[f"head.hidden.{i}.bias"] = hidden.weight, hidden.bias
        self.tensors["head.weight"], self.tensors["head.bias"] = weight, bias
        kinds: dict[str | None, Literal["chw", "max", "mean"]] = {None: "chw", "max": "max", "average": "mean"}
        head = Head(
            flatten=kinds[self._global],
            in_features=(self._hidden[0].weight if self._hidden else weight).shape[1],
            hidden=tuple(document.Dense(out_features=len(h.bias), activation=h.activation) for h in self._hidden),
        )
        return tuple(blocks), head, len(weight)

    def _dense_head(self, layer: Conv, behind: list[Layer]) -> tuple[Dense, list[Layer]]:
        """The last convolution as the head, and what is left behind it."""
        pools = [after for after in behind if isinstance(after, GlobalPool)]
        if not pools or self._now == (1, 1):
            return self._whole_map(layer), behind
        if behind[0] is pools[0] and pools[0].kind == "average" and layer.weight.shape[2:] == (1, 1):
            self._global_pool(pools[0])  # the average of sums is the sum of averages
            return self._whole_map(layer), [after for after in behind if after not in pools]
        # A map of scores and its maximum: one more block, and a head that passes its values on.
        self._conv(layer)
        for after in behind:
            self._step(after)
        n_tags = self._channels
        return Dense(layer.where, np.eye(n_tags), np.zeros(n_tags)), []

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
