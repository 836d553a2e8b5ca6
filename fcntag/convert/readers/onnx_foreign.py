"""Files that are no float network in ONNX: what they are, and what to export instead."""

from __future__ import annotations

from typing import Any

from ...errors import ModelError
from .onnx_types import one_line

# Operators of a network whose weights are integers; ONNX Runtime has more of them, in its own domain.
_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger")
_PREFIXES = ("QLinear", "QGemm", "QAttention", "DynamicQuantize", "MatMulNBits", "MatMulInteger", "ConvInteger")
# What stands at the start of another file, or 4 bytes behind it.
_STARTS = (
    (0, b"version https://git-lfs", "a Git LFS pointer: fetch the file itself (git lfs pull)"),
    (0, b"PK\x03\x04", "a zip archive, as PyTorch and Keras write: export the network to ONNX"),
    (0, b"\x89HDF", "an HDF5 file, as Keras writes: export the network to ONNX"),
    (0, b"<", "a page of HTML or XML: the download failed"),
    (4, b"TFL3", "a TensorFlow Lite file: export the network that it was made from to ONNX"),
    (4, b"ORTM", "in ONNX Runtime's own format: take the .onnx file that it was made from"),
)


def foreign(data: bytes) -> str:
    """What a file is that is no ONNX file, to append to a message; "" where it is not known."""
    for at, start, text in _STARTS:
        if data[at : at + len(start)] == start:
            return f"; it is {text}"
    return ""


def refuse_quantised(proto: Any) -> None:
    """Raise ModelError where a node quantises: the weights then are integers, and the scores others."""
    for node in proto.graph.node:
        kind = str(node.op_type)  # bytes in a damaged file
        if kind in _QUANTISED or kind.startswith(_PREFIXES):
            name = one_line(f"{str(node.name)[:120] or 'a node'} ({kind[:60]})")
            raise ModelError(
                f"{name}: a quantised network; convert the float32 network that it was made from, exported without "
                "quantisation"
            )
