"""The network as an ONNX graph, opset 17: nodes of the standard only, one for each operation of the document."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ModelError
from .interface import METADATA_KEY, padding, rows_and_frames

if TYPE_CHECKING:
    from ..model.document import Log
    from ..model.file import Model

try:
    import onnx
    from onnx import TensorProto, helper, numpy_helper
except ImportError:
    raise ImportError('ONNX graphs need onnx, which is not installed: pip install "fcntag[onnx]"') from None

OPSET = 17  # the first with STFT
IR_VERSION = 8  # runtimes as old as that opset read it
MAX_BYTES = (1 << 31) - 1  # of one protobuf message


class _Graph:
    """Nodes in a chain: each takes ``current``, and its output becomes ``current``."""

    def __init__(self, current: str) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.current = current

    def constant(self, name: str, value: Any) -> str:
        """An initializer; a name that is there already stands for the same value."""
        if all(weight.name != name for weight in self.weights):
            self.weights.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def node(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Append node ``name`` with ``current`` and ``inputs``; its output has the same name."""
        name = name or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [self.current, *inputs], [name], name=name, **attributes))
        self.current = name
        return name

    def model(self, name: str, inputs: dict[str, list[Any]], outputs: dict[str, list[Any]]) -> Any:
        """The graph, float32 in and out; a shape's strings are axes of any size."""

        def values(shapes: dict[str, list[Any]]) -> list[Any]:
            return [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in shapes.items()]

        graph = helper.make_graph(self.nodes, name, values(inputs), values(outputs), self.weights)
        proto = helper.make_model(
            graph, producer_name="fcntag", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )
        return proto


def model_bytes(model: Model, *, frontend: bool = False, blocks: bool = False) -> bytes:
    """The exported model, checked by onnx, document and tags in its metadata; see :mod:`fcntag.export`."""
    document = model.document
    if frontend:
        inputs: dict[str, list[Any]] = {"waves": ["batch", document.segments.n_samples]}
        graph = _Graph("waves")
        _log_mel(graph, model)
    else:
        inputs = {"log_mel": ["batch", *rows_and_frames(document)]}
        graph = _Graph("log_mel")
    _normalise(graph, model)
    graph.node("Unsqueeze", graph.constant("axis_channel", np.array([1])), name="channel")
    outputs: dict[str, list[Any]] = {"scores": ["batch", len(document.tags)]}
    for i, (block, size) in enumerate(zip(document.blocks, document.map_sizes()[1:], strict=True)):
        _block(graph, model, i, f"block{i + 1}")
        if blocks:
            outputs[f"block{i + 1}"] = ["batch", block.out_channels, *size]
    _head(graph, model, "scores")
    proto = graph.model(document.name, inputs, outputs)
    helper.set_model_props(proto, {METADATA_KEY: document.to_json(), "tags": "\n".join(document.tags)})
    proto.doc_string = "\n".join(filter(None, (document.description, document.licence, document.licence_notice)))
    return _checked(proto, document.name)


def network_bytes(model: Model, batch: int | str, height: int, width: int) -> bytes:
    """The network alone: x [batch, 1, height, width], normalised -> scores [batch, n_tags].

    ``batch`` may be a name, which stands for any size. Runtimes optimise static shapes best.
    """
    graph = _Graph("x")
    for i in range(len(model.document.blocks)):
        _block(graph, model, i, f"block{i + 1}")
    _head(graph, model, "scores")
    shape = [batch, len(model.document.tags)]
    return _checked(graph.model(model.document.name, {"x": [batch, 1, height, width]}, {"scores": shape}), "")


def stage_bytes(model: Model, stage: int) -> bytes:
    """One stage alone: 0: log-mel from waves, normalised, [batch, H, W]; i: block i from its input map; from
    n_blocks + 1 on: the head's dense layers, the first from the last map. Input "x", output "y", any batch size."""
    document = model.document
    graph = _Graph("x")
    sizes, channels = document.map_sizes(), [1, *(block.out_channels for block in document.blocks)]
    if stage == 0:
        _log_mel(graph, model)
        _normalise(graph, model)
        shapes: tuple[list[Any], list[Any]] = ([document.segments.n_samples], [*sizes[0]])
    elif stage <= len(document.blocks):
        _block(graph, model, stage - 1, "block")
        shapes = ([channels[stage - 1], *sizes[stage - 1]], [channels[stage], *sizes[stage]])
    else:
        layer = stage - len(document.blocks) - 1
        _, inputs, outputs = document.dense_layers()[layer]
        if layer == 0:
            _features(graph, model)
        _dense(graph, model, layer)
        shapes = ([channels[-1], *sizes[-1]] if layer == 0 else [inputs], [outputs])
    graph.node("Identity", name="y")
    return _checked(graph.model("stage", {"x": ["batch", *shapes[0]]}, {"y": ["batch", *shapes[1]]}), "")


def _checked(proto: Any, name: str) -> bytes:
    if proto.ByteSize() > MAX_BYTES:
        raise ModelError(f"{name}: {proto.ByteSize()} bytes; an ONNX file holds at most {MAX_BYTES}")
    onnx.checker.check_model(proto, full_check=True)
    data: bytes = proto.SerializeToString()
    return data


# ---- network ----


def _block(graph: _Graph, model: Model, i: int, output: str) -> None:
    """conv -> activation -> affine -> pool, the last node's name being ``output``."""
    block, tensors = model.document.blocks[i], model.tensors
    pooled = block.pool.window != (1, 1) or block.pool.stride != (1, 1)
    stages: list[tuple[str, tuple[str, ...], dict[str, Any]]] = []
    weight, bias = (graph.constant(f"blocks.{i}.{n}", tensors[f"blocks.{i}.{n}"]) for n in ("weight", "bias"))
    edge = block.kernel // 2
    stages.append(("Conv", (weight, bias), {"kernel_shape": [block.kernel] * 2, "pads": [edge] * 4}))
    if block.activation != "none":
        stages.append(({"relu": "Relu", "elu": "Elu"}[block.activation], (), {}))
    if block.post_affine:
        for kind, name in (("Mul", "scale"), ("Add", "shift")):
            constant = graph.constant(f"blocks.{i}.{name}", tensors[f"blocks.{i}.{name}"][:, None, None])
            stages.append((kind, (constant,), {}))
    if pooled:
        stages.append(("MaxPool", (), {"kernel_shape": [*block.pool.window], "strides": [*block.pool.stride]}))
    for k, (kind, inputs, attributes) in enumerate(stages):
        name = output if k == len(stages) - 1 else f"{output}_{kind.lower()}"
        graph.node(kind, *inputs, name=name, **attributes)


def _features(graph: _Graph, model: Model) -> None:
    """Last map [B, C, H, W] -> features [B, in_features]."""
    flatten = model.document.head.flatten
    if flatten in ("max", "mean"):
        graph.node({"max": "GlobalMaxPool", "mean": "GlobalAveragePool"}[flatten], name=f"head_{flatten}")
    elif flatten == "hwc":
        graph.node("Transpose", perm=[0, 2, 3, 1], name="head_hwc")
    graph.node("Flatten", name="features")


def _dense(graph: _Graph, model: Model, i: int) -> None:
    """Dense layer ``i`` of the head, the last of which gives the logits."""
    head = model.document.head
    stem = model.document.dense_layers()[i][0]
    weight, bias = (graph.constant(f"{stem}.{name}", model.tensors[f"{stem}.{name}"]) for name in ("weight", "bias"))
    if i == len(head.hidden):
        graph.node("Gemm", weight, bias, transB=1, name="logits")
        return
    activation = head.hidden[i].activation
    graph.node("Gemm", weight, bias, transB=1, name=f"hidden{i + 1}" + ("" if activation == "none" else "_gemm"))
    if activation != "none":
        graph.node({"relu": "Relu", "elu": "Elu"}[activation], name=f"hidden{i + 1}")


def _head(graph: _Graph, model: Model, output: str) -> None:
    _features(graph, model)
    for i in range(len(model.document.head.hidden) + 1):
        _dense(graph, model, i)
    graph.node("Sigmoid", name=output)


# ---- front end ----


def _log_mel(graph: _Graph, model: Model) -> None:
    """Waves [B, n_samples] -> log-mel [B, n_rows, n_frames], not normalised.

    In float64 up to here: a float32 spectrum has noise of 1e-7 of its loudest bin, and the logarithm of a silent band
    shows it. The cast to float32 is where the document's own numbers end.
    """
    from ..model.filters import frame_window, row_filters

    frontend, n_samples = model.document.frontend, model.document.segments.n_samples
    log = frontend.log
    left, right = padding(frontend, n_samples)
    graph.node("Cast", to=TensorProto.DOUBLE, name="waves_float64")
    if left or right:
        reflect = frontend.framing == "center" and frontend.pad_mode == "reflect"
        pads = graph.constant("pads", np.array([0, left, 0, right]))
        graph.node("Pad", pads, mode="reflect" if reflect else "constant", name="padded")
    graph.node("Unsqueeze", graph.constant("axis_last", np.array([2])), name="signal")
    graph.node(
        "STFT",
        graph.constant("hop_length", np.array(frontend.hop_length)),
        graph.constant("window", frame_window(frontend)),
        graph.constant("n_fft", np.array(frontend.n_fft)),
        onesided=1,
        name="spectrum",  # [B, n_frames, n_bins, 2]
    )
    graph.node("Mul", "spectrum", name="squares")
    graph.node("ReduceSum", graph.constant("axis_parts", np.array([3])), keepdims=0, name="power")
    if frontend.spectrum == "magnitude":
        graph.node("Sqrt", name="magnitude")
    filters = row_filters(frontend)
    graph.node("MatMul", graph.constant("mel_filters", filters.T), name="mel_by_frame")
    graph.node("Transpose", perm=[0, 2, 1], name="mel")
    if frontend.power_exponent == 2:
        graph.node("Mul", "mel", name="mel_squared")
    if frontend.rounding == "float16":
        graph.node("Min", graph.constant("largest_float16", np.array(65504.0)), name="mel_in_range")
        for kind in ("FLOAT", "FLOAT16", "DOUBLE"):  # the original held float32 before: two roundings, as there
            graph.node("Cast", to=getattr(TensorProto, kind), name=f"mel_{kind.lower()}")
    _compress(graph, log)
    _reference(graph, log)
    if frontend.kind == "mfcc":
        _mfcc(graph, model)
    graph.node("Cast", to=TensorProto.FLOAT, name="log_mel")


def _compress(graph: _Graph, log: Log) -> None:
    """Rows m >= 0 -> their logarithm by the document's rule, not yet set against the segment's maximum."""
    if log.kind == "none":
        return
    if log.kind in ("log10p1", "log1p"):
        graph.node("Mul", graph.constant("gain", np.array(log.gain)), name="gained")
        graph.node("Add", graph.constant("one", np.array(1.0)), name="gained_plus_one")
    else:
        if log.amin > 0:
            graph.node("Max", graph.constant("amin", np.array(log.amin)), name="above_amin")
        if log.offset > 0:
            graph.node("Add", graph.constant("offset", np.array(log.offset)), name="with_offset")
    graph.node("Log", name="natural_log")
    if log.kind == "db":
        graph.node("Mul", graph.constant("db_per_neper", np.array(10.0 / math.log(10.0))), name="db")
    elif log.kind in ("log10", "log10p1"):
        graph.node("Mul", graph.constant("per_decade", np.array(1.0 / math.log(10.0))), name="log_mel_float64")


def _reference(graph: _Graph, log: Log) -> None:
    """dB -> minus the segment's maximum, floored at so much below it, as the document says; other scales stay."""
    if log.ref == "max" or log.top_db is not None:
        db = graph.current
        peak = graph.node("ReduceMax", axes=[1, 2], keepdims=1, name="peak")
        graph.current = db
        if log.ref == "max":
            graph.node("Sub", peak, name="db_below_peak")
            if log.top_db is not None:
                graph.node("Max", graph.constant("floor", np.array(-log.top_db)), name="db_floored")
        else:
            graph.current = peak
            floor = graph.node("Sub", graph.constant("top_db", np.array(log.top_db)), name="floor_of_segment")
            graph.current = db
            graph.node("Max", floor, name="db_floored")


def _mfcc(graph: _Graph, model: Model) -> None:
    """Logarithm of the mel power [B, n_mels, n_frames] -> MFCC, deltas, delta-deltas [B, 3 * n_mfcc, n_frames]."""
    from ..model.filters import dct_matrix, delta_frames, delta_weights

    frontend, bands = model.document.frontend, graph.current
    _, n_frames = rows_and_frames(model.document)
    graph.current = graph.constant("dct", dct_matrix(frontend.n_mels, frontend.n_mfcc))
    coefficients = graph.node("MatMul", bands, name="coefficients")
    # Gathered and multiplied, not convolved: ONNX Runtime has no convolution in float64.
    graph.node("Gather", graph.constant("delta_frames", delta_frames(n_frames)), axis=2, name="frames_around")
    graph.node("MatMul", graph.constant("delta_weights", delta_weights().T), name="deltas_last")
    graph.node("Transpose", perm=[0, 3, 1, 2], name="deltas_by_order")  # [B, 2, n_mfcc, n_frames]
    deltas = graph.node("Reshape", graph.constant("delta_shape", np.array([0, -1, n_frames])), name="deltas")
    graph.current = coefficients
    graph.node("Concat", deltas, axis=1, name="mfcc")


def _normalise(graph: _Graph, model: Model) -> None:
    """Log-mel [B, n_rows, n_frames] -> the network's input [B, H, W]."""
    frontend, tensors = model.document.frontend, model.tensors
    if axes := list(frontend.standardized_axes):
        # The sums run over a whole segment, and runtimes add them up one by one, so they need float64.
        x = graph.node("Cast", to=TensorProto.DOUBLE, name="log_mel_double")
        if axes == [2]:  # a band that never changes is 0 exactly
            first = graph.node("Gather", graph.constant("frame_0", np.array([0])), axis=2, name="first_frame")
            graph.current = x
            x = graph.node("Sub", first, name="from_the_first_frame")
        mean = graph.node("ReduceMean", axes=axes, keepdims=1, name="mean")
        graph.current = x
        centred = graph.node("Sub", mean, name="centred")
        graph.node("Mul", centred, name="squared_deviation")
        graph.node("ReduceMean", axes=axes, keepdims=1, name="variance")
        graph.node("Sqrt", name="standard_deviation")
        spread = graph.node("Add", graph.constant("epsilon", np.array(1e-10)), name="spread")
        graph.current = centred
        graph.node("Div", spread, name="standardised")
        graph.node("Cast", to=TensorProto.FLOAT, name="normalised")
    elif frontend.normalization != "none":
        shape = {"scalar": (1, 1, 1), "per_mel": (1, -1, 1), "per_frame": (1, 1, -1)}[frontend.normalization]
        for kind, name in (("Mul", "scale"), ("Add", "shift")):
            constant = graph.constant(f"input.{name}", tensors[f"input.{name}"].reshape(shape))
            graph.node(kind, constant, name="scaled" if kind == "Mul" else "normalised")
    if frontend.time_axis == 0:
        graph.node("Transpose", perm=[0, 2, 1], name="time_major")
