"""Element types and sizes of ONNX tensors, and text from a file for a message."""

from __future__ import annotations

from typing import Any

from ...errors import ModelError

FLOAT32 = 1
FLOATS = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}  # that the data may have
_NAMES = {"float": "float32", "double": "float64"}  # ONNX's own names, where NumPy has others

MAX_ELEMENTS = 1 << 26  # of one constant; 3 x the largest weight of the paper's networks. Larger ones are refused.


def one_line(text: str) -> str:
    """``text`` with unprintable characters escaped: names in a file may hold anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def type_name(number: Any) -> str:
    """The name of an element type, e.g. "float16"."""
    from onnx import TensorProto

    try:
        name = TensorProto.DataType.Name(number).lower()
    except (ValueError, TypeError):
        return f"an unknown type ({str(number)[:20]})"
    return _NAMES.get(name, name)


def elements_of(tensor: Any, where: str) -> int:
    """Number of values of a tensor; raises ModelError if there are too many."""
    elements = 1
    for n in tensor.dims:
        elements *= int(n)
        if not 0 <= elements <= MAX_ELEMENTS:
            raise ModelError(f"{where}: {elements} elements; at most {MAX_ELEMENTS}")
    return elements


def bytes_of(number: int, where: str) -> int:
    """Bytes of one value of an element type; raises ModelError for a type without whole bytes."""
    from onnx import helper

    name = type_name(number)
    if name in ("string", "undefined") or "4" in name.replace("64", "") or "unknown" in name:
        raise ModelError(f"{where}: of type {name} in another file, which is not built")
    return int(helper.tensor_dtype_to_np_dtype(number).itemsize)
