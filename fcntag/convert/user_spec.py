"""The caller's part of a conversion: everything about a model that the network's file does not say.

That is the front end, the windows, the tags and the licence; for a state dict also activations and pools. They come
from a model that has the same (``like``), from a JSON file (``spec``), or from the document in an ONNX file of
``fcntag export``. The JSON may hold ``name``, ``description``, ``tags``, ``licence``, ``licence_notice``,
``training_data``, ``source``, ``notes``, ``frontend`` and ``segments``, all as in the model document. With ``like``,
``frontend`` and ``segments`` may hold only the fields that differ. ``input`` {"scale": [...], "shift": [...]} gives the
tensors of a normalization that has such tensors. ``blocks``, ``flatten``, ``hidden``, ``order``, ``ignore`` and
``batch_norm_epsilon`` are for a state dict: see ``fcntag.convert.state_stack``.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..catalogue.names import load_any
from ..errors import ModelError
from ..model.document import FORMAT, MAX_JSON_BYTES, Block, Dense, ModelDocument
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
    "hidden",
    "order",
    "ignore",
    "batch_norm_epsilon",
)


@dataclass
class UserSpec:
    """Everything that the caller said, put together.

    Attributes
    ----------
    document : JSON of a model document, without blocks and head
    input : tensors input.scale and input.shift, where the front end is another model's and has them
    like : blocks of the model that ``like`` names
    blocks : ``blocks`` of the JSON file, unchecked
    hidden : ``hidden`` of the JSON file, unchecked
    like_hidden : hidden dense layers of the model that ``like`` names
    order : names of a state dict's layers as they are computed
    ignore : patterns of a state dict's names that do not matter
    flatten, flatten_is_given : order of the last map's values for the dense layer, and whether the JSON file says it
    epsilon : of every batch-norm of a state dict, where it is not that of its framework
    tags_are_given : whether the caller gave the tags; they may also be those of a model with the same front end
    """

    document: dict[str, Any]
    input: dict[str, np.ndarray] = field(default_factory=dict)
    like: tuple[Block, ...] | None = None
    blocks: Any = None
    hidden: Any = None
    like_hidden: tuple[Dense, ...] = ()
    order: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()
    flatten: str = "chw"
    flatten_is_given: bool = False
    epsilon: float | None = None
    tags_are_given: bool = False

    def template(self) -> ModelDocument:
        """A document with this front end and these windows, to ask for sizes; its network is the smallest there is."""
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
) -> UserSpec:
    """Everything about the model in ``file`` that the caller or the file's own metadata says.

    Parameters
    ----------
    file, sha256 : name and digest of the network's file, for the document
    like : a name that ``fcntag validate`` takes
    spec : path of the JSON file
    tags : path of a text file with one tag a line
    name : of the model; by default the file's stem
    metadata : the document in the file itself, used where neither ``like`` nor the JSON file gives the front end

    Raises
    ------
    ModelError : it names the file and the field
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
    user = UserSpec(document)
    given = {} if spec is None else _read_spec(spec)
    if like is not None:
        _take_model(user, load_any(like)[0], like)
    elif metadata is not None and not {"frontend", "segments"} <= set(given):
        _take_metadata(user, metadata)
    for key, value in given.items():
        _take_field(user, key, value, spec or "")
    if tags is not None:
        document["tags"], user.tags_are_given = _read_tags(tags), True
    if name is not None:
        document["name"] = name
    document["source"] |= {"sha256": sha256, "file": file}
    for part in ("frontend", "segments"):
        if part not in document:
            raise ModelError(
                f"its {part} is not in it: name a model that has the same (--like NAME), or give it (--spec FILE)"
            )
    return user


def _take_model(user: UserSpec, model: Model, name: str) -> None:
    data = json.loads(model.document.to_json())
    user.document |= {"frontend": data["frontend"], "segments": data["segments"], "tags": data["tags"]}
    user.document["notes"] = [f"Front end, windows and tags as of {name}, by the choice of whoever converted it."]
    user.input = {key: value for key, value in model.tensors.items() if key.startswith("input.")}
    user.like = model.document.blocks
    user.like_hidden = model.document.head.hidden
    user.flatten = {"mean": "average"}.get(model.document.head.flatten, model.document.head.flatten)


def _take_metadata(user: UserSpec, text: str) -> None:
    try:
        data = json.loads(ModelDocument.from_json(text).to_json())
    except ModelError as error:
        raise ModelError(f"metadata.fcntag: {error}") from None
    for key in (*_TEXTS, "tags", "source", "notes", "frontend", "segments"):
        user.document[key] = data[key]
    note = "Converted from an exported file, whose weights may have been changed since."
    user.document["notes"] = [note, *(n for n in data["notes"] if n != note)]
    user.tags_are_given = True


def _take_field(user: UserSpec, key: str, value: Any, spec: str) -> None:
    document = user.document
    if key in ("frontend", "segments", "source"):
        if not isinstance(value, dict):
            raise ModelError(f"{spec}: {key}: must be an object")
        document[key] = {**copy.deepcopy(document.get(key, {})), **value}
    elif key == "input":
        if not isinstance(value, dict) or set(value) != {"scale", "shift"}:
            raise ModelError(f"{spec}: input: must be an object with scale and shift")
        user.input = {f"input.{name}": _numbers(f"{spec}: input.{name}", values) for name, values in value.items()}
    elif key == "blocks":
        user.blocks = value
    elif key == "flatten":
        user.flatten, user.flatten_is_given = value, True
    elif key == "hidden":
        user.hidden = value
    elif key in ("order", "ignore"):
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise ModelError(f"{spec}: {key}: must be a list of names")
        if key == "order":
            user.order = tuple(value)
        else:
            user.ignore = tuple(value)
    elif key == "batch_norm_epsilon":
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
            raise ModelError(f"{spec}: batch_norm_epsilon: {value!r}; must be a number above 0")
        user.epsilon = float(value)
    else:
        document[key] = value
        user.tags_are_given |= key == "tags"


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
