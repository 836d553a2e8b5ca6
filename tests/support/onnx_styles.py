"""Random networks as ONNX graphs, written node by node as exporters other than PyTorch's write them.

``keras`` (with tf2onnx): a Reshape of the one-channel image, Conv Mul Add, Shape chains, MatMul Add. ``paddle``: Conv
Add Identity, BatchNormalization, Shape Slice Concat Reshape. ``jax``: a Transpose in front, auto_pad, means as sums,
Gemm with transB=0. Nodes are those of the file's opset, 7 to 25.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from support.random_networks import N_TAGS, Network

STYLES = ("keras", "paddle", "jax")


class Writer:
    """Nodes in a chain; ``last`` says whether the channels are behind the image now."""

    def __init__(self, network: Network, style: str, rng: np.random.Generator) -> None:
        self.network, self.style, self.rng = network, style, rng
        self.opset = int(rng.integers(7, 26))
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.current = "x"
        self.flat = False

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def constant(self, value: Any) -> str:
        name = f"k{len(self.weights) + len(self.nodes)}"
        array = np.asarray(value)
        if self.chance(0.2) and (self.opset >= 9 or array.dtype == np.float32):
            tensor = numpy_helper.from_array(array, name)
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.weights.append(numpy_helper.from_array(array, name))
        return name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        out = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=f"{kind}_{len(self.nodes)}", **attributes))
        return out

    def on(self, kind: str, *inputs: str, **attributes: Any) -> None:
        self.current = self.node(kind, self.current, *inputs, **attributes)

    def with_axes(self, kind: str, axes: list[int], since: int, current: str = "", **attributes: Any) -> str:
        """A node whose axes are an attribute before an opset, an input from then on."""
        current = current or self.current
        if self.opset < since:
            return self.node(kind, current, axes=axes, **attributes)
        return self.node(kind, current, self.constant(np.array(axes, np.int64)), **attributes)

    # ---- layers ----

    def channels(self, values: np.ndarray) -> np.ndarray:
        return values if self.flat else values.reshape(1, -1, 1, 1)

    def conv(self, weight: np.ndarray, bias: np.ndarray | None, same: bool) -> None:
        edge = weight.shape[2] // 2 if same else 0
        how = self.rng.choice(["pads", "auto", "Pad"], p=[0.5, 0.3, 0.2]) if edge else "pads"
        if how == "Pad":
            pads = [0, 0, edge, edge, 0, 0, edge, edge]
            if self.opset < 11:
                self.on("Pad", pads=pads, mode="constant", value=0.0)
            else:
                self.on("Pad", self.constant(np.array(pads, np.int64)))
        attributes: dict[str, Any] = {"kernel_shape": list(weight.shape[2:])}
        if how == "auto":
            attributes["auto_pad"] = str(self.rng.choice(["SAME_UPPER", "SAME_LOWER"]))
        elif how == "pads":
            attributes["pads"] = [edge] * 4
        apart = bias is not None and (self.style == "paddle" or self.chance(0.2))
        inputs = [self.constant(weight)]
        if bias is not None and not apart:
            inputs.append(self.constant(bias))
        self.on("Conv", *inputs, **attributes)
        if apart and bias is not None:
            self.on("Add", self.constant(self.channels(bias)))

    def bn(self, gamma: np.ndarray, beta: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> None:
        if self.style == "keras" or self.chance(0.1):
            scale = gamma / np.sqrt(variance + np.float32(1e-5))
            self.on("Mul", self.constant(self.channels(scale.astype(np.float32))))
            self.on("Add", self.constant(self.channels((beta - mean * scale).astype(np.float32))))
        else:
            if self.style == "paddle":
                self.on("Identity")
            self.on("BatchNormalization", *(self.constant(v) for v in (gamma, beta, mean, variance)), epsilon=1e-5)

    def act(self, kind: str) -> None:
        if kind == "relu" and self.chance(0.1):
            if self.opset < 11:
                self.on("Clip", min=0.0)
            else:
                self.on("Clip", self.constant(np.float32(0)))
        else:
            self.on("Relu" if kind == "relu" else "Elu")

    def pool(self, window: tuple[int, int], stride: tuple[int, int]) -> None:
        attributes: dict[str, Any] = {"kernel_shape": list(window), "strides": list(stride)}
        size = self.size()
        # ONNX Runtime 1.32 refuses SAME where the padding comes out negative: a stride larger than the window.
        covered = all((-(-n // s) - 1) * s + w - n == 0 for n, w, s in zip(size, window, stride, strict=True))
        if covered and self.chance(0.5):
            attributes["auto_pad"] = str(self.rng.choice(["SAME_UPPER", "SAME_LOWER"]))
        elif self.style == "jax" or self.chance(0.2):
            attributes["auto_pad"] = "VALID"
        self.on("MaxPool", **attributes)
        self.map = tuple((n - w) // s + 1 for n, w, s in zip(size, window, stride, strict=True))

    def size(self) -> tuple[int, int]:
        return self.map  # type: ignore[return-value]

    def reduce(self, kind: str, axes: list[int]) -> None:
        """A maximum or mean over axes, which stay."""
        height, width = self.size()
        sizes = {2: height, 3: width}
        way = int(self.rng.integers(4))
        if len(axes) == 2 and way == 0:
            self.on("GlobalMaxPool" if kind == "max" else "GlobalAveragePool")
        elif way == 1:
            window = [sizes[a] if a in axes else 1 for a in (2, 3)]
            self.on("MaxPool" if kind == "max" else "AveragePool", kernel_shape=window, strides=[1, 1])
        elif kind == "mean" and (self.style == "jax" or way == 2):
            self.current = self.with_axes("ReduceSum", axes, 13, keepdims=1)
            n = int(np.prod([sizes[a] for a in axes]))
            if self.chance(0.5):
                self.on("Div", self.constant(np.float32(n)))
            else:
                self.on("Mul", self.constant(np.float32(1 / n)))
        else:
            name = "ReduceMax" if kind == "max" else "ReduceMean"
            since = 18
            parts = [[a] for a in axes] if self.chance(0.4) else [axes]
            if self.chance(0.5):
                parts = parts[::-1]
            for part in parts:
                self.current = self.with_axes(name, part, since, keepdims=1)
        self.map = tuple(1 if a in axes else sizes[a] for a in (2, 3))

    def flatten(self, order: str) -> None:
        """To [batch, features], by a shape that the graph computes of the tensor before, or by a constant."""
        before = self.current
        height, width = self.size()
        features = self.n_channels * height * width
        if order == "hwc":
            self.on("Transpose", perm=[0, 2, 3, 1])
        way = int(self.rng.integers(4))
        if way == 0:
            self.on("Flatten", axis=1)
        elif way == 1:
            self.on("Reshape", self.constant(np.array([-1, features], np.int64)))
        else:
            shape = self.node("Shape", before if self.chance(0.5) else self.current)
            if self.style == "keras":  # Shape Cast Slice Concat Cast Reshape, by way of another type
                between = int(self.rng.choice([TensorProto.FLOAT, TensorProto.INT32]))
                part = self.slice(self.node("Cast", shape, to=between))
                rest = np.array([features], np.float32 if between == TensorProto.FLOAT else np.int32)
                both = self.node("Concat", part, self.constant(rest), axis=0)
                shape = self.node("Cast", both, to=TensorProto.INT64)
            elif self.style == "paddle":
                shape = self.node("Concat", self.slice(shape), self.constant(np.array([-1], np.int64)), axis=0)
            else:
                one = self.node("Gather", shape, self.constant(np.int64(0)), axis=0)
                one = self.with_axes("Unsqueeze", [0], 13, one)
                shape = self.node("Concat", one, self.constant(np.array([features], np.int64)), axis=0)
            self.on("Reshape", shape)
        self.flat = True

    def slice(self, shape: str) -> str:
        """The first size of a shape."""
        if self.opset < 10:
            return self.node("Slice", shape, starts=[0], ends=[1], axes=[0])
        zero, one = (self.constant(np.array([n], np.int64)) for n in (0, 1))
        return self.node("Slice", shape, zero, one, zero)

    def dense(self, weight: np.ndarray, bias: np.ndarray | None) -> None:
        if self.style == "jax" or self.chance(0.2):
            turned = self.chance(0.3)
            inputs = [self.constant(weight if turned else np.ascontiguousarray(weight.T))]
            if bias is not None or self.opset < 11:
                inputs.append(self.constant(np.zeros(len(weight), np.float32) if bias is None else bias))
            self.on("Gemm", *inputs, transB=int(turned))
        else:
            self.on("MatMul", self.constant(np.ascontiguousarray(weight.T)))
            if bias is not None:
                self.on("Add", self.constant(bias))

    def begin(self) -> tuple[int, ...]:
        """The input, in the style's order, to [batch, 1, H, W]; its shape without the batch."""
        height, width = self.network.size
        self.map = (height, width)
        if self.style == "paddle" or self.chance(0.15):
            return (1, height, width)
        if self.style == "jax":
            self.on("Transpose", perm=[0, 3, 1, 2])
        else:
            self.on("Reshape", self.constant(np.array([-1, 1, height, width], np.int64)))
        return (height, width, 1)

    def write(self, path: Path) -> tuple[int, ...]:
        """Write the file; returns the shape of its input without the batch."""
        shape = self.begin()
        for kind, *rest in self.network.layers:
            if kind == "global":
                self.reduce(rest[0], [2, 3])
            elif kind == "axis":
                self.reduce(rest[0], [rest[1]])
            elif kind == "sigmoid":
                self.on("Sigmoid")
            else:
                if kind == "conv":
                    self.n_channels = len(rest[0])
                    if not rest[2]:
                        self.map = (1, 1)
                getattr(self, kind)(*rest)
            if self.chance(0.05):
                self.on("Identity")
        self.weights.append(numpy_helper.from_array(np.zeros(3, np.float32), "nobody_takes_this"))
        value = helper.make_tensor_value_info
        batch: Any = 2 if self.chance(0.3) else "batch"
        graph = helper.make_graph(
            self.nodes,
            "net",
            [value("x", TensorProto.FLOAT, [batch, *shape])],
            [value(self.current, TensorProto.FLOAT, [batch, N_TAGS])],
            self.weights,
        )
        ir_version = max(helper.find_min_ir_version_for([helper.make_opsetid("", self.opset)]), 4)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=ir_version)
        onnx.checker.check_model(model, full_check=True)
        beside = self.chance(0.3)
        onnx.save(model, path, save_as_external_data=beside, size_threshold=100, location=f"{path.name}.data")
        return shape
