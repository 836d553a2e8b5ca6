"""Nodes of an ONNX graph as plain values, and the constants that follow from nodes without data."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import ModelError
from .onnx_types import MAX_ELEMENTS, elements_of, one_line, type_name

MAX_COMPUTED = 1 << 28  # elements of all computed constants; a graph that needs more is refused
# Stands for the batch size in a shape that a graph computes. An exporter may pass it through int32 and float32, which
# both hold this number exactly.
BATCH = -7 << 24


@dataclass(frozen=True)
class Node:
    """One node. ``where`` names it in messages: by its own name, or by its outputs where it has none."""

    kind: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    where: str

    @classmethod
    def of(cls, proto: Any, index: int) -> Node:
        """From onnx's message."""
        from onnx import helper

        texts = (proto.name, proto.op_type, proto.domain, *proto.input, *proto.output)
        if not all(isinstance(text, str) for text in texts):  # bytes: not UTF-8
            raise ModelError(f"node {index}: a name that is not text; damaged")
        name = proto.name or f"node {index} giving {', '.join(proto.output)!r}"
        where = one_line(f"{name[:120]} ({proto.op_type[:60]})")
        attributes: dict[str, Any] = {}
        for attribute in proto.attribute:
            try:
                value = helper.get_attribute_value(attribute)
            except ValueError:
                raise ModelError(f"{where}: attribute {str(attribute.name)[:60]!r} is damaged") from None
            attributes[attribute.name] = value.decode("ascii", "replace") if isinstance(value, bytes) else value
        return cls(proto.op_type, proto.domain, tuple(proto.input), tuple(proto.output), attributes, where)

    def attribute(self, name: str, absent: Any) -> Any:
        """An attribute of the type of ``absent``, which is the value where there is none."""
        value = self.attributes.get(name, absent)
        if isinstance(absent, list):
            value = list(value) if hasattr(value, "__iter__") and not isinstance(value, str) else [value]
        elif isinstance(absent, (int, float)) and not isinstance(value, (int, float)):
            raise ModelError(f"{self.where}: {name} is {str(value)[:60]!r}; must be a number")
        return value

    def refuse(self, name: str, built: Any, what: str, absent: Any = None) -> None:
        """Raise ModelError where attribute ``name`` is there with another value than ``built``."""
        value = self.attribute(name, built if absent is None else absent)
        if value != built:
            raise ModelError(f"{self.where}: {what} {value}; built: {built}")


class Constants:
    """Initializers by name, and the constants that nodes compute from them and from shapes.

    ``needed`` are the names that the graph's output depends on: an exporter may leave initializers of any kind.
    """

    def __init__(self, initializers: Any, needed: set[str]) -> None:
        self.values: dict[str, np.ndarray] = {}
        self._computed = 0
        for initializer in initializers:
            if initializer.name in needed:
                self.values[initializer.name] = _array(initializer, initializer.name)

    def evaluate(self, node: Node) -> None:
        """Compute a node whose inputs are all constants; anything else on the way to the scores is refused."""
        missing = [name for name in node.inputs if name and name not in self.values]
        if missing:
            raise ModelError(f"{node.where}: takes {missing[0]!r}, which is beside the chain of layers: not built")
        if node.kind == "Constant":
            self.values[node.outputs[0]] = _constant(node)
            return
        inputs = [self.values[name] for name in node.inputs if name]
        function = _FUNCTIONS.get(node.kind)
        if function is None:
            raise ModelError(f"{node.where}: of constants is not built; built: {', '.join(['Constant', *_FUNCTIONS])}")
        try:
            size = _size(node, inputs)
            self._computed += size
            if size > MAX_ELEMENTS or self._computed > MAX_COMPUTED:
                raise ModelError(f"{node.where}: constants of {size} elements; at most {MAX_ELEMENTS}")
            with np.errstate(all="ignore"):  # what is not finite is refused where a layer takes it
                value = np.asarray(function(node, *inputs))
        except (ValueError, IndexError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise ModelError(f"{node.where}: its constants do not fit: {' '.join(str(error).split())[:120]}") from None
        self.values[node.outputs[0]] = value


def _size(node: Node, inputs: list[np.ndarray]) -> int:
    """Elements that a node's output may have at most, known before it is computed."""
    if node.kind in ("Add", "Sub", "Mul", "Div"):
        return int(np.prod(np.broadcast_shapes(*(x.shape for x in inputs)), dtype=object))
    if node.kind in ("Equal", "Max", "Min", "Pow", "Where"):
        return int(np.prod(np.broadcast_shapes(*(x.shape for x in inputs)), dtype=object))
    if node.kind == "Gather" and len(inputs) == 2:
        return int(inputs[0].size) * max(1, int(inputs[1].size))
    if node.kind == "ConstantOfShape":
        return _product(inputs[0])
    if node.kind == "Expand":
        return max(1, int(inputs[0].size)) * max(1, _product(inputs[1]))
    if node.kind == "Range":
        start, limit, step = (float(x.reshape(-1)[0]) for x in inputs)
        return max(0, int(abs(limit - start) / abs(step)) + 1) if step else 1
    return sum(int(x.size) for x in inputs)


def _product(shape: np.ndarray) -> int:
    """Elements of a tensor of this shape; a negative size is an error of its own."""
    total = 1
    for n in shape.reshape(-1).tolist():
        total *= abs(int(n))
    return total


def _array(proto: Any, name: str) -> np.ndarray:
    from onnx import numpy_helper

    where = one_line(name)[:80]
    elements_of(proto, where)
    try:
        return numpy_helper.to_array(proto)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{where}: damaged: {str(error)[:120]}") from None


def _constant(node: Node) -> np.ndarray:
    for name, value in node.attributes.items():
        if name == "value":
            return _array(value, node.where)
        if name in ("value_int", "value_ints"):
            return np.asarray(value, np.int64)
        if name in ("value_float", "value_floats"):
            return np.asarray(value, np.float32)
    raise ModelError(f"{node.where}: holds {', '.join(node.attributes) or 'nothing'}; built: numbers")


def _axes(node: Node, inputs: tuple[np.ndarray, ...]) -> tuple[int, ...]:
    values = inputs[0].reshape(-1).tolist() if inputs else node.attribute("axes", [])
    return tuple(int(v) for v in values)


def _cast(node: Node, x: np.ndarray) -> np.ndarray:
    from onnx import helper

    to = node.attribute("to", 1)
    try:
        dtype = helper.tensor_dtype_to_np_dtype(to)
    except KeyError:
        raise ModelError(f"{node.where}: to {type_name(to)}, which is not built") from None
    return x.astype(dtype)


def _filled(node: Node, shape: np.ndarray) -> np.ndarray:
    value = node.attributes.get("value")
    fill = np.zeros(1, np.float32) if value is None else _array(value, node.where)
    return np.full([int(n) for n in shape.reshape(-1)], fill.reshape(-1)[0], fill.dtype)


def _expand(node: Node, x: np.ndarray, shape: np.ndarray) -> np.ndarray:
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(int(n) for n in shape.reshape(-1)))).copy()


def shape_of(node: Node, shape: list[int]) -> np.ndarray:
    """What Shape gives, whose attributes may cut a part out."""
    end = node.attributes.get("end")
    return np.asarray(shape[slice(int(node.attribute("start", 0)), None if end is None else int(end))], np.int64)


def _slice(node: Node, x: np.ndarray, *inputs: np.ndarray) -> np.ndarray:
    names = ("starts", "ends", "axes", "steps")
    # Attributes before opset 10, inputs from then on.
    given = dict(zip(names, inputs, strict=False)) if inputs else {name: node.attributes.get(name) for name in names}
    starts, ends, axes, steps = (given.get(name) for name in names)
    if starts is None or ends is None:
        raise ModelError(f"{node.where}: without starts and ends; damaged")
    index = [slice(None)] * x.ndim
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[int(axis)] = slice(int(start), int(end), int(step))
    return x[tuple(index)]


# Exporters leave these beside the layers: they compute shapes, and batch-norms that were taken apart.
_FUNCTIONS: dict[str, Any] = {
    "Identity": lambda node, x: x,
    "Cast": _cast,
    "Reshape": lambda node, x, shape: x.reshape([int(n) for n in shape]),
    "Transpose": lambda node, x: x.transpose(node.attribute("perm", list(range(x.ndim))[::-1])),
    "Unsqueeze": lambda node, x, *axes: np.expand_dims(x, _axes(node, axes)),
    "Squeeze": lambda node, x, *axes: np.squeeze(x, _axes(node, axes) or None),
    "Gather": lambda node, x, i: np.take(x, i.astype(np.int64), axis=node.attribute("axis", 0)),
    "Concat": lambda node, *parts: np.concatenate(parts, axis=node.attribute("axis", 0)),
    "Slice": _slice,
    "Add": lambda node, a, b: a + b,
    "Sub": lambda node, a, b: a - b,
    "Mul": lambda node, a, b: a * b,
    "Div": lambda node, a, b: a / b if a.dtype.kind == "f" else a // b,
    "Neg": lambda node, a: -a,
    "Sqrt": lambda node, a: np.sqrt(a),
    "Reciprocal": lambda node, a: 1.0 / a,
    "Pow": lambda node, a, b: np.power(a, b).astype(a.dtype),
    "Max": lambda node, *parts: functools.reduce(np.maximum, parts),
    "Min": lambda node, *parts: functools.reduce(np.minimum, parts),
    "Equal": lambda node, a, b: a == b,
    "Where": lambda node, condition, a, b: np.where(condition, a, b),
    "Range": lambda node, start, limit, step: np.arange(start.item(), limit.item(), step.item(), dtype=start.dtype),
    "Expand": _expand,
    "ConstantOfShape": _filled,
    "Shape": lambda node, x: shape_of(node, list(x.shape)),
    "ReduceProd": lambda node, x, *axes: np.prod(
        x, _axes(node, axes) or None, keepdims=bool(node.attribute("keepdims", 1)), dtype=x.dtype
    ),
    "CastLike": lambda node, x, like: x.astype(like.dtype),
    "Flatten": lambda node, x: x.reshape(int(np.prod(x.shape[: node.attribute("axis", 1)], dtype=np.int64)), -1),
}
