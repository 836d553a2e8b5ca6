"""Converting a network of one's own: an ONNX file or a state dict of any stack of blocks."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ModelError
from ..export.interface import rows_and_frames
from ..model.activation import sigmoid
from ..model.document import ModelDocument
from . import keras_stack, state_stack, user_spec
from .check import check_stored
from .compare import BATCH, Converted, compare, run_onnx
from .model_builder import ModelBuilder
from .readers import keras_model
from .readers.foreign import refuse_foreign
from .readers.keras import HDF5_MAGIC
from .readers.onnx import load, metadata, read_graph
from .readers.onnx_types import one_line
from .readers.source import read_source
from .readers.state import State, read_state
from .stack import Array, Stack
from .user_spec import UserSpec

# What no file of a network shows.
_OUTSIDE = ("the front end and its windows", "the order of the tags")


def convert_stack(
    source: str,
    *,
    like: str | None = None,
    spec: str | None = None,
    tags: str | None = None,
    name: str | None = None,
    logits: bool = False,
    key: str | None = None,
    check: str | None = None,
) -> Converted:
    """Convert an ONNX file, a PyTorch state dict or a Keras 3 file of any stack of the document's block, and compare.

    A network that normalises its input before the first convolution keeps its own normalisation; it must take the
    logarithm as the front end gives it. For any other network, ``like`` or the spec's ``input`` gives it.

    Parameters
    ----------
    source : path of the file
    like, spec, tags, name : see :func:`fcntag.convert.user_spec.load`
    logits : whether the network ends before the sigmoid
    key : which of several state dicts in a checkpoint
    check : path of stored inputs and outputs of the original: see :mod:`fcntag.convert.check`

    Raises
    ------
    ModelError : its message begins with the path of the faulty file and names the part that does not fit. A conversion
        that computes something else than the original raises it too.
    """
    path = Path(source)
    try:
        refuse_foreign(path)
        data = read_source(path)
        options: dict[str, Any] = {"like": like, "spec": spec, "tags": tags, "name": name}
        digest = hashlib.sha256(data).hexdigest()
        if path.suffix.lower() == ".onnx":
            converted = _from_onnx(data, path, digest, options, logits)
        elif keras_model.is_model(data):
            _need_torch()
            converted = _from_keras(data, path.name, digest, options, logits)
        elif data.startswith(HDF5_MAGIC) and not keras_model.is_weights(data):
            raise ModelError(
                "HDF5 without the configuration of a Keras model; save the whole model (model.save), or .weights.h5 of "
                "Keras 3"
            )
        else:
            _need_torch()
            state = keras_model.read_weights(data) if keras_model.is_weights(data) else read_state(path, key)
            converted = _from_state(state, path.name, digest, options)
        if check is None:
            return converted
        checked = check_stored(check, converted.document, converted.tensors, converted.normalises)
        within = f"{checked.samples} samples, scores within {checked.scores:.0e}"
        note = f"Compared with stored results of the original: {within}."
        return dataclasses.replace(_noted(converted, note), checked=checked)
    except ModelError as error:
        text = one_line(str(error))
        starts = [str(given) for given in (source, spec, tags, check) if given is not None]
        raise ModelError(
            text if any(text.startswith(f"{start}:") for start in starts) else f"{source}: {text}"
        ) from None


def _from_onnx(data: bytes, path: Path, digest: str, options: dict[str, Any], logits: bool) -> Converted:
    proto, beside = load(data, path)
    user = user_spec.load(path.name, digest, metadata=metadata(proto), **options)
    for file in beside:
        text = f"Weights in {file.name}, SHA-256 {hashlib.sha256(file.read_bytes()).hexdigest()}"
        user.document["source"] = {"note": text, **user.document["source"]}
    template = user.template()
    bands, frames = rows_and_frames(template)
    graph = read_graph(proto, (bands, frames))
    if graph.image not in ((bands, frames), (frames, bands)):
        raise ModelError(
            f"{graph.input}: an input of {graph.image[0]} x {graph.image[1]}; the front end gives {bands} x {frames} "
            "(bands x frames)"
        )
    bands_first = graph.image == (bands, frames)
    if bands == frames:  # a square image does not show it, so the document's layout decides
        bands_first = (graph.orientation == "ab") == (template.frontend.time_axis == 1)
    time_major = bands_first != (graph.orientation == "ab")
    along = "" if not graph.axis else "per_mel" if (graph.axis == "a") == bands_first else "per_frame"
    own: tuple[str, Array | None, Array | None] | None = None
    if graph.scale is not None and graph.shift is not None:
        own = (along or "scalar", graph.scale, graph.shift)
    if graph.standardized:
        own = ("standardize", None, None)
    size = graph.image if graph.orientation == "ab" else graph.image[::-1]
    stack = Stack(size)
    for layer in graph.layers:
        stack.add(layer)
    document, tensors = _assemble(stack, user, own, "time_mel" if time_major else "mel_time", logits)

    def original(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
        """Scores, logits and runtime from the graph's input in the orientation [B, bands, frames]."""
        x = x if bands_first else x.transpose(0, 2, 1)
        return run_onnx(proto, graph, np.ascontiguousarray(x, np.float32).reshape(len(x), *graph.shape))

    converted = compare(document, tensors, original, own is not None, graph.batch or BATCH)
    return dataclasses.replace(converted, unchecked=_OUTSIDE)


def _need_torch() -> None:
    """Raise ModelError where PyTorch is missing, which computes the original to compare with."""
    if importlib.util.find_spec("torch") is None:
        raise ModelError('comparing with the original needs torch; install it with: pip install "fcntag[validate]"')


def _from_keras(data: bytes, file: str, digest: str, options: dict[str, Any], logits: bool) -> Converted:
    network = keras_stack.read(keras_model.read_model(data))
    user = user_spec.load(file, digest, **options)
    template = user.template()
    bands, frames = rows_and_frames(template)
    if network.image not in ((bands, frames), (frames, bands)):
        raise ModelError(
            f"an input of {network.image[0]} x {network.image[1]}; the front end gives {bands} x {frames} (bands x "
            "frames)"
        )
    bands_first = template.frontend.time_axis == 1 if bands == frames else network.image == (bands, frames)
    own = None
    if network.scale is not None:
        along = "scalar" if network.axis is None else "per_mel" if (network.axis == 0) == bands_first else "per_frame"
        own = (along, network.scale, network.shift)
    stack = Stack(network.image)
    for layer in network.layers:
        stack.add(layer)
    document, tensors = _assemble(stack, user, own, "mel_time" if bands_first else "time_mel", logits)

    def original(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
        import torch

        z = network.run(x if bands_first else x.transpose(0, 2, 1))
        return sigmoid(z), z, f"PyTorch {torch.__version__}, layer by layer"

    converted = compare(document, tensors, original, own is not None, BATCH)
    return dataclasses.replace(converted, unchecked=("the reading of its configuration", *_OUTSIDE))


def _from_state(state: State, file: str, digest: str, options: dict[str, Any]) -> Converted:
    user = user_spec.load(file, digest, **options)
    network = state_stack.read(state, user)
    template = user.template()
    frontend = template.frontend
    bands, frames = rows_and_frames(template)
    own = None
    if network.scale is not None and network.shift is not None:
        along = {1: "scalar", bands: "per_mel", frames: "per_frame"}.get(len(network.scale))
        if along is None:
            raise ModelError(
                f"a batch-norm of {len(network.scale)} values before the first convolution; the input has {bands} "
                f"bands and {frames} frames"
            )
        own = (along, network.scale, network.shift)
    stack = Stack(frontend.shape(bands, frames))
    for layer in network.layers:
        stack.add(layer)
    document, tensors = _assemble(stack, user, own, frontend.layout, False)

    def original(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
        import torch

        z = network.run(x if frontend.time_axis == 1 else x.transpose(0, 2, 1))
        return sigmoid(z), z, f"PyTorch {torch.__version__}"

    converted = compare(document, tensors, original, own is not None, BATCH)
    converted = dataclasses.replace(converted, said=tuple(network.said), unchecked=(*network.assumed, *_OUTSIDE))
    return _noted(converted, f"As the converter was told, and not in the file: {'; '.join(network.assumed)}.")


def _noted(converted: Converted, note: str) -> Converted:
    document = dataclasses.replace(converted.document, notes=(*converted.document.notes, note))
    return dataclasses.replace(converted, document=document)


def _assemble(
    stack: Stack, user: UserSpec, own: tuple[str, Array | None, Array | None] | None, layout: str, logits: bool
) -> tuple[ModelDocument, dict[str, np.ndarray]]:
    """The document and its tensors.

    ``own`` holds the name, scale and shift of the network's own normalization of its input, if it has one.
    """
    blocks, head, n_tags = stack.finish(logits)
    data = dict(user.document)
    if len(data["tags"]) != n_tags:
        if user.tags_are_given or data["tags"]:
            raise ModelError(f"{n_tags} scores, but {len(data['tags'])} tags; give the right ones (--tags FILE)")
        raise ModelError(f"{n_tags} scores, and no tags for them; give them (--tags FILE, or tags in --spec FILE)")
    data["frontend"] = {**data["frontend"], "layout": layout}
    scale, shift = user.input.get("input.scale"), user.input.get("input.shift")
    if own is not None:
        data["frontend"]["normalization"], scale, shift = own
    data |= {"blocks": [_plain(block) for block in blocks], "head": _plain(head)}
    document = ModelDocument.from_json(json.dumps(data))
    builder = ModelBuilder(document)
    if document.frontend.normalization not in ("none", "standardize", "standardize_per_mel"):
        if scale is None or shift is None:
            raise ModelError(
                f"the network does not normalise its input, and frontend.normalization is "
                f"{document.frontend.normalization!r}: give input.scale and input.shift (--spec FILE)"
            )
        builder.set("input.scale", np.asarray(scale))
        builder.set("input.shift", np.asarray(shift))
    for name, tensor in stack.tensors.items():
        builder.set(name, tensor)
    return builder.build()


def _plain(part: Any) -> Any:
    """A dataclass as plain JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(part)))
