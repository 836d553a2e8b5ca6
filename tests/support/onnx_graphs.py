"""Small ONNX graphs, written node by node, that a stack of blocks can be (ACCEPTED)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper


class Build:
    """A small graph in which one thing can be changed: conv -> relu -> pool -> flatten -> gemm -> sigmoid."""

    def __init__(self) -> None:
        rng = np.random.default_rng(5)
        self.weights = {
            "w": rng.standard_normal((4, 1, 3, 3)).astype(np.float32),
            "b": rng.standard_normal(4).astype(np.float32),
            "hw": (0.05 * rng.standard_normal((6, 4 * 10 * 16))).astype(np.float32),
            "hb": rng.standard_normal(6).astype(np.float32),
            "per_channel": np.array([0.5, -2.0, 1.5, 3.0], np.float32).reshape(1, 4, 1, 1),
        }
        self.shape: list[Any] = ["batch", 1, 20, 32]
        self.nodes: list[Any] = []
        self.current = "x"

    def node(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> Build:
        output = f"{kind.lower()}_out_{len(self.nodes)}"
        name = f"my_{kind.lower()}"
        if any(node.name == name for node in self.nodes):
            name += f"_{len(self.nodes)}"
        node = helper.make_node(kind, [self.current, *inputs], [output], name=name, domain=domain, **attributes)
        self.nodes.append(node)
        self.current = output
        return self

    def conv(self, **attributes: Any) -> Build:
        return self.node("Conv", "w", "b", **{"pads": [1, 1, 1, 1], **attributes})

    def end(self, head: str = "hw") -> Build:
        return self.node("Flatten").node("Gemm", head, "hb", transB=1).node("Sigmoid")

    def model(self) -> Any:
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "net",
            [value("x", TensorProto.FLOAT, self.shape)],
            [value(self.current, TensorProto.FLOAT, None)],
            [numpy_helper.from_array(array, name) for name, array in self.weights.items()],
        )
        domains = {"", *(node.domain for node in self.nodes)}
        return helper.make_model(graph, opset_imports=[helper.make_opsetid(d, 17 if not d else 1) for d in domains])


POOL = dict(kernel_shape=[2, 2], strides=[2, 2])
MAP = 4 * 20 * 32


def with_head(build: Build, features: int) -> Build:
    build.weights["hw"] = (0.02 * np.random.default_rng(6).standard_normal((6, features))).astype(np.float32)
    return build.end()


ACCEPTED: dict[str, Callable[[], Build]] = {
    "plain": lambda: Build().conv().node("Relu").node("MaxPool", **POOL).end(),
    "relu as clip": lambda: with_head(zero(Build().conv()).node("Clip", "zero"), MAP),
    "affine before and after": lambda: with_head(
        Build().conv().node("Mul", "per_channel").node("Elu").node("Add", "per_channel"), MAP
    ),
    "pools in a row": lambda: with_head(
        Build().conv().node("Relu").node("MaxPool", **POOL).node("MaxPool", kernel_shape=[3, 2], strides=[2, 3]),
        4 * 4 * 5,
    ),
    "relu twice": lambda: Build().conv().node("Relu").node("MaxPool", **POOL).node("Relu").end(),
    "negative scale behind a pool": lambda: (
        Build().conv().node("Relu").node("MaxPool", **POOL).node("Mul", "per_channel").end()
    ),
    "negative scale between pool and activation": lambda: (
        Build().conv().node("MaxPool", **POOL).node("Mul", "per_channel").node("Relu").end()
    ),
    "average over all": lambda: with_head(Build().conv().node("Relu").node("AveragePool", kernel_shape=[20, 32]), 4),
    "same by name": lambda: with_head(Build().node("Conv", "w", "b", auto_pad="SAME_LOWER").node("Relu"), MAP),
    "ceil that is floor": lambda: Build().conv().node("Relu").node("MaxPool", ceil_mode=1, **POOL).end(),
    "input minus and over": lambda: with_head(
        three(Build()).node("Sub", "three").node("Div", "three").conv().node("Relu"), MAP
    ),
}


def zero(build: Build) -> Build:
    build.weights["zero"] = np.array(0, np.float32)
    return build


def three(build: Build) -> Build:
    build.weights["three"] = np.array([3], np.float32)
    return build
