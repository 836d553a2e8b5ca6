"""Nodes of an ONNX graph as plain values, and the constants that follow from nodes without data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import ModelError

MAX_ELEMENTS = 1 << 26  # of one constant; 3 x the largest weight of the paper's networks. Larger ones are refused.
MAX_COMPUTED = 1 << 28  # elements of all computed constants; a graph that needs more is refused
BATCH = -123_456_789  # stands for the batch size in a shape that a graph computes


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


def one_line(text: str) -> str:
    """``text`` with unprintable characters escaped: names in a file may hold anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class Constants:
    """Initializers by name, and the constants that nodes compute from them and from shapes."""

    def __init__(self, initializers: Any) -> None:
        self.values: dict[str, np.ndarray] = {}
        self._computed = 0
        for initializer in initializers:
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
            value = np.asarray(function(node, *inputs))
        except (ValueError, IndexError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise ModelError(f"{node.where}: its constants do not fit: {' '.join(str(error).split())[:120]}") from None
        self.values[node.outputs[0]] = value


def _size(node: Node, inputs: list[np.ndarray]) -> int:
    """Elements that a node's output may have at most, known before it is computed."""
    if node.kind in ("Add", "Sub", "Mul", "Div"):
        return int(np.prod(np.broadcast_shapes(*(x.shape for x in inputs)), dtype=object))
    if node.kind == "Gather" and len(inputs) == 2:
        return int(inputs[0].size) * max(1, int(inputs[1].size))
    return sum(int(x.size) for x in inputs)


def _array(proto: Any, name: str) -> np.ndarray:
    from onnx import numpy_helper

    if proto.data_location == 1 or proto.external_data:
        raise ModelError(f"{name[:80]}: its values are in another file; save the model as one file")
    elements = 1
    for n in proto.dims:
        elements *= int(n)
    if not 0 <= elements <= MAX_ELEMENTS:
        raise ModelError(f"{name[:80]}: {elements} elements; at most {MAX_ELEMENTS}")
    try:
        return numpy_helper.to_array(proto)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{name[:80]}: damaged: {str(error)[:120]}") from None


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

    return x.astype(helper.tensor_dtype_to_np_dtype(node.attribute("to", 1)))


def _slice(node: Node, x: np.ndarray, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> np.ndarray:
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
}
