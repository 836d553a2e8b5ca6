"""Whole Keras models without Keras: the chain of layers, each with its configuration and its arrays.

Two kinds of files hold a model with its configuration: ``.keras`` (a zip archive of ``config.json`` and
``model.weights.h5``), and HDF5 files that ``model.save`` of Keras 2 and 3 writes (``.h5``). A file of ``save_weights``
of Keras 3 (``.weights.h5``) holds the arrays alone, which makes a state dict of it. Nothing of a configuration is
run: a layer of a class that is not built is refused by name, a Lambda too.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import ModelError
from .keras import HDF5_MAGIC, _array, _as_model_errors, _hard, _names
from .state import State, natural

_MAX_JSON = 1 << 24
_MAX_MEMBER = 1 << 30
_MAX_ELEMENTS = 1 << 27
_MAX_LAYERS = 4096
_MODELS = ("Sequential", "Functional", "Model")
EPSILON = 1e-3  # of Keras' batch-norm, where a file holds no configuration


@dataclass(frozen=True)
class KerasLayer:
    """A layer: its class, its name, its configuration and its arrays in Keras' order."""

    kind: str
    name: str
    config: dict[str, Any]
    arrays: list[np.ndarray] = field(default_factory=list)

    @property
    def where(self) -> str:
        """Its name in messages."""
        return f"{self.name[:60]} ({self.kind[:60]})"


def is_model(data: bytes) -> bool:
    """Whether the bytes are a ``.keras`` archive, or HDF5 with the configuration of a model."""
    if data.startswith(b"PK"):
        try:
            return {"config.json", "model.weights.h5"} <= set(zipfile.ZipFile(io.BytesIO(data)).namelist())
        except (zipfile.BadZipFile, NotImplementedError, ValueError):
            return False
    return data.startswith(HDF5_MAGIC) and "model_config" in _attributes(data)


def is_weights(data: bytes) -> bool:
    """Whether the bytes are weights as ``save_weights`` of Keras 3 writes them."""
    if not data.startswith(HDF5_MAGIC):
        return False
    import h5py

    try:
        with h5py.File(io.BytesIO(data)) as file:
            return "layer_names" not in file.attrs and any(name in file for name in _ROOTS)
    except (OSError, RuntimeError, ValueError):
        return False


def read_model(data: bytes) -> list[KerasLayer]:
    """The layers of a model in the order in which they are computed.

    Raises
    ------
    ModelError : h5py is missing, the file is damaged, or the network is no chain of layers
    """
    h5py = _h5py()
    with _as_model_errors("Keras file"):
        if data.startswith(b"PK"):
            archive = zipfile.ZipFile(io.BytesIO(data))
            config = _json(_member(archive, "config.json", _MAX_JSON))
            weights = _member(archive, "model.weights.h5", _MAX_MEMBER)
            with h5py.File(io.BytesIO(weights), "r") as file:
                root = next((file[name] for name in _ROOTS if name in file), None)
                return list(_chain(config, lambda path, layer: _vars(root, path, layer)))
        with h5py.File(io.BytesIO(data), "r") as file:
            config = _json(_text(file.attrs["model_config"]))
            group = _hard(file, "model_weights")
            return list(_chain(config, lambda path, layer: _weights_of(group, layer)))


_ROOTS = ("layers", "_layer_checkpoint_dependencies")


def read_weights(data: bytes) -> State:
    """The arrays of a ``.weights.h5`` file as a state dict in PyTorch's layouts. It holds no order across classes."""
    h5py = _h5py()
    state = State({}, ordered=False, epsilon=EPSILON, flatten="hwc")
    with _as_model_errors("Keras file"), h5py.File(io.BytesIO(data), "r") as file:
        root = next(file[name] for name in _ROOTS if name in file)
        for name in sorted(root, key=natural):
            kind, number = re.fullmatch(r"(.*?)(?:_(\d+))?", name).groups()  # type: ignore[union-attr]
            arrays = _vars(root, [name], name)
            owner = f"{kind}.{int(number or 0)}"
            if not arrays:
                continue
            if kind not in ("conv2d", "dense", "batch_normalization"):
                raise ModelError(
                    f"{name}: weights of a layer that is not built; built: Conv2D, Dense, BatchNormalization"
                )
            if kind == "batch_normalization":
                _set_norm(state, name, owner, arrays)
                continue
            kernel, *bias = arrays
            state.tensors[f"{owner}.weight"] = kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
            if bias:
                state.tensors[f"{owner}.bias"] = bias[0]
    return state


def _set_norm(state: State, name: str, owner: str, arrays: list[np.ndarray]) -> None:
    if len(arrays) not in (2, 4):
        raise ModelError(
            f"{name}: a batch-norm with one of scale and offset; save the whole model (.keras), which says which"
        )
    if len(arrays) == 4:
        state.tensors[f"{owner}.weight"], state.tensors[f"{owner}.bias"] = arrays[:2]
    state.tensors[f"{owner}.running_mean"], state.tensors[f"{owner}.running_var"] = arrays[-2:]


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise ModelError('reading Keras files needs h5py; install it with: pip install "fcntag[convert]"') from None
    return h5py


def _attributes(data: bytes) -> set[str]:
    try:
        with _h5py().File(io.BytesIO(data), "r") as file:
            return set(file.attrs)
    except (OSError, RuntimeError, ValueError):
        return set()


def _member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    info = archive.getinfo(name)
    if info.file_size > most:
        raise ModelError(f"{name}: {info.file_size} bytes; at most {most}")
    try:
        return archive.read(info)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise ModelError(f"{name}: damaged: {error}") from None


def _text(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except RecursionError:
        raise ModelError("its configuration is nested too deeply") from None


# ---- arrays ----


def _vars(root: Any, path: list[str], name: str) -> list[np.ndarray]:
    """The arrays of the layer at ``path`` of Keras 3's tree."""
    here = root
    for part in path:
        if here is None or part not in here:
            return []
        here = _hard(here, part)
    if "vars" not in here:
        return []
    values = _hard(here, "vars")
    names = sorted(values, key=natural)
    if len(names) > 8:
        raise ModelError(f"{name}: {len(names)} arrays in one layer")
    return [_array(values, key, _MAX_ELEMENTS) for key in names]


def _weights_of(group: Any, name: str) -> list[np.ndarray]:
    """The arrays of a layer in an HDF5 file that ``model.save`` wrote."""
    if name not in group:
        return []
    layer = _hard(group, name)
    names = _names(layer.attrs["weight_names"]) if "weight_names" in layer.attrs else []
    return [_array(layer, key, _MAX_ELEMENTS) for key in names]


# ---- the chain ----


def _chain(model: Any, arrays: Any, path: tuple[str, ...] = (), depth: int = 0) -> Iterator[KerasLayer]:
    if model.get("class_name") not in _MODELS:
        raise ModelError(
            f"{str(model.get('class_name'))[:60]}: a model of a class of its own, whose code is not in the file; save "
            "a Sequential or functional model, or export it to ONNX (model.export(FILE, format='onnx'))"
        )
    if depth > 4:
        raise ModelError("models within models, more than 4 deep")
    layers = model["config"] if isinstance(model["config"], list) else model["config"]["layers"]
    if len(layers) > _MAX_LAYERS:
        raise ModelError(f"{len(layers)} layers; at most {_MAX_LAYERS}")
    counts: dict[str, int] = {}
    before: str | None = None
    for layer in layers:
        kind, config = str(layer["class_name"]), layer["config"]
        name = str(config.get("name") or layer.get("name"))
        snake = _snake(kind)
        number = counts.get(snake, 0)
        counts[snake] = number + 1
        if model["class_name"] != "Sequential" and kind != "InputLayer":
            sources = _sources(layer.get("inbound_nodes", []))
            if len(sources) != 1 or (before is not None and sources != [before]):
                raise ModelError(
                    f"{name[:60]} ({kind[:60]}): takes {', '.join(sources)[:120] or 'nothing'}; built: a chain"
                )
        before = name
        below = (*path, f"{snake}_{number}" if number else snake)
        if kind in _MODELS:
            yield from _chain(layer, arrays, (*below, "layers"), depth + 1)
        else:
            yield KerasLayer(kind, name, config, arrays(list(below), name))


def _snake(name: str) -> str:
    """As Keras names a layer's group by its class."""
    name = re.sub(r"\W+", "", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)).lower()


def _sources(nodes: Any) -> list[str]:
    """Names of the layers whose output a layer takes, in Keras 3's and in Keras 2's form."""
    found: list[str] = []

    def walk(value: Any, depth: int = 0) -> None:
        if depth > 16:
            raise ModelError("its configuration is nested too deeply")
        if isinstance(value, dict):
            history = (
                value.get("config", {}).get("keras_history") if value.get("class_name") == "__keras_tensor__" else None
            )
            if history:
                found.append(str(history[0]))
            else:
                for item in value.values():
                    walk(item, depth + 1)
        elif isinstance(value, list):
            if len(value) >= 3 and isinstance(value[0], str) and isinstance(value[1], int):
                found.append(value[0])
            else:
                for item in value:
                    walk(item, depth + 1)

    walk(nodes)
    return found
