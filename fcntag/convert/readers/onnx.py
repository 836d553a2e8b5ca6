"""ONNX graphs: from the input to the scores node by node, as the layers of a :class:`~fcntag.convert.stack.Stack`.

A graph is data; nothing of it is run here. A node that does not fit a stack of blocks is refused by name and operator.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ModelError
from .onnx_axes import Axes
from .onnx_constants import BATCH, Constants, Node, shape_of
from .onnx_external import embed
from .onnx_foreign import foreign, refuse_quantised
from .onnx_graph import Graph
from .onnx_operators import Operators
from .onnx_types import FLOATS, type_name

MAX_NODES = 4096


def load(data: bytes, path: Path) -> tuple[Any, list[Path]]:
    """An ONNX file as onnx has it, with the values that lie in files beside it, and those files.

    Raises ModelError, which names the extra where onnx is missing, and the fault of a file that cannot be taken.
    """
    try:
        import onnx
    except ImportError:
        raise ModelError('reading ONNX files needs onnx; install it with: pip install "fcntag[onnx]"') from None
    try:
        proto = onnx.load_from_string(data)
    except Exception:  # protobuf's own errors, of several kinds
        raise ModelError(f"not an ONNX file, or damaged{foreign(data)}") from None
    if not proto.graph.node:
        raise ModelError(f"not an ONNX file, or a graph without nodes{foreign(data)}")
    if len(proto.graph.node) > MAX_NODES:
        raise ModelError(f"{len(proto.graph.node)} nodes; at most {MAX_NODES}")
    refuse_quantised(proto)
    if proto.functions:
        raise ModelError(
            f"{proto.functions[0].name}: a function of the file's own; save the model with its operators inlined"
        )
    return proto, embed(proto, path)


def metadata(proto: Any) -> str | None:
    """The model document in an exported file, as JSON."""
    return {str(entry.key): str(entry.value) for entry in proto.metadata_props}.get("fcntag")


def read_graph(proto: Any, image: tuple[int, int]) -> Graph:
    """The network of a loaded file. ``image``: the front end's bands and frames, for an input that leaves one open.

    Raises ModelError that names the part which does not fit.
    """
    try:
        return _Reader(proto, image).read()
    except (TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"not an ONNX file, or damaged: {' '.join(str(error).split())[:120]}") from None


class _Reader(Operators):
    """Follows the one tensor that holds data; everything else must be a constant, or computed from a shape."""

    def __init__(self, proto: Any, image: tuple[int, int]) -> None:
        graph = proto.graph
        self._nodes = [Node.of(node, i) for i, node in enumerate(graph.node)]
        names = {initializer.name for initializer in graph.initializer}
        inputs = [value for value in graph.input if value.name not in names]
        if len(inputs) != 1:
            raise ModelError(f"{len(inputs)} inputs ({', '.join(v.name for v in inputs)[:200]}); built: one")
        self._graph = _input(inputs[0], image)
        output_names = [value.name for value in graph.output]
        self._graph.output = "scores" if "scores" in output_names else output_names[0]
        if len(output_names) > 1 and "scores" not in output_names:
            raise ModelError(f"{len(output_names)} outputs ({', '.join(output_names)[:200]}); call one 'scores'")
        self._needed = self._reaching(self._graph.output)
        self._constants = Constants(graph.initializer, {name for k in self._needed for name in self._nodes[k].inputs})
        shape = self._graph.shape
        letters = {2: "ab", 3: "cab"}.get(len(shape), "")
        if len(shape) == 3 and shape[0] != 1:
            letters = "abc" if shape[2] == 1 else ""
        if not letters:
            raise ModelError(
                f"{self._graph.input}: an input of shape {['batch', *shape]}; built: [batch, H, W], with 1 channel in "
                "front or behind; a front end within the graph is not taken"
            )
        self._axes = Axes.of(tuple(letters), **dict(zip(letters, shape, strict=True)))
        self._graph.image = (self._axes.size("a"), self._axes.size("b"))
        self._pads = {}

    def read(self) -> Graph:
        """Every node in order."""
        current, skip = self._graph.input, set()
        passed: dict[str, list[int]] = {}  # shapes of the data on its way, which later nodes may ask for
        for k, node in enumerate(self._nodes):
            passed[current] = [BATCH, *self._axes.sizes]
            if k not in self._needed or k in skip:
                continue
            if node.kind == "Shape" and node.inputs and node.inputs[0] in passed and node.domain in ("", "ai.onnx"):
                self._constants.values[node.outputs[0]] = shape_of(node, passed[node.inputs[0]])
                continue
            if node.kind == "CastLike" and len(node.inputs) == 2 and node.inputs[1] in passed:
                # To the data's own type, and all types are one here: they are computed in float64.
                self._constants.evaluate(dataclasses.replace(node, kind="Identity", inputs=node.inputs[:1]))
                continue
            data = [name for name in node.inputs if name == current]
            if not data:
                self._constants.evaluate(node)
                continue
            if node.kind == "ReduceMean" and not self._graph.layers:
                current, used = self._standardize(k, current)
                skip |= used
                continue
            if len(data) > 1:
                raise ModelError(f"{node.where}: takes {current!r} twice; built: a chain of layers")
            if node.kind == "Sigmoid":
                self._graph.logits = current
            self._step(node, current)
            current = node.outputs[0]
        if current != self._graph.output:
            raise ModelError(f"{current!r}: is where the chain of layers ends, not at {self._graph.output!r}")
        self._graph.logits = self._graph.logits or current
        if not self._graph.layers:
            raise ModelError("no layers between input and output")
        return self._graph

    def _reaching(self, output: str) -> set[int]:
        """Indices of the nodes that the output depends on."""
        made = {name: k for k, node in enumerate(self._nodes) for name in node.outputs if name}
        if output not in made:
            raise ModelError(f"{output!r}: an output that no node gives")
        found: set[int] = set()
        todo = [made[output]]
        while todo:
            k = todo.pop()
            if k not in found:
                found.add(k)
                todo += [made[name] for name in self._nodes[k].inputs if name in made]
        return found

    # ---- standardisation of the input ----

    def _standardize(self, k: int, current: str) -> tuple[str, set[int]]:
        """Recognise (x - mean) / (sqrt(mean((x - mean)^2)) + eps) over the segment, which begins with node ``k``.

        Returns the name of the result, and the indices of the nodes.
        """
        first = self._nodes[k]
        x, used = current, {k}

        def users(name: str) -> list[int]:
            return [
                i for i, node in enumerate(self._nodes) if i in self._needed and name in node.inputs and i not in used
            ]

        def only(name: str, kinds: tuple[str, ...]) -> Node:
            found = [i for i in users(name) if self._nodes[i].kind in kinds]
            if len(found) != 1:
                raise ModelError(f"{first.where}: a mean of the input that is no standardisation of it")
            used.add(found[0])
            return self._nodes[found[0]]

        self._no_pads(first.where)
        self._over_segment(first)
        centred = only(first.outputs[0], ("Sub",))
        square = only(centred.outputs[0], ("Mul", "Pow"))
        mean = only(square.outputs[0], ("ReduceMean",))
        self._over_segment(mean)
        root = only(mean.outputs[0], ("Sqrt",))
        spread = only(root.outputs[0], ("Add",))
        divided = only(centred.outputs[0], ("Div",))
        epsilon = [self._constants.values.get(name) for name in spread.inputs if name != root.outputs[0]]
        exponent = self._constants.values.get(square.inputs[1]) if square.kind == "Pow" else 2
        right = (
            list(centred.inputs) == [x, first.outputs[0]]
            and (square.kind == "Pow" or set(square.inputs) == {centred.outputs[0]})
            and np.all(exponent == 2)
            and list(divided.inputs) == [centred.outputs[0], spread.outputs[0]]
            and len(epsilon) == 1
            and epsilon[0] is not None
            and 0 <= float(np.max(epsilon[0])) <= 1e-6
        )
        if not right or self._graph.scale is not None:
            raise ModelError(f"{first.where}: a mean of the input that is no standardisation of it, the document's way")
        self._graph.standardized = True
        return divided.outputs[0], used

    def _over_segment(self, node: Node) -> None:
        axes = self._axes_given(node)
        rank = 1 + len(self._axes.groups)
        if {a % rank for a in axes} != set(range(1, rank)) or not node.attribute("keepdims", 1):
            raise ModelError(f"{node.where}: a mean of the input over axes {axes}; built: over the whole segment")


def _input(value: Any, image: tuple[int, int]) -> Graph:
    """Name and shape of the input. The batch may have any size; one open axis of the image has the front end's."""
    kind = value.type.tensor_type
    if kind.elem_type not in FLOATS:
        raise ModelError(
            f"{value.name}: an input of type {type_name(kind.elem_type)}; built: {', '.join(FLOATS.values())}"
        )
    dims = [(d.dim_value if d.WhichOneof("value") == "dim_value" else None, d.dim_param) for d in kind.shape.dim]
    shown = [name or "?" if size is None else size for size, name in dims]
    sizes = [size for size, _ in dims[1:]]
    open_axes = [i for i, size in enumerate(sizes) if size is None]
    known = [size for size in sizes if size is not None]
    others = [size for size in known if size != 1] if len(sizes) == 3 else known
    if len(open_axes) == 1 and len(others) == 1 and len(sizes) in (2, 3) and others[0] in image:
        sizes[open_axes[0]] = image[1] if others[0] == image[0] else image[0]
    if not sizes or any(size is None or size < 1 for size in sizes):
        raise ModelError(
            f"{value.name}: an input of shape {shown}; built: fixed sizes, but for the batch, and for one axis of the "
            f"image beside another of the front end's ({image[0]} x {image[1]})"
        )
    return Graph(value.name, tuple(int(size or 0) for size in sizes), dims[0][0] or None)
