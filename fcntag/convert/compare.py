"""A converted model beside its original: both compute random input, and may differ by rounding only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine import CpuEngine
from ..errors import ModelError
from ..export.check import normalised, random_log_mel
from ..model.activation import sigmoid
from ..model.document import ModelDocument
from ..model.file import Model
from .check import Checked
from .readers.onnx_graph import Graph
from .readers.onnx_types import FLOAT32, FLOATS, type_name

# Largest difference of a score: the original and the engine both compute in float32. A conversion that is right differs
# by 1e-6 as a rule; one that reads a layer wrongly differs by far more.
SCORES = 2e-5
# Relative L2 of the logits, with the same margins. It finds an error that a sigmoid near 0 or 1 hides.
LOGITS = 1e-4
BATCH = 2  # random segments, where the original takes any number


@dataclass(frozen=True)
class Converted:
    """A converted model, and how well it agrees with its original on random input.

    Attributes
    ----------
    document : the model's description
    tensors : float32, by the document's names
    scores : largest difference of a score
    logits : relative L2 of the difference of the logits
    runtime : name and version of the software that computed the original
    said : what the reader took and ignored, in words
    unchecked : what the comparison cannot show, in words
    normalises : the original network normalises its own input
    checked : the comparison with stored results, where there was one
    """

    document: ModelDocument
    tensors: dict[str, np.ndarray]
    scores: float
    logits: float
    runtime: str
    said: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    normalises: bool = True
    checked: Checked | None = None


def compare(
    document: ModelDocument,
    tensors: dict[str, np.ndarray],
    original: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, str]],
    normalises: bool,
    batch: int,
) -> Converted:
    """Run the converted model and the original on the same random input.

    Parameters
    ----------
    document, tensors : the converted model
    original : function of the log-mel [batch, n_rows, n_frames] that gives the original's scores, its logits, and the
        name of its runtime
    normalises : the original normalises its input itself; else it is given input that is normalised already
    batch : number of segments

    Raises
    ------
    ModelError : scores or logits differ by more than SCORES or LOGITS
    """
    model = Model(document, tensors, "", "")
    rng = np.random.default_rng(0)
    if normalises:
        x = random_log_mel(model, rng, batch)
        y = normalised(model, x)
    else:
        y = rng.standard_normal((batch, *document.input_size())).astype(np.float32)
        x = y if document.frontend.time_axis == 1 else y.transpose(0, 2, 1)
    expected, z, runtime = original(x)
    with CpuEngine(model, max_batch=batch, reduce=False) as engine:
        scores, logits = engine.scores_of(y), engine.logits(y)
    with np.errstate(invalid="ignore", over="ignore"):  # huge weights give NaN, which fails the check below
        worst = float(np.abs(scores - expected).max())
        relative = float(np.linalg.norm(logits - z)) / (float(np.linalg.norm(z)) or 1.0)
    if not (worst <= SCORES and relative <= LOGITS):
        raise ModelError(
            f"the converted model computes something else than the original in {runtime}: scores differ by "
            f"{worst:.1e}, allowed {SCORES:.0e}, logits by a relative {relative:.1e}, allowed {LOGITS:.0e}"
        )
    return Converted(document, tensors, worst, relative, runtime, normalises=normalises)


def run_onnx(proto: Any, graph: Graph, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    """Scores and logits of the original graph: by ONNX Runtime, or where it is missing by onnx's own evaluator."""
    import onnx

    narrow = in_float32(proto)
    proto.graph.output.append(onnx.helper.make_tensor_value_info(graph.logits, 1, None))
    if graph.logits in [output.name for output in list(proto.graph.output)[:-1]]:
        del proto.graph.output[-1]
    wanted = [graph.output, graph.logits]
    try:
        outputs, runtime = _outputs(proto, wanted, {graph.input: x})
    except Exception as error:
        # No runtime documents its exceptions for a graph that breaks ONNX's own rules (types, names, versions).
        raise ModelError(f"the graph cannot be run: {' '.join(str(error).split())[:300]}") from None
    scores, logits = (np.asarray(output, np.float64).reshape(len(x), -1) for output in outputs)
    if logits.shape[1] > scores.shape[1] > 0:  # a map [batch, n_tags, H, W], whose maximum is taken behind the sigmoid
        logits = logits.reshape(*scores.shape, -1).max(2)
    if graph.output == graph.logits:
        scores = sigmoid(logits)
    return scores, logits, runtime + (f" (the file's {narrow} as float32)" if narrow else "")


def in_float32(proto: Any) -> str:
    """Make every floating-point type of a graph float32, in place; the name of the first other one, or "".

    The weights of a float16 file are exact in float32, so the engine computes with the same ones. The file itself
    rounds every layer's output to 11 bits, which would hide a wrong reading behind differences of 1e-3. Its own graph
    in float32 arithmetic needs no such margin. A float64 file is rounded once, as its conversion is.
    """
    from onnx import numpy_helper

    found = []

    def change(holder: Any, field: str) -> None:
        kind = getattr(holder, field)
        if kind in FLOATS and kind != FLOAT32:
            found.append(kind)
            setattr(holder, field, FLOAT32)

    def tensor(values: Any) -> None:
        kind = values.data_type
        if kind in FLOATS and kind != FLOAT32:
            found.append(kind)
            array = np.asarray(numpy_helper.to_array(values)).astype(np.float32)
            values.CopyFrom(numpy_helper.from_array(array, values.name))

    for value in [*proto.graph.input, *proto.graph.output]:
        change(value.type.tensor_type, "elem_type")
    for initializer in proto.graph.initializer:
        tensor(initializer)
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                tensor(attribute.t)
            elif node.op_type == "Cast" and attribute.name == "to":
                change(attribute, "i")
    if found:
        del proto.graph.value_info[:]  # types of tensors within the graph, which are inferred again
    return type_name(found[0]) if found else ""


def _outputs(proto: Any, wanted: list[str], inputs: dict[str, np.ndarray]) -> tuple[list[Any], str]:
    try:
        import onnxruntime
    except ImportError:
        import onnx
        from onnx.reference import ReferenceEvaluator

        return list(ReferenceEvaluator(proto).run(wanted, inputs)), f"onnx {onnx.__version__}"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal: an error is raised, and need not be printed as well
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(wanted, inputs), f"ONNX Runtime {onnxruntime.__version__}"
