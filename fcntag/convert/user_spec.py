"""What a network's file does not say about the model: front end, windows, tags, licence, and of a state dict the pools.

From a model that has the same (``like``), from a JSON file (``spec``), or from the document in an ONNX file of
``fcntag export``. The spec may hold any of: ``name``, ``description``, ``tags``, ``licence``, ``licence_notice``,
``training_data``, ``source`` and ``notes``, ``frontend`` and ``segments`` of the model document (or, with ``like``,
those of their fields that differ), ``input`` {"scale": [...], "shift": [...]} for a normalization that has such
tensors; and for a state dict ``blocks``, ``flatten`` and ``batch_norm_epsilon``, see ``fcntag.convert.state_stack``.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ModelError
from ..model.document import FORMAT, MAX_JSON_BYTES, Block, ModelDocument
from ..model.json_fields import unique_keys

if TYPE_CHECKING:
    from ..model.file import Model

_TEXTS = ("name", "description", "licence", "licence_notice", "training_data")
_FIELDS = (
    *_TEXTS,
    "tags",
    "notes",
    "source",
    "frontend",
    "segments",
    "input",
    "blocks",
    "flatten",
    "batch_norm_epsilon",
)


@dataclass
class Recipe:
    """What was found.

    Attributes:
        document: JSON of a model document, without blocks and head.
        input: tensors input.scale and input.shift, where the front end is another model's and has them.
        like: blocks of the model that ``like`` names.
        plan: ``blocks`` of the spec, unchecked.
        flatten: order of the last map's values for the dense layer.
        epsilon: of every batch-norm of a state dict.
        tags_are_given: by the caller, not by a model that happens to have the same front end.
    """

    document: dict[str, Any]
    input: dict[str, np.ndarray] = field(default_factory=dict)
    like: tuple[Block, ...] | None = None
    plan: Any = None
    flatten: str = "chw"
    epsilon: float = 1e-5
    tags_are_given: bool = False

    def bands_and_frames(self) -> tuple[int, int]:
        """(n_mels, n_frames) of the front end's window."""
        height, width = self._template().input_size()
        return (height, width) if self.document["frontend"]["layout"] == "mel_time" else (width, height)

    def _template(self) -> ModelDocument:
        """A document with this front end and the smallest network there is, only to be asked for sizes."""
        pool = {"window": [1, 1], "stride": [1, 1]}
        block = {"kernel": 1, "in_channels": 1, "out_channels": 1, "activation": "none", "pool": pool}
        head = {"flatten": "max", "in_features": 1}
        return ModelDocument.from_json(json.dumps({**self.document, "blocks": [block], "head": head}))


def load(
    file: str,
    sha256: str,
    *,
    like: str | None = None,
    spec: str | None = None,
    tags: str | None = None,
    name: str | None = None,
    metadata: str | None = None,
) -> Recipe:
    """The recipe for a network in ``file``.

    ``like``: a name that ``fcntag validate`` takes; ``spec``: path of the JSON; ``tags``: path of a text file, one tag
    a line; ``metadata``: the document in the file itself, used where there is neither ``like`` nor a front end in the
    spec. Raises ModelError that names the file and the field.
    """
    document: dict[str, Any] = {
        "format": FORMAT,
        "name": Path(file).stem or "model",
        "description": f"Converted from {file}",
        "tags": [],
        "licence": "unknown",
        "licence_notice": "",
        "training_data": "unknown",
        "source": {"url": "", "authors": "unknown"},
        "metrics": [],
        "notes": [],
    }
    recipe = Recipe(document)
    given = {} if spec is None else _read_spec(spec)
    if like is not None:
        _take_model(recipe, _model(like), like)
    elif metadata is not None and not {"frontend", "segments"} <= set(given):
        _take_metadata(recipe, metadata)
    for key, value in given.items():
        _take_field(recipe, key, value, spec or "")
    if tags is not None:
        document["tags"], recipe.tags_are_given = _read_tags(tags), True
    if name is not None:
        document["name"] = name
    document["source"] |= {"sha256": sha256, "file": file}
    for part in ("frontend", "segments"):
        if part not in document:
            raise ModelError(
                f"its {part} is not in it: name a model that has the same (--like NAME), or give it (--spec FILE)"
            )
    return recipe


def _model(name: str) -> Model:
    from ..catalogue.names import load_any

    return load_any(name)[0]


def _take_model(recipe: Recipe, model: Model, name: str) -> None:
    data = json.loads(model.document.to_json())
    recipe.document |= {"frontend": data["frontend"], "segments": data["segments"], "tags": data["tags"]}
    recipe.document["notes"] = [f"Front end, windows and tags as of {name}, by the choice of whoever converted it."]
    recipe.input = {key: value for key, value in model.tensors.items() if key.startswith("input.")}
    recipe.like = model.document.blocks
    recipe.flatten = model.document.head.flatten


def _take_metadata(recipe: Recipe, text: str) -> None:
    try:
        data = json.loads(ModelDocument.from_json(text).to_json())
    except ModelError as error:
        raise ModelError(f"metadata.fcntag: {error}") from None
    for key in (*_TEXTS, "tags", "source", "notes", "frontend", "segments"):
        recipe.document[key] = data[key]
    note = "Converted from an exported file, whose weights may have been changed since."
    recipe.document["notes"] = [note, *(n for n in data["notes"] if n != note)]
    recipe.tags_are_given = True


def _take_field(recipe: Recipe, key: str, value: Any, spec: str) -> None:
    document = recipe.document
    if key in ("frontend", "segments", "source"):
        if not isinstance(value, dict):
            raise ModelError(f"{spec}: {key}: must be an object")
        document[key] = {**copy.deepcopy(document.get(key, {})), **value}
    elif key == "input":
        if not isinstance(value, dict) or set(value) != {"scale", "shift"}:
            raise ModelError(f"{spec}: input: must be an object with scale and shift")
        recipe.input = {f"input.{name}": _numbers(f"{spec}: input.{name}", values) for name, values in value.items()}
    elif key == "blocks":
        recipe.plan = value
    elif key == "flatten":
        recipe.flatten = value
    elif key == "batch_norm_epsilon":
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
            raise ModelError(f"{spec}: batch_norm_epsilon: {value!r}; must be a number above 0")
        recipe.epsilon = float(value)
    else:
        document[key] = value
        recipe.tags_are_given |= key == "tags"


def _numbers(where: str, values: Any) -> np.ndarray:
    try:
        array = np.atleast_1d(np.asarray(values, dtype=np.float64))
    except (TypeError, ValueError):
        array = np.zeros(0)
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        raise ModelError(f"{where}: must be a number or a list of numbers")
    return array


def _read_spec(path: str) -> dict[str, Any]:
    data = _read_text(path)
    try:
        spec = json.loads(data, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(spec, dict):
        raise ModelError(f"{path}: not a JSON object")
    for key in spec:
        if key not in _FIELDS:
            raise ModelError(f"{path}: {key[:80]!r}: unknown field; known: {', '.join(_FIELDS)}")
    return spec


def _read_tags(path: str) -> list[str]:
    tags = [line.strip() for line in _read_text(path).splitlines() if line.strip()]
    if not tags:
        raise ModelError(f"{path}: no tags in it; one a line")
    return tags


def _read_text(path: str) -> str:
    try:
        if Path(path).stat().st_size > MAX_JSON_BYTES:
            raise ModelError(f"{path}: more than {MAX_JSON_BYTES} bytes")
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ModelError(f"{path}: not UTF-8 text") from None
