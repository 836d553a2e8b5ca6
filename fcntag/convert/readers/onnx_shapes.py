"""The operators of ONNX that give the data another shape, and the state that they and the layers share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...errors import ModelError
from ..stack import Layer
from .onnx_axes import Axes
from .onnx_constants import BATCH, Constants, Node
from .onnx_graph import Graph


class ShapeOperators:
    """State on the way along the chain of layers, and a method ``_op_KIND`` for each operator without numbers."""

    _graph: Graph
    _constants: Constants
    _axes: Axes
    _pads: dict[str, tuple[int, int]]  # zeros that a Pad put around axes a and b, for the convolution behind it

    def _shown(self) -> list[Any]:
        """The data's shape, for messages."""
        return ["batch", *self._axes.sizes]

    def _constant(self, node: Node, i: int) -> np.ndarray:
        """Input ``i`` of a node, which must be a constant."""
        name = node.inputs[i] if i < len(node.inputs) else ""
        value = self._constants.values.get(name)
        if value is None:
            raise ModelError(f"{node.where}: input {name!r} is not a constant; built: a chain of layers")
        return value

    def _axes_given(self, node: Node) -> list[int]:
        """The axes that a node names: an attribute, or since opset 13 or 18 an input."""
        if len(node.inputs) > 1 and node.inputs[1]:
            return [int(axis) for axis in self._constant(node, 1).reshape(-1)]
        return [int(axis) for axis in node.attribute("axes", [])]

    def _emit(self, layer: Layer) -> None:
        self._no_pads(layer.where)
        self._graph.layers.append(layer)

    def _no_pads(self, where: str) -> None:
        if any(any(pads) for pads in self._pads.values()):
            raise ModelError(f"{where}: behind zeros that a Pad adds; built there: a convolution")

    def _op_Identity(self, node: Node, current: str) -> None:
        pass

    def _op_Transpose(self, node: Node, current: str) -> None:
        rank = 1 + len(self._axes.groups)
        order = node.attribute("perm", list(range(rank))[::-1])
        if not order or order[0] != 0 or sorted(order) != list(range(rank)):
            raise ModelError(f"{node.where}: perm {order}; built: the batch stays in front")
        self._axes = self._axes.transposed([i - 1 for i in order[1:]])

    def _op_Unsqueeze(self, node: Node, current: str) -> None:
        axes = self._axes_given(node)
        rank = 1 + len(self._axes.groups) + len(axes)
        at = sorted(axis % rank for axis in axes)
        if not at or len(set(at)) != len(at) or at[0] == 0 or min(axes) < -rank or max(axes) >= rank:
            raise ModelError(f"{node.where}: adds axes {axes} to {self._shown()}; built: behind the batch")
        sizes = list(self._axes.sizes)
        for axis in at:
            sizes.insert(axis - 1, 1)
        self._reshape(node, sizes)

    def _op_Squeeze(self, node: Node, current: str) -> None:
        axes = self._axes_given(node)
        sizes = self._axes.sizes
        gone = {axis % (1 + len(sizes)) - 1 for axis in axes}
        if not gone or any(i < 0 or sizes[i] != 1 for i in gone):
            raise ModelError(f"{node.where}: removes axes {axes} of {self._shown()}; name axes of size 1")
        self._reshape(node, [n for i, n in enumerate(sizes) if i not in gone])

    def _op_Flatten(self, node: Node, current: str) -> None:
        axis = node.attribute("axis", 1)
        if axis % (1 + len(self._axes.groups)) != 1:
            raise ModelError(f"{node.where}: axis {axis}; built: 1, all but the batch")
        self._reshape(node, [math.prod(self._axes.sizes)])

    def _op_Reshape(self, node: Node, current: str) -> None:
        wanted = [int(n) for n in self._constant(node, 1).reshape(-1)]
        sizes = self._axes.sizes
        total = math.prod(sizes)
        if node.attribute("allowzero", 0) == 0:
            wanted = [sizes[i - 1] if n == 0 and 0 < i <= len(sizes) else n for i, n in enumerate(wanted)]
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
        axes = self._axes.reshaped(sizes)
        if axes is None:
            raise ModelError(
                f"{node.where}: {self._shown()} to {['batch', *sizes]} cuts an axis; built: flattening, and axes of "
                "size 1 added or removed"
            )
        self._axes = axes

    def _op_Slice(self, node: Node, current: str) -> None:
        """All of an axis, as x[..., None] writes it; a part of one is not built."""
        names = ("starts", "ends", "axes", "steps")
        if len(node.inputs) > 1:
            given = {
                name: self._constant(node, i + 1).tolist() for i, name in enumerate(names) if i + 1 < len(node.inputs)
            }
        else:
            given = {name: list(node.attributes[name]) for name in names if name in node.attributes}
        starts = given["starts"]
        axes = given.get("axes", list(range(len(starts))))
        sizes = self._axes.sizes
        for start, end, axis, step in zip(
            starts, given["ends"], axes, given.get("steps", [1] * len(starts)), strict=True
        ):
            i = axis % (1 + len(sizes)) - 1
            if start != 0 or step != 1 or end < (sizes[i] if i >= 0 else 1 << 31):
                raise ModelError(
                    f"{node.where}: [{start}:{end}:{step}] of axis {axis} of {self._shown()}; built: all of it"
                )

    def _op_Pad(self, node: Node, current: str) -> None:
        """Zeros around the image, which the next convolution takes for its own."""
        rank = 1 + len(self._axes.groups)
        mode = node.attribute("mode", "constant")
        value = node.attribute("value", 0.0)
        if len(node.inputs) > 2 and node.inputs[2]:
            value = self._constant(node, 2)
        pads = self._constant(node, 1).tolist() if len(node.inputs) > 1 else node.attribute("pads", [])
        named = self._constant(node, 3).tolist() if len(node.inputs) > 3 and node.inputs[3] else list(range(rank))
        if len(pads) != 2 * len(named):
            raise ModelError(f"{node.where}: {len(pads)} pads for {len(named)} axes")
        for k, axis in enumerate(named):
            before, after = int(pads[k]), int(pads[k + len(named)])
            if (before, after) == (0, 0):
                continue
            letter = self._letter(axis % rank - 1) if axis % rank else ""
            if mode != "constant" or np.any(np.asarray(value) != 0):
                raise ModelError(f"{node.where}: pads by {mode} {value}; built: zeros, in front of a convolution")
            if not letter or min(before, after) < 0:
                raise ModelError(f"{node.where}: pads {pads}; built: zeros around the image's two axes")
            old = self._pads.get(letter, (0, 0))
            self._pads[letter] = (old[0] + before, old[1] + after)
            groups = list(self._axes.groups)
            groups[axis % rank - 1] = letter
            extent = {**dict(self._axes.extent), letter: self._axes.size(letter) + before + after}
            self._axes = Axes.of(tuple(groups), **extent)

    def _letter(self, i: int) -> str:
        """The image axis, "a" or "b", along axis ``i`` of the data without the batch; "" if it is none."""
        groups = self._axes.groups
        if groups[i]:
            return groups[i] if groups[i] in ("a", "b") else ""
        empty = [k for k, group in enumerate(groups) if not group]
        missing = [letter for letter in self._graph.orientation if not any(letter in group for group in groups)]
        if "c" not in "".join(groups) and len(groups) == 3:  # one channel: in front, or else behind
            image = self._axes.image(self._graph.orientation)
            return "" if image is None or i == 0 else image[i - 1]
        return missing[empty.index(i)] if len(empty) == len(missing) else ""
