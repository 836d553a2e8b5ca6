"""The operators of ONNX that make up a stack of blocks, and the change of the data's axes by each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from ...errors import ModelError
from ..batchnorm import scale_shift
from ..stack import Activation, Affine, Array, Conv, Dense, GlobalPool, Layer, MaxPool, Sigmoid
from .onnx_constants import BATCH, Constants, Node
from .onnx_graph import Graph


class Operators:
    """State on the way along the chain of layers, and a method ``_op_KIND`` for each operator.

    ``_axes`` names the axes of the data without the batch: a and b are the image's, in the order of the input, c is
    the channels', f the features'. ``_sizes`` are their lengths.
    """

    _graph: Graph
    _constants: Constants
    _axes: str
    _sizes: tuple[int, ...]
    _axes_of_flat = "chw"  # the order of the values along axis f
    _flat: tuple[int, int] = (0, 0)  # channels, and the positions of each

    def _size(self, axis: str) -> int:
        return self._sizes[self._axes.index(axis)]

    def _shown(self) -> list[Any]:
        """The data's shape, for messages."""
        return ["batch", *self._sizes]

    # ---- nodes ----

    def _step(self, node: Node, current: str) -> None:
        if node.domain not in ("", "ai.onnx"):
            raise ModelError(f"{node.where}: an operator of {node.domain}, which is not built")
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

    def _constant(self, node: Node, i: int, current: str = "") -> np.ndarray:
        """Input ``i`` of a node, which must be a constant."""
        name = node.inputs[i] if i < len(node.inputs) else ""
        value = self._constants.values.get(name)
        if value is None:
            raise ModelError(f"{node.where}: input {name!r} is not a constant; built: a chain of layers")
        return value

    def _emit(self, layer: Layer) -> None:
        self._graph.layers.append(layer)

    def _op_Identity(self, node: Node, current: str) -> None:
        pass

    def _op_Dropout(self, node: Node, current: str) -> None:
        if len(node.inputs) > 2 and node.inputs[2] and bool(np.any(self._constant(node, 2))):
            raise ModelError(f"{node.where}: in training mode; export the model in evaluation mode")

    def _op_Cast(self, node: Node, current: str) -> None:
        if node.attribute("to", 1) not in (1, 11):
            raise ModelError(
                f"{node.where}: casts data to ONNX type {node.attribute('to', 0)}; built: float32, float64"
            )

    def _op_Conv(self, node: Node, current: str) -> None:
        self._need_map(node)
        weight = self._constant(node, 1).astype(np.float64)
        if weight.ndim != 4:
            raise ModelError(f"{node.where}: a kernel of {weight.ndim - 2} dimensions; built: 2")
        kernel = weight.shape[2:]
        node.refuse("strides", [1, 1], "strides")
        node.refuse("dilations", [1, 1], "dilations")
        node.refuse("group", 1, "groups")
        bias = np.zeros(len(weight)) if len(node.inputs) < 3 else self._constant(node, 2).astype(np.float64)
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
        if self._axes[0] != "c" or sorted(self._axes[1:]) != ["a", "b"]:
            raise ModelError(f"{node.where}: the axes arrive as {self._axes}, not channel first")
        if not any(isinstance(layer, Conv) for layer in self._graph.layers):
            self._graph.orientation = self._axes[1:]
        top, left, bottom, right = pads
        self._emit(Conv(node.where, weight, bias, (top, left, bottom, right)))
        height, width = self._sizes[1] + top + bottom - kernel[0] + 1, self._sizes[2] + left + right - kernel[1] + 1
        if min(height, width) < 1:
            raise ModelError(f"{node.where}: a kernel of {list(kernel)} on a map of {list(self._sizes[1:])}")
        self._sizes = (len(weight), height, width)

    def _op_BatchNormalization(self, node: Node, current: str) -> None:
        if node.attribute("training_mode", 0):
            raise ModelError(f"{node.where}: in training mode; export the model in evaluation mode")
        gamma, beta, mean, variance = (self._constant(node, i) for i in (1, 2, 3, 4))
        if len({gamma.shape, beta.shape, mean.shape, variance.shape}) > 1 or gamma.ndim != 1:
            raise ModelError(f"{node.where}: parameters of different shapes")
        # The attribute is stored as float32, where 1e-5 is 9.99999974e-06.
        epsilon = float(node.attribute("epsilon", 1e-5))
        try:
            scale, shift = scale_shift(gamma, beta, mean, variance, rule="standard", epsilon=epsilon)
        except ModelError as error:
            raise ModelError(f"{node.where}: {error}") from None
        self._affine(node, self._axes[0], scale, shift)

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
        rank = 1 + len(self._sizes)
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
        axis = self._axes[wide[0] - 1] if wide else ""
        if wide and self._sizes[wide[0] - 1] != shape[wide[0]]:
            raise ModelError(f"{node.where}: a constant of shape {list(value.shape)} for data {self._shown()}")
        with np.errstate(divide="ignore"):
            self._affine(node, axis, *affine(value.reshape(-1)))

    def _affine(self, node: Node, axis: str, scale: Array, shift: Array) -> None:
        if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
            raise ModelError(f"{node.where}: infinite or not a number")
        if not self._graph.layers:
            self._input_affine(node, axis, scale, shift)
            return
        if axis in ("a", "b") and self._size(axis) > 1:
            raise ModelError(
                f"{node.where}: an affine along {'ab'.index(axis) + 1} of the image's axes; built: channels"
            )
        channels = self._sizes[0] if self._axes == "f" else self._size("c")
        if len(scale) not in (1, channels):
            raise ModelError(f"{node.where}: for {len(scale)} channels, but {channels} arrive")
        if self._axes == "f" and self._flat[1] > 1:
            raise ModelError(f"{node.where}: an affine of single features before the dense layer is not built")
        self._emit(Affine(node.where, *(np.broadcast_to(v, (channels,)).copy() for v in (scale, shift))))

    def _input_affine(self, node: Node, axis: str, scale: Array, shift: Array) -> None:
        graph = self._graph
        axis = axis if axis in ("a", "b") and len(scale) > 1 else ""
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
        if np.any(low != 0) or np.any(np.asarray(high) < np.finfo(np.float32).max):
            raise ModelError(f"{node.where}: clips to [{low}, {high}]; built: to [0, infinity), a ReLU")
        self._op_Relu(node, current)

    def _op_Elu(self, node: Node, current: str) -> None:
        node.refuse("alpha", 1.0, "alpha")
        self._emit(Activation(node.where, "elu"))

    def _op_Sigmoid(self, node: Node, current: str) -> None:
        self._emit(Sigmoid(node.where))

    def _op_MaxPool(self, node: Node, current: str) -> None:
        self._need_map(node)
        window = node.attribute("kernel_shape", [])
        stride = node.attribute("strides", [1] * len(window))
        node.refuse("dilations", [1] * len(window), "dilations")
        node.refuse("pads", [0] * 2 * len(window), "pads")
        if len(window) != 2 or len(stride) != 2 or min(*window, *stride) < 1:
            raise ModelError(f"{node.where}: a window {window} of stride {stride}; built: two dimensions")
        sizes = self._sizes[1:]
        rounded_up = [-(-(n - w) // s) + 1 for n, w, s in zip(sizes, window, stride, strict=True)]
        floor = [(n - w) // s + 1 for n, w, s in zip(sizes, window, stride, strict=True)]
        if min(floor) < 1:
            raise ModelError(f"{node.where}: a window of {window} on a map of {list(sizes)}")
        if node.attribute("ceil_mode", 0) and rounded_up != floor:
            raise ModelError(f"{node.where}: ceil_mode on a map of {list(sizes)}; built: floor")
        if node.attribute("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            raise ModelError(f"{node.where}: auto_pad {node.attribute('auto_pad', '')}; built: no padding")
        self._emit(MaxPool(node.where, tuple(window), tuple(stride)))
        self._sizes = (self._sizes[0], *floor)

    def _op_AveragePool(self, node: Node, current: str) -> None:
        self._need_map(node)
        if tuple(node.attribute("kernel_shape", [])) != self._sizes[1:] or any(node.attribute("pads", [0])):
            raise ModelError(
                f"{node.where}: an average over part of the map; built: max-pools, and an average over all"
            )
        self._pool_all(node, "average")

    def _op_GlobalMaxPool(self, node: Node, current: str) -> None:
        self._pool_all(node, "max")

    def _op_GlobalAveragePool(self, node: Node, current: str) -> None:
        self._pool_all(node, "average")

    def _op_ReduceMax(self, node: Node, current: str) -> None:
        self._reduce(node, "max")

    def _op_ReduceMean(self, node: Node, current: str) -> None:
        self._reduce(node, "average")

    def _reduce(self, node: Node, kind: Literal["max", "average"]) -> None:
        axes = self._constant(node, 1).tolist() if len(node.inputs) > 1 else node.attribute("axes", [])
        rank = 1 + len(self._sizes)
        reduced = sorted(self._axes[a % rank - 1] if a % rank else "batch" for a in axes)
        if reduced != ["a", "b"]:
            raise ModelError(f"{node.where}: reduces axes {axes} of {rank}; built: both of the image's axes at once")
        self._pool_all(node, kind)
        if not node.attribute("keepdims", 1):
            self._sizes, self._axes = (self._size("c"),), "f"
            self._axes_of_flat, self._flat = "chw", (self._sizes[0], 1)

    def _pool_all(self, node: Node, kind: Literal["max", "average"]) -> None:
        self._need_map(node)
        self._emit(GlobalPool(node.where, kind))
        self._sizes = tuple(n if axis == "c" else 1 for axis, n in zip(self._axes, self._sizes, strict=True))

    # ---- shapes ----

    def _op_Transpose(self, node: Node, current: str) -> None:
        order = node.attribute("perm", list(range(len(self._sizes), -1, -1)))
        if not order or order[0] != 0 or sorted(order) != list(range(len(self._sizes) + 1)):
            raise ModelError(f"{node.where}: perm {order}; built: the batch stays in front")
        self._axes = "".join(self._axes[i - 1] for i in order[1:])
        self._sizes = tuple(self._sizes[i - 1] for i in order[1:])

    def _op_Unsqueeze(self, node: Node, current: str) -> None:
        axes = self._constant(node, 1).reshape(-1).tolist() if len(node.inputs) > 1 else node.attribute("axes", [])
        rank = 2 + len(self._sizes)
        if len(axes) != 1 or not axes[0] % rank or "c" in self._axes or self._axes == "f":
            raise ModelError(f"{node.where}: adds axes {axes} to {self._shown()}; built: a channel axis")
        at = axes[0] % rank - 1
        self._axes = self._axes[:at] + "c" + self._axes[at:]
        self._sizes = (*self._sizes[:at], 1, *self._sizes[at:])

    def _op_Squeeze(self, node: Node, current: str) -> None:
        axes = self._constant(node, 1).reshape(-1).tolist() if len(node.inputs) > 1 else node.attribute("axes", [])
        gone = {a % (1 + len(self._sizes)) - 1 for a in axes}
        if not gone or any(i < 0 or self._sizes[i] != 1 for i in gone):
            raise ModelError(f"{node.where}: removes axes {axes} of {self._shown()}; name axes of size 1")
        kept = [i for i in range(len(self._sizes)) if i not in gone]
        if not kept or (self._graph.layers and "c" not in (self._axes[i] for i in kept)):
            raise ModelError(f"{node.where}: removes the channels of {self._shown()}")
        self._axes = "".join(self._axes[i] for i in kept)
        self._sizes = tuple(self._sizes[i] for i in kept)
        if self._axes == "c":
            self._axes, self._axes_of_flat, self._flat = "f", "chw", (self._sizes[0], 1)

    def _op_Flatten(self, node: Node, current: str) -> None:
        node.refuse("axis", 1, "axis", absent=1)
        self._reshape(node, [math.prod(self._sizes)])

    def _op_Reshape(self, node: Node, current: str) -> None:
        wanted = self._constant(node, 1).reshape(-1).tolist()
        total = math.prod(self._sizes)
        if node.attribute("allowzero", 0) == 0:
            wanted = [self._sizes[i - 1] if n == 0 and 0 < i <= len(self._sizes) else n for i, n in enumerate(wanted)]
        first, rest = (wanted[0], wanted[1:]) if wanted else (0, [])
        if rest.count(-1) == 1:
            known = math.prod(n for n in rest if n != -1)
            rest = [total // known if n == -1 and known else n for n in rest]
        keeps_batch = first in (BATCH, -1, 0) or first == self._graph.batch
        if not keeps_batch or math.prod(rest) != total or any(n < 1 for n in rest):
            shown = ["batch" if n == BATCH else n for n in wanted]
            raise ModelError(f"{node.where}: {self._shown()} to {shown}; built: the batch stays as it is")
        self._reshape(node, rest)

    def _reshape(self, node: Node, sizes: list[int]) -> None:
        """To a flat vector, or with axes of size 1 added or removed."""
        if list(self._sizes) == sizes:
            return
        if not self._graph.layers:  # before the network: a channel axis comes or goes
            if len(sizes) == 3 and sizes[0] == 1 and tuple(sizes[1:]) == self._sizes:
                self._axes, self._sizes = "c" + self._axes, tuple(sizes)
                return
            if (
                len(sizes) == 2
                and "c" in self._axes
                and [n for n in self._sizes if n != 1] == [n for n in sizes if n != 1]
            ):
                self._axes, self._sizes = self._axes.replace("c", ""), tuple(sizes)
                return
        elif len(sizes) == 1 and self._axes != "f":
            names = {self._graph.orientation[0]: "h", self._graph.orientation[1]: "w", "c": "c"}
            self._axes_of_flat = "".join(names[axis] for axis in self._axes)
            self._flat = (self._size("c"), sizes[0] // self._size("c"))
            self._axes, self._sizes = "f", (sizes[0],)
            return
        elif self._axes == "f" and len(sizes) == 3 and sizes[1:] == [1, 1]:
            self._axes, self._sizes = "c" + self._graph.orientation, tuple(sizes)
            return
        raise ModelError(f"{node.where}: {self._shown()} to {['batch', *sizes]} is not built; built: flattening")

    # ---- dense ----

    def _op_Gemm(self, node: Node, current: str) -> None:
        node.refuse("transA", 0, "transA")
        weight = self._constant(node, 1).astype(np.float64)
        weight = (weight if node.attribute("transB", 0) else weight.T) * node.attribute("alpha", 1.0)
        bias = self._constant(node, 2).astype(np.float64) if len(node.inputs) > 2 else np.zeros(1)
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
        if self._axes != "f":
            raise ModelError(f"{node.where}: on data {self._shown()}; built: on [batch, features]")
        if weight.ndim != 2 or weight.shape[1] != self._sizes[0]:
            raise ModelError(f"{node.where}: weights {list(weight.shape)} for {self._sizes[0]} features")
        self._emit(Dense(node.where, weight, np.array(bias, np.float64), self._axes_of_flat))
        self._sizes, self._axes_of_flat, self._flat = (len(weight),), "chw", (len(weight), 1)

    def _need_map(self, node: Node) -> None:
        if len(self._sizes) != 3:
            raise ModelError(f"{node.where}: on data {self._shown()}; built: on [batch, C, H, W]")
