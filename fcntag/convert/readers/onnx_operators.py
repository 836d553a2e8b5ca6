"""The operators of ONNX that make up a stack of blocks, and the change of the data's axes by each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np

from ...errors import ModelError
from ..batchnorm import scale_shift
from ..stack import Activation, Affine, Array, Conv, Dense, GlobalPool, MaxPool, Sigmoid
from .onnx_axes import Axes
from .onnx_constants import Node
from .onnx_shapes import ShapeOperators
from .onnx_types import FLOATS, type_name


class Operators(ShapeOperators):
    """A method ``_op_KIND`` for each operator, which appends layers to the graph."""

    # ---- nodes ----

    def _step(self, node: Node, current: str) -> None:
        if node.domain not in ("", "ai.onnx"):
            made = ""
            if node.domain.startswith(("com.microsoft", "ai.onnx.contrib")):
                made = ": ONNX Runtime optimised this file; export it without that, or take the file from before"
            raise ModelError(f"{node.where}: an operator of {node.domain}, which is not built{made}")
        step = getattr(self, f"_op_{node.kind}", None)
        if step is None:
            built = sorted(name[4:] for name in dir(self) if name.startswith("_op_"))
            raise ModelError(f"{node.where}: an operator that is not built; built: {', '.join(built)}")
        try:
            step(node, current)
        except (ValueError, IndexError, TypeError, KeyError, ZeroDivisionError, OverflowError) as error:
            if isinstance(error, ModelError):
                raise
            # Attributes and weights of a damaged file may have any type and shape.
            raise ModelError(f"{node.where}: damaged: {' '.join(str(error).split())[:120]}") from None

    def _op_Dropout(self, node: Node, current: str) -> None:
        if len(node.inputs) > 2 and node.inputs[2] and bool(np.any(self._constant(node, 2))):
            raise ModelError(f"{node.where}: in training mode; export the model in evaluation mode")

    def _op_Cast(self, node: Node, current: str) -> None:
        to = node.attribute("to", 1)
        if to not in FLOATS:
            raise ModelError(f"{node.where}: casts data to {type_name(to)}; built: {', '.join(FLOATS.values())}")

    def _op_Conv(self, node: Node, current: str) -> None:
        axes = self._map(node)
        weight = self._constant(node, 1).astype(np.float64)
        if weight.ndim != 4:
            raise ModelError(f"{node.where}: a kernel of {weight.ndim - 2} dimensions; built: 2")
        kernel = weight.shape[2:]
        node.refuse("strides", [1, 1], "strides")
        node.refuse("dilations", [1, 1], "dilations")
        node.refuse("group", 1, "groups")
        given = len(node.inputs) > 2 and node.inputs[2]
        bias = self._constant(node, 2).astype(np.float64) if given else np.zeros(len(weight))
        if bias.shape != (len(weight),):
            raise ModelError(f"{node.where}: biases {list(bias.shape)} for weights {list(weight.shape)}")
        edge = [(k - 1) // 2 for k in kernel], [k // 2 for k in kernel]
        pads = {
            "NOTSET": node.attribute("pads", [0, 0, 0, 0]),
            "VALID": [0, 0, 0, 0],
            "SAME_UPPER": [*edge[0], *edge[1]],
            "SAME_LOWER": [*edge[1], *edge[0]],
        }.get(node.attribute("auto_pad", "NOTSET"))
        if pads is None or len(pads) != 4 or min(pads) < 0:
            raise ModelError(f"{node.where}: pads {pads}; built: zero padding 'same'")
        if not any(isinstance(layer, Conv) for layer in self._graph.layers):
            self._graph.orientation = axes
        out = [n + pads[i] + pads[i + 2] - kernel[i] + 1 for i, n in enumerate(self._axes.size(x) for x in axes)]
        if min(out) < 1:
            raise ModelError(f"{node.where}: a kernel of {list(kernel)} on a map of {list(self._axes.sizes[1:])}")
        around = [self._pads.get(letter, (0, 0)) for letter in axes]
        self._pads.clear()
        top, left, bottom, right = (int(pads[i]) + around[i % 2][i // 2] for i in range(4))
        if axes != self._graph.orientation:  # the map arrives turned, and so does the kernel
            weight, (top, left, bottom, right) = weight.transpose(0, 1, 3, 2), (left, top, right, bottom)
        self._emit(Conv(node.where, weight, bias, (top, left, bottom, right)))
        self._axes = Axes.of(("c", *axes), c=len(weight), **dict(zip(axes, out, strict=True)))

    def _op_BatchNormalization(self, node: Node, current: str) -> None:
        # Before opset 14 the statistics of the batch come out of a node that trains.
        if node.attribute("training_mode", 0) or any(node.outputs[1:]):
            raise ModelError(f"{node.where}: in training mode; export the model in evaluation mode")
        node.refuse("spatial", 1, "spatial")
        gamma, beta, mean, variance = (self._constant(node, i) for i in (1, 2, 3, 4))
        if len({gamma.shape, beta.shape, mean.shape, variance.shape}) > 1 or gamma.ndim != 1:
            raise ModelError(f"{node.where}: parameters of different shapes")
        # The attribute is stored as float32, where 1e-5 is 9.99999974e-06.
        epsilon = float(node.attribute("epsilon", 1e-5))
        try:
            scale, shift = scale_shift(gamma, beta, mean, variance, rule="standard", epsilon=epsilon)
        except ModelError as error:
            raise ModelError(f"{node.where}: {error}") from None
        self._affine(node, self._axes.groups[0], scale, shift)

    def _op_Mul(self, node: Node, current: str) -> None:
        self._arithmetic(node, current, lambda x: (x, np.zeros_like(x)))

    def _op_Add(self, node: Node, current: str) -> None:
        self._arithmetic(node, current, lambda x: (np.ones_like(x), x))

    def _op_Sub(self, node: Node, current: str) -> None:
        sign = 1.0 if node.inputs[0] == current else -1.0
        self._arithmetic(node, current, lambda x: (np.full_like(x, sign), -sign * x))

    def _op_Div(self, node: Node, current: str) -> None:
        if node.inputs[0] != current:
            raise ModelError(f"{node.where}: divides by the data")
        self._arithmetic(node, current, lambda x: (1.0 / x, np.zeros_like(x)))

    def _arithmetic(self, node: Node, current: str, affine: Callable[[Array], tuple[Array, Array]]) -> None:
        value = self._constant(node, 1 if node.inputs[0] == current else 0).astype(np.float64)
        sizes = self._axes.sizes
        rank = 1 + len(sizes)
        if value.ndim > rank:
            raise ModelError(f"{node.where}: a constant of {value.ndim} dimensions for data of {rank}")
        shape = (1,) * (rank - value.ndim) + value.shape
        wide = [i for i, n in enumerate(shape) if n != 1]
        if wide and wide[0] == 0:
            raise ModelError(f"{node.where}: a constant that is another one for each segment of a batch")
        if len(wide) > 1:
            raise ModelError(
                f"{node.where}: a constant of shape {list(value.shape)}: it varies along more than one axis"
            )
        axis = self._axes.groups[wide[0] - 1] if wide else ""
        if wide and sizes[wide[0] - 1] != shape[wide[0]]:
            raise ModelError(f"{node.where}: a constant of shape {list(value.shape)} for data {self._shown()}")
        with np.errstate(divide="ignore"):
            self._affine(node, axis, *affine(value.reshape(-1)))

    def _affine(self, node: Node, axis: str, scale: Array, shift: Array) -> None:
        """An affine along an axis of the data, given by its letters: one value, or one for each position."""
        if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
            raise ModelError(f"{node.where}: infinite or not a number")
        if not self._graph.layers:
            self._input_affine(node, axis, scale, shift)
            return
        if len(scale) == 1:
            axis = "c"
            scale, shift = (np.broadcast_to(v, (self._axes.size("c"),)).copy() for v in (scale, shift))
        if axis in ("", "c"):
            if len(scale) != self._axes.size("c"):
                raise ModelError(f"{node.where}: for {len(scale)} channels, but {self._axes.size('c')} arrive")
            self._emit(Affine(node.where, scale, shift))
            return
        if len(self._axes.groups) > 1:
            shown = " and ".join(str("ab".index(x) + 1) for x in axis if x in "ab")
            raise ModelError(
                f"{node.where}: an affine along {shown} of the image's axes; built: along the channels, or along all"
            )
        if len(scale) != math.prod(self._axes.sizes):
            raise ModelError(f"{node.where}: {len(scale)} values for {math.prod(self._axes.sizes)} features")
        self._emit(Affine(node.where, scale, shift, axes=self._order()))

    def _order(self) -> str:
        """The axes of the data in the order of its values, as a layer names them, e.g. "chw"."""
        names = {"c": "c", self._graph.orientation[0]: "h", self._graph.orientation[1]: "w"}
        return "".join(names[letter] for letter in self._axes.order)

    def _input_affine(self, node: Node, axis: str, scale: Array, shift: Array) -> None:
        graph = self._graph
        self._no_pads(node.where)
        if len(axis) > 1:
            raise ModelError(f"{node.where}: an affine of every pixel of the input; built: along one of its axes")
        axis = axis if len(scale) > 1 else ""
        if len(scale) not in (1, self._axes.size(axis or "c")):
            raise ModelError(f"{node.where}: for {len(scale)} channels, but {self._axes.size(axis or 'c')} arrive")
        if axis and graph.axis not in ("", axis):
            raise ModelError(f"{node.where}: affines of the input along both of its axes; built: along one")
        if graph.standardized and (np.any(scale != 1) or np.any(shift != 0)):
            raise ModelError(f"{node.where}: an affine behind the standardisation of the input is not built")
        if graph.scale is None or graph.shift is None:
            graph.scale, graph.shift = np.ones(1), np.zeros(1)
        graph.scale, graph.shift = graph.scale * scale, graph.shift * scale + shift
        graph.axis = axis or graph.axis  # type: ignore[assignment]

    def _op_Relu(self, node: Node, current: str) -> None:
        self._emit(Activation(node.where, "relu"))

    def _op_Clip(self, node: Node, current: str) -> None:
        low = self._constant(node, 1) if len(node.inputs) > 1 and node.inputs[1] else node.attribute("min", -np.inf)
        high = self._constant(node, 2) if len(node.inputs) > 2 and node.inputs[2] else node.attribute("max", np.inf)
        high = np.asarray(high)
        limit = np.finfo(high.dtype).max if high.dtype in (np.float16, np.float32) else np.finfo(np.float32).max
        if np.any(low != 0) or np.any(high < limit):
            raise ModelError(f"{node.where}: clips to [{low}, {high}]; built: to [0, infinity), a ReLU")
        self._op_Relu(node, current)

    def _op_Elu(self, node: Node, current: str) -> None:
        node.refuse("alpha", 1.0, "alpha")
        self._emit(Activation(node.where, "elu"))

    def _op_Celu(self, node: Node, current: str) -> None:
        self._op_Elu(node, current)  # the same function where alpha is 1

    def _op_Max(self, node: Node, current: str) -> None:
        i = 1 if node.inputs[0] == current else 0
        if len(node.inputs) != 2 or np.any(self._constant(node, i) != 0) or self._constant(node, i).size != 1:
            raise ModelError(f"{node.where}: built: the larger of the data and 0, a ReLU")
        self._op_Relu(node, current)

    def _op_Sigmoid(self, node: Node, current: str) -> None:
        if len(self._axes.groups) > 1:
            self._map(node)
        self._emit(Sigmoid(node.where))

    # ---- pools ----

    def _op_MaxPool(self, node: Node, current: str) -> None:
        axes = self._map(node)
        sizes = [self._axes.size(letter) for letter in axes]
        window, stride = self._window(node, sizes)
        floor = [(n - w) // s + 1 for n, w, s in zip(sizes, window, stride, strict=True)]
        if min(floor) < 1:
            raise ModelError(f"{node.where}: a window of {window} on a map of {sizes}")
        out, before = _padded(node, sizes, window, stride)
        if any(before) or out != floor:
            how, pads = node.attribute("auto_pad", "NOTSET"), node.attribute("pads", [0] * 4)
            shown = (
                f"pads {pads}" if any(pads) else "ceil_mode" if node.attribute("ceil_mode", 0) else f"auto_pad {how}"
            )
            raise ModelError(
                f"{node.where}: {shown} on a map of {sizes}; built: floor, and no window that reaches over the edge"
            )
        if axes != self._graph.orientation:
            window, stride = window[::-1], stride[::-1]
        self._emit(MaxPool(node.where, (window[0], window[1]), (stride[0], stride[1])))
        self._axes = Axes.of(("c", *axes), c=self._axes.size("c"), **dict(zip(axes, floor, strict=True)))

    def _window(self, node: Node, sizes: list[int]) -> tuple[list[int], list[int]]:
        window = [int(n) for n in node.attribute("kernel_shape", [])]
        stride = [int(n) for n in node.attribute("strides", [1] * len(window))]
        node.refuse("dilations", [1] * len(window), "dilations")
        if len(window) != len(sizes) or len(stride) != len(sizes) or min(*window, *stride) < 1:
            raise ModelError(f"{node.where}: a window {window} of stride {stride}; built: two dimensions")
        return window, stride

    def _op_AveragePool(self, node: Node, current: str) -> None:
        axes = self._map(node)
        sizes = [self._axes.size(letter) for letter in axes]
        window, stride = self._window(node, sizes)
        out, before = _padded(node, sizes, window, stride)
        whole = [n for n, w in zip(sizes, window, strict=True) if w == n]
        kept = all(w == n or (w, s) == (1, 1) for n, w, s in zip(sizes, window, stride, strict=True))
        if not whole or not kept or any(before) or out != [n - w + 1 for n, w in zip(sizes, window, strict=True)]:
            raise ModelError(
                f"{node.where}: an average over part of the map; built: max-pools, and an average over all of an axis"
            )
        self._reduced(node, "average", [i + 1 for i in (0, 1) if window[i] == sizes[i]], keep=True)

    def _op_GlobalMaxPool(self, node: Node, current: str) -> None:
        self._reduced(node, "max", list(range(1, len(self._axes.groups))), keep=True)

    def _op_GlobalAveragePool(self, node: Node, current: str) -> None:
        self._reduced(node, "average", list(range(1, len(self._axes.groups))), keep=True)

    def _op_ReduceMax(self, node: Node, current: str) -> None:
        self._reduce(node, "max")

    def _op_ReduceMean(self, node: Node, current: str) -> None:
        self._reduce(node, "average")

    def _op_ReduceSum(self, node: Node, current: str) -> None:
        """A sum is the average times the number of values."""
        before = math.prod(self._axes.sizes)
        self._reduce(node, "average")
        times = before // math.prod(self._axes.sizes)
        channels = self._axes.size("c")
        if times > 1:
            self._emit(Affine(node.where, np.full(channels, float(times)), np.zeros(channels)))

    def _reduce(self, node: Node, kind: Literal["max", "average"]) -> None:
        axes = self._axes_given(node)
        rank = 1 + len(self._axes.groups)
        if not axes and node.attribute("noop_with_empty_axes", 0):
            return
        if not axes or any(axis % rank == 0 or not -rank <= axis < rank for axis in axes):
            raise ModelError(
                f"{node.where}: reduces axes {axes} of {rank}; built: axes of the image, without the batch"
            )
        self._reduced(node, kind, [axis % rank - 1 for axis in axes], keep=bool(node.attribute("keepdims", 1)))

    def _reduced(self, node: Node, kind: Literal["max", "average"], axes: list[int], *, keep: bool) -> None:
        """A maximum or an average over all of some axes of the data, which are axes of the image."""
        letters = "".join(self._axes.groups[i] for i in axes)
        if "c" in letters:
            raise ModelError(f"{node.where}: reduces the channels of {self._shown()}; built: axes of the image")
        if not self._graph.layers:
            raise ModelError(f"{node.where}: of the input; built: behind a convolution")
        if letters:
            whole = tuple(sorted(self._graph.orientation.index(letter) for letter in letters))
            self._emit(GlobalPool(node.where, kind, whole))
        groups = tuple(
            group if i not in axes else "" for i, group in enumerate(self._axes.groups) if keep or i not in axes
        )
        self._axes = Axes.of(groups, **{**dict(self._axes.extent), **dict.fromkeys(letters, 1)})

    # ---- dense ----

    def _op_Gemm(self, node: Node, current: str) -> None:
        if node.inputs[0] != current:
            raise ModelError(f"{node.where}: a constant times the data; built: the data times a constant")
        node.refuse("transA", 0, "transA")
        weight = self._constant(node, 1).astype(np.float64)
        weight = (weight if node.attribute("transB", 0) else weight.T) * node.attribute("alpha", 1.0)
        given = len(node.inputs) > 2 and node.inputs[2]
        bias = self._constant(node, 2).astype(np.float64) if given else np.zeros(1)
        bias = bias.reshape(-1) * node.attribute("beta", 1.0)
        if weight.ndim != 2 or bias.size not in (1, len(weight)):
            raise ModelError(f"{node.where}: {bias.size} biases for weights {list(weight.shape)}")
        self._dense(node, weight, np.broadcast_to(bias, (len(weight),)))

    def _op_MatMul(self, node: Node, current: str) -> None:
        if node.inputs[0] != current:
            raise ModelError(f"{node.where}: a constant times the data; built: the data times a constant")
        weight = self._constant(node, 1).astype(np.float64)
        self._dense(node, weight.T, np.zeros(weight.shape[-1]))

    def _dense(self, node: Node, weight: Array, bias: Array) -> None:
        groups = self._axes.groups
        if weight.ndim != 2 or weight.shape[1] != self._axes.sizes[-1]:
            raise ModelError(f"{node.where}: weights {list(weight.shape)} for {self._axes.sizes[-1]} features")
        weight, bias = np.ascontiguousarray(weight), np.array(bias, np.float64)
        if len(groups) == 1:
            self._emit(Dense(node.where, weight, bias, self._order()))
            self._axes = Axes.of(("c",), c=len(weight))
            return
        if any("c" in group for group in groups[:-1]) or groups[-1] not in ("c", ""):
            raise ModelError(f"{node.where}: on data {self._shown()}; built: on [batch, features]")
        # Of every position by itself: a convolution of one position.
        self._emit(Conv(node.where, weight[:, :, None, None], bias, (0, 0, 0, 0)))
        self._axes = Axes.of((*groups[:-1], "c"), **{**dict(self._axes.extent), "c": len(weight)})

    def _map(self, node: Node) -> str:
        """The image axes in the order in which they arrive, "ab" or "ba"; the data must be [batch, C, H, W]."""
        axes = self._axes.image(self._graph.orientation)
        if axes is None:
            raise ModelError(
                f"{node.where}: on data {self._shown()}; built: on [batch, C, H, W], the channels in front"
            )
        return axes


def _padded(node: Node, sizes: list[int], window: list[int], stride: list[int]) -> tuple[list[int], list[int]]:
    """The positions of a pool along each axis, and the padding in front of each, as the node's attributes have it."""
    how, n_axes = node.attribute("auto_pad", "NOTSET"), len(sizes)
    if how in ("SAME_UPPER", "SAME_LOWER"):
        out = [-(-n // s) for n, s in zip(sizes, stride, strict=True)]
        total = [max((o - 1) * s + w - n, 0) for o, n, w, s in zip(out, sizes, window, stride, strict=True)]
        return out, [(t + (how == "SAME_LOWER")) // 2 for t in total]
    pads = [int(n) for n in node.attribute("pads", [0] * 2 * n_axes)] if how == "NOTSET" else [0] * 2 * n_axes
    if len(pads) != 2 * n_axes or min(pads) < 0:
        raise ModelError(f"{node.where}: pads {pads}; built: none")
    free = [n + pads[i] + pads[i + n_axes] - window[i] for i, n in enumerate(sizes)]
    if not node.attribute("ceil_mode", 0):
        return [f // s + 1 for f, s in zip(free, stride, strict=True)], pads[:n_axes]
    out = [-(-f // s) + 1 for f, s in zip(free, stride, strict=True)]
    # A window that begins in the padding behind the map is left out.
    return [o - ((o - 1) * stride[i] >= sizes[i] + pads[i]) for i, o in enumerate(out)], pads[:n_axes]
