"""The network of an ONNX file as layers, with the facts about its input and outputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..stack import Array, Layer


@dataclass
class Graph:
    """The network of an ONNX file.

    Attributes
    ----------
    input : name of the input
    shape : of the input, without the batch
    batch : its fixed size, or None
    image : sizes of the input's two image axes, a and b
    orientation : order in which axes a and b arrive at the first convolution, "ab" or "ba"
    standardized : whether the graph subtracts the segment's mean and divides by its deviation
    scale, shift : of the graph's own affine on the input, or None
    axis : the axis along which these have values, "a" or "b"; "" for one value
    layers : the network
    logits : name of the sigmoid's input
    output : name of the scores, or of the logits
    """

    input: str
    shape: tuple[int, ...]
    batch: int | None
    image: tuple[int, int] = (0, 0)
    orientation: str = "ab"
    standardized: bool = False
    scale: Array | None = None
    shift: Array | None = None
    axis: Literal["a", "b", ""] = ""
    layers: list[Layer] = field(default_factory=list)
    logits: str = ""
    output: str = ""
