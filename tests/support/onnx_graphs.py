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

    opset = 17

    def before(self, kind: str, constant: str) -> Build:
        """A node that takes the constant first."""
        self.node(kind, constant)
        inputs = self.nodes[-1].input
        inputs[0], inputs[1] = inputs[1], inputs[0]
        return self

    def constant(self, name: str, value: Any) -> Build:
        self.weights[name] = np.asarray(value)
        return self

    def shape_of(self, name: str, of: str, **attributes: Any) -> Build:
        """Shape of a tensor, beside the chain."""
        return self.aside("Shape", of, name=name, **attributes)

    def aside(self, kind: str, *inputs: str, name: str, **attributes: Any) -> Build:
        """A node beside the chain, whose output is ``name``."""
        self.nodes.append(helper.make_node(kind, inputs, [name], name=f"aside_{name}", **attributes))
        return self

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
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid(d, self.opset if not d else 1) for d in domains]
        )


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
    "pools in a row with gaps": lambda: with_head(
        Build().conv().node("MaxPool", kernel_shape=[1, 2], strides=[2, 3]).node("MaxPool", kernel_shape=[2, 3]),
        4 * 9 * 9,
    ),
    "same pools that pad nothing": lambda: (
        Build().conv().node("Relu").node("MaxPool", auto_pad="SAME_LOWER", **POOL).end()
    ),
    "pads that no window reaches": lambda: with_head(
        Build().conv().node("MaxPool", pads=[0, 0, 0, 1], kernel_shape=[2, 2], strides=[2, 4]), 4 * 10 * 8
    ),
    "a reshape of the image, channel last": lambda: (
        last(Build().constant("image", np.array([-1, 1, 20, 32])).node("Reshape", "image"))
        .conv()
        .node("Relu")
        .node("MaxPool", **POOL)
        .end()
    ),
    "product with the weights": lambda: (
        small("t", 640, 6)(Build())
        .conv()
        .node("Relu")
        .node("MaxPool", **POOL)
        .node("Flatten")
        .node("MatMul", "t")
        .node("Add", "hb")
        .node("Sigmoid")
    ),
    "weights that are not turned": lambda: (
        small("t", 640, 6)(Build())
        .conv()
        .node("Relu")
        .node("MaxPool", **POOL)
        .node("Flatten")
        .node("Gemm", "t", "hb", alpha=0.5)
        .node("Sigmoid")
    ),
    "a shape of an earlier tensor, as int32": lambda: chain(
        Build().conv().node("Relu").node("MaxPool", **POOL), "conv_out_0", TensorProto.INT32
    ),
    "a shape of an earlier tensor, as float": lambda: chain(
        Build().conv().node("Relu").node("MaxPool", **POOL), "relu_out_1", TensorProto.FLOAT
    ),
    "a shape of the input, gathered": lambda: gathered(Build().conv().node("Relu").node("MaxPool", **POOL)),
    "a part of a shape": lambda: (
        Build()
        .conv()
        .node("Relu")
        .node("MaxPool", **POOL)
        .shape_of("batch", "x", end=1)
        .constant("n", np.array([640]))
        .aside("Concat", "batch", "n", name="sizes", axis=0)
        .node("Reshape", "sizes")
        .node("Gemm", "hw", "hb", transB=1)
        .node("Sigmoid")
    ),
    "pad and a valid convolution": lambda: with_head(
        Build().constant("around", np.array([0, 0, 1, 1, 0, 0, 1, 1])).node("Pad", "around").conv(pads=[0] * 4), MAP
    ),
    "pads computed": lambda: with_head(pads_of_a_shape(Build()).conv(pads=[0] * 4).node("Relu"), MAP),
    "half a pad and half a padding": lambda: with_head(
        Build().constant("left", np.array([0, 0, 1, 0, 0, 0, 0, 1])).node("Pad", "left").conv(pads=[0, 1, 1, 0]), MAP
    ),
    "hidden dense layers": lambda: (
        small("v", 6, 9)(small("t", 640, 9)(Build()))
        .constant("q", np.ones(9, np.float32))
        .conv()
        .node("Relu")
        .node("MaxPool", **POOL)
        .node("Flatten")
        .node("MatMul", "t")
        .node("Elu")
        .node("Mul", "q")
        .node("Gemm", "v", "hb", transB=1)
        .node("Sigmoid")
    ),
    "a batch-norm of features": lambda: (
        small("g", 640)(Build())
        .conv()
        .node("Relu")
        .node("MaxPool", **POOL)
        .node("Transpose", perm=[0, 3, 1, 2])
        .node("Flatten")
        .node("Mul", "g")
        .node("Add", "g")
        .node("Gemm", "hw", "hb", transB=1)
        .node("Sigmoid")
    ),
    "a maximum, one axis and the other": lambda: with_head(
        Build().conv().node("ReduceMax", axes=[-1], keepdims=0).node("ReduceMax", axes=[2], keepdims=0), 4
    ),
    "a maximum over one axis": lambda: with_head(
        Build().conv().node("Elu").node("ReduceMax", axes=[2], keepdims=0), 128
    ),
    "a mean over one axis": lambda: with_head(Build().conv().node("Elu").node("ReduceMean", axes=[3], keepdims=0), 80),
    "a mean of maxima": lambda: with_head(
        Build().conv().node("ReduceMax", axes=[2], keepdims=0).node("ReduceMean", axes=[2], keepdims=0), 4
    ),
    "a sum over the number": lambda: with_head(
        Build()
        .constant("n", np.float32(640))
        .constant("a", np.array([2, 3]))
        .conv()
        .node("ReduceSum", "a")
        .node("Div", "n"),
        4,
    ),
    "a maximum over flattened positions": lambda: with_head(
        Build().constant("p", np.array([0, 4, -1])).conv().node("Reshape", "p").node("ReduceMax", axes=[2], keepdims=0),
        4,
    ),
    "a map of scores and its maximum": lambda: (
        small("v", 6, 4, 1, 1)(Build())
        .constant("a", np.array([3, 2]))
        .conv()
        .node("Relu")
        .node("Conv", "v")
        .node("GlobalMaxPool")
        .node("Squeeze", "a")
        .node("Sigmoid")
    ),
    "the maximum behind the sigmoid": lambda: (
        small("v", 6, 4, 3, 3)(Build())
        .conv()
        .node("Relu")
        .node("Conv", "v", pads=[1] * 4)
        .node("Sigmoid")
        .node("ReduceMax", axes=[2, 3], keepdims=0)
    ),
    "a dense layer of every position": lambda: with_head(
        small("v", 4, 3)(Build()).conv().node("Relu").node("Transpose", perm=[0, 2, 3, 1]).node("MatMul", "v"), 1920
    ),
    "a map turned between two convolutions": lambda: with_head(
        small("v", 3, 4, 3, 3)(Build())
        .conv()
        .node("Relu")
        .node("Transpose", perm=[0, 1, 3, 2])
        .node("Conv", "v", pads=[1] * 4)
        .node("MaxPool", kernel_shape=[2, 4], strides=[2, 4]),
        3 * 16 * 5,
    ),
    "all of an axis": lambda: with_head(
        Build()
        .constant("s", np.array([0]))
        .constant("e", np.array([1 << 62]))
        .constant("a", np.array([3]))
        .conv()
        .node("Slice", "s", "e", "a"),
        MAP,
    ),
    "the larger of 0": lambda: with_head(zero(Build().conv()).node("Max", "zero"), MAP),
    "celu": lambda: with_head(Build().conv().node("Celu", alpha=1.0), MAP),
    "input minus and over": lambda: with_head(
        three(Build()).node("Sub", "three").node("Div", "three").conv().node("Relu"), MAP
    ),
}


def chain(build: Build, of: str, kind: int) -> Build:
    """A flattening to [batch, -1] by the shape of an earlier tensor, cast to another type on its way."""
    build.shape_of("shape", of).aside("Cast", "shape", name="cast", to=kind)
    for name, value in {"zero_i": [0], "one_i": [1]}.items():
        build.constant(name, np.array(value, np.int64))
    build.aside("Slice", "cast", "zero_i", "one_i", "zero_i", name="batch")
    build.constant("rest", np.array([-1], helper.tensor_dtype_to_np_dtype(kind)))
    build.aside("Concat", "batch", "rest", name="both", axis=0).aside("Cast", "both", name="sizes", to=7)
    return build.node("Reshape", "sizes").node("Gemm", "hw", "hb", transB=1).node("Sigmoid")


def gathered(build: Build) -> Build:
    """Shape, Gather, Squeeze, Unsqueeze, Concat, Reshape, of the graph's input."""
    build.shape_of("shape", "x").constant("at", np.array([0])).aside("Gather", "shape", "at", name="one", axis=0)
    build.constant("axis_i", np.array([0])).aside("Squeeze", "one", "axis_i", name="scalar")
    build.aside("Unsqueeze", "scalar", "axis_i", name="again").constant("n", np.array([640]))
    build.aside("Concat", "again", "n", name="sizes", axis=0)
    return build.node("Reshape", "sizes").node("Gemm", "hw", "hb", transB=1).node("Sigmoid")


def pads_of_a_shape(build: Build) -> Build:
    """ZeroPad2d as PyTorch's older exporter writes it: ConstantOfShape, Concat, Reshape, Slice, Transpose, Cast."""
    build.constant("given", np.array([1, 1, 1, 1])).constant("four", np.array([4]))
    build.aside("ConstantOfShape", "four", name="zeros", value=numpy_helper.from_array(np.array([0])))
    build.aside("Concat", "given", "zeros", name="all", axis=0).constant("pairs_of", np.array([-1, 2]))
    build.aside("Reshape", "all", "pairs_of", name="pairs")
    for name, value in {"back": -1, "first": 0, "end": -(1 << 62)}.items():
        build.constant(name, np.array([value]))
    build.aside("Slice", "pairs", "back", "end", "first", "back", name="turned")
    build.aside("Transpose", "turned", name="across", perm=[1, 0]).constant("flat", np.array([-1]))
    build.aside("Reshape", "across", "flat", name="line").aside("Cast", "line", name="pads", to=7)
    return build.node("Pad", "pads")


def ones(build: Build, name: str, *shape: int, value: float = 1.0) -> Build:
    return build.constant(name, np.full(shape, value, np.float32))


def small(name: str, *shape: int) -> Callable[[Build], Build]:
    """Weights of a given shape."""
    values = 0.1 * np.random.default_rng(7).standard_normal(shape).astype(np.float32)
    return lambda build: build.constant(name, values)


def last(build: Build) -> Build:
    """With the channel behind the image."""
    build.shape = ["batch", 20, 32, 1]
    return build


def zero(build: Build) -> Build:
    build.weights["zero"] = np.array(0, np.float32)
    return build


def three(build: Build) -> Build:
    build.weights["three"] = np.array([3], np.float32)
    return build
