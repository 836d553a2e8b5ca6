"""Networks of one's own: an ONNX file or a state dict of any stack of blocks, and a check of what came out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ModelError
from ..model.document import ModelDocument
from . import state_stack
from . import user_spec as recipes
from .model_builder import Spec
from .readers.onnx import read_graph
from .readers.onnx_constants import one_line
from .readers.onnx_operators import Graph
from .readers.source import read_source
from .readers.torch_state import read_state
from .stack import Array, Stack
from .user_spec import Recipe

# Scores of the original and of the engine, both float32; logits, which a sigmoid near 0 or 1 hides, relative to their
# norm. What is read wrongly is off by far more, what is right by far less: 1e-6 is usual for both.
SCORES, LOGITS = 2e-5, 1e-4
BATCH = 2


@dataclass(frozen=True)
class Converted:
    """A model and how well it agrees with the original on random input: largest difference of a score, relative L2 of
    the logits, and the runtime that computed the original."""

    document: ModelDocument
    tensors: dict[str, np.ndarray]
    scores: float
    logits: float
    runtime: str


def convert_stack(
    source: str,
    *,
    like: str | None = None,
    spec: str | None = None,
    tags: str | None = None,
    name: str | None = None,
    logits: bool = False,
) -> Converted:
    """Convert an ONNX file (``.onnx``) or a PyTorch state dict of any stack of the document's block, and compare.

    The normalisation of the input is the network's own where it has one before the first convolution: then the network
    takes the logarithm as the front end has it. Else it is that of ``like`` or of the spec's ``input``.

    Args:
        like, spec, tags, name: see :func:`fcntag.convert.user_spec.load`.
        logits: the network ends before the sigmoid.

    Raises:
        ModelError: its message begins with the path that is to blame; what does not fit is named, and nothing that
        computes something else than the original is ever returned.
    """
    path = Path(source)
    try:
        data = read_source(path)
        options: dict[str, Any] = {"like": like, "spec": spec, "tags": tags, "name": name}
        digest = hashlib.sha256(data).hexdigest()
        if path.suffix.lower() == ".onnx":
            return _from_onnx(data, path.name, digest, options, logits)
        return _from_state(path, digest, options)
    except ModelError as error:
        text = one_line(str(error))
        starts = [str(given) for given in (source, spec, tags) if given is not None]
        raise ModelError(
            text if any(text.startswith(f"{start}:") for start in starts) else f"{source}: {text}"
        ) from None


def _from_onnx(data: bytes, file: str, digest: str, options: dict[str, Any], logits: bool) -> Converted:
    graph, proto = read_graph(data)
    recipe = recipes.load(file, digest, metadata=graph.document, **options)
    bands, frames = recipe.bands_and_frames()
    if graph.image not in ((bands, frames), (frames, bands)):
        raise ModelError(
            f"{graph.input}: an input of {graph.image[0]} x {graph.image[1]}; the front end gives {bands} x {frames} "
            "(bands x frames)"
        )
    # of a square image the document's layout decides
    bands_first = graph.image == (bands, frames)
    if bands == frames:
        bands_first = (graph.orientation == "ab") == (recipe.document["frontend"]["layout"] == "mel_time")
    time_major = bands_first != (graph.orientation == "ab")
    along = "" if not graph.axis else "per_mel" if (graph.axis == "a") == bands_first else "per_frame"
    own = None if graph.scale is None or graph.shift is None else (along or "scalar", graph.scale, graph.shift)
    if graph.standardized:
        own = ("standardize", None, None)
    size = graph.image if graph.orientation == "ab" else graph.image[::-1]
    stack = Stack(size)
    for layer in graph.layers:
        stack.add(layer)
    document, tensors = _assemble(stack, recipe, own, "time_mel" if time_major else "mel_time", logits)

    def original(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
        """From the log-mel [B, bands, frames], or what the graph takes in that orientation."""
        x = x if bands_first else x.transpose(0, 2, 1)
        return _run_onnx(proto, graph, np.ascontiguousarray(x, np.float32).reshape(len(x), *graph.shape))

    return _compared(document, tensors, original, own is not None, graph.batch or BATCH)


def _from_state(path: Path, digest: str, options: dict[str, Any]) -> Converted:
    recipe = recipes.load(path.name, digest, **options)
    network = state_stack.read(read_state(path), recipe)
    bands, frames = recipe.bands_and_frames()
    layout = recipe.document["frontend"]["layout"]
    own = None
    if network.scale is not None and network.shift is not None:
        along = {1: "scalar", bands: "per_mel", frames: "per_frame"}.get(len(network.scale))
        if along is None:
            raise ModelError(
                f"a batch-norm of {len(network.scale)} values before the first convolution; the input has {bands} "
                f"bands and {frames} frames"
            )
        own = (along, network.scale, network.shift)
    stack = Stack((bands, frames) if layout == "mel_time" else (frames, bands))
    for layer in network.layers:
        stack.add(layer)
    document, tensors = _assemble(stack, recipe, own, layout, False)

    def original(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
        import torch

        z = network.run(x if layout == "mel_time" else x.transpose(0, 2, 1))
        return np.exp(-np.logaddexp(0.0, -z)), z, f"PyTorch {torch.__version__}"

    return _compared(document, tensors, original, own is not None, BATCH)


def _assemble(
    stack: Stack, recipe: Recipe, own: tuple[str, Array | None, Array | None] | None, layout: str, logits: bool
) -> tuple[ModelDocument, dict[str, np.ndarray]]:
    """The document and its tensors. ``own``: the network's normalization of its input, scale and shift."""
    blocks, head, n_tags = stack.finish(logits)
    data = dict(recipe.document)
    if len(data["tags"]) != n_tags:
        if recipe.tags_are_given or data["tags"]:
            raise ModelError(f"{n_tags} scores, but {len(data['tags'])} tags; give the right ones (--tags FILE)")
        raise ModelError(f"{n_tags} scores, and no tags for them; give them (--tags FILE, or tags in --spec FILE)")
    data["frontend"] = {**data["frontend"], "layout": layout}
    scale, shift = recipe.input.get("input.scale"), recipe.input.get("input.shift")
    if own is not None:
        data["frontend"]["normalization"], scale, shift = own
    # dataclasses to plain data, by way of a document that is whole
    data |= {"blocks": [_plain(block) for block in blocks], "head": _plain(head)}
    document = ModelDocument.from_json(json.dumps(data))
    spec = Spec(document)
    if document.frontend.normalization not in ("none", "standardize"):
        if scale is None or shift is None:
            raise ModelError(
                f"the network does not normalise its input, and frontend.normalization is "
                f"{document.frontend.normalization!r}: give input.scale and input.shift (--spec FILE)"
            )
        spec.set("input.scale", np.asarray(scale))
        spec.set("input.shift", np.asarray(shift))
    for name, tensor in stack.tensors.items():
        spec.set(name, tensor)
    return spec.build()


def _plain(part: Any) -> Any:
    import dataclasses

    return json.loads(json.dumps(dataclasses.asdict(part)))


# ---- the check ----


def _compared(
    document: ModelDocument,
    tensors: dict[str, np.ndarray],
    original: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, str]],
    normalises: bool,
    batch: int,
) -> Converted:
    """The converted model beside the original on random input; raises ModelError where they differ.

    ``normalises``: the original takes the log-mel as it is; else what the front end's normalisation makes of it.
    """
    from ..engine import CpuEngine
    from ..export.check import normalised, random_log_mel
    from ..model.file import Model

    model = Model(document, tensors, "", "")
    rng = np.random.default_rng(0)
    if normalises:
        x = random_log_mel(model, rng, batch)
        y = normalised(model, x)
    else:
        y = rng.standard_normal((batch, *document.input_size())).astype(np.float32)
        x = y if document.frontend.layout == "mel_time" else y.transpose(0, 2, 1)
    expected, z, runtime = original(x)
    with CpuEngine(model, max_batch=batch, reduce=False) as engine:
        scores, logits = engine.scores_of(y), engine.logits(y)
    with np.errstate(invalid="ignore", over="ignore"):  # weights near float32's largest: not a number is not within
        worst = float(np.abs(scores - expected).max())
        relative = float(np.linalg.norm(logits - z)) / (float(np.linalg.norm(z)) or 1.0)
    if not (worst <= SCORES and relative <= LOGITS):
        raise ModelError(
            f"the converted model computes something else than the original in {runtime}: scores differ by "
            f"{worst:.1e}, allowed {SCORES:.0e}, logits by a relative {relative:.1e}, allowed {LOGITS:.0e}"
        )
    return Converted(document, tensors, worst, relative, runtime)


def _run_onnx(proto: Any, graph: Graph, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    """Scores and logits of the original graph: by ONNX Runtime, or where it is missing by onnx's own evaluator."""
    import onnx

    proto.graph.output.append(onnx.helper.make_tensor_value_info(graph.logits, 1, None))
    if graph.logits in [output.name for output in list(proto.graph.output)[:-1]]:
        del proto.graph.output[-1]
    wanted = [graph.output, graph.logits]
    try:
        outputs, runtime = _outputs(proto, wanted, {graph.input: x})
    except Exception as error:
        # What a runtime raises on a graph that breaks ONNX's own rules (types, names, versions) is not documented.
        raise ModelError(f"the graph cannot be run: {' '.join(str(error).split())[:300]}") from None
    scores, logits = (np.asarray(output, np.float64).reshape(len(x), -1) for output in outputs)
    if graph.output == graph.logits:
        scores = np.exp(-np.logaddexp(0.0, -logits))
    return scores, logits, runtime


def _outputs(proto: Any, wanted: list[str], inputs: dict[str, np.ndarray]) -> tuple[list[Any], str]:
    try:
        import onnxruntime
    except ImportError:
        import onnx
        from onnx.reference import ReferenceEvaluator

        return ReferenceEvaluator(proto).run(wanted, inputs), f"onnx {onnx.__version__}"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal: an error is raised, and need not be printed as well
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(wanted, inputs), f"ONNX Runtime {onnxruntime.__version__}"
