"""State dicts: the tensors of a network by name, from a PyTorch checkpoint of any trainer or a safetensors file.

A checkpoint of a trainer holds much beside them. The one dict in it that has convolutions is taken, the others are
named in ``said``; where several have them, ``key`` chooses. No code of a file is ever run (:mod:`.torch_pickle`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ModelError
from . import torch_pickle
from .source import read_source
from .torch_pickle import MAX_ELEMENTS, Foreign, Tensor

MAX_TENSORS = 4096
_MAX_ALL_ELEMENTS = 1 << 27  # of all tensors: a view can claim more elements than the file has bytes
_MAX_DEPTH = 5  # of dicts within dicts
# A wrapper's name in front of each of the network's own: DataParallel and AveragedModel, torch.compile.
_WRAPPERS = ("module", "_orig_mod")
_PARAMETERS = ("weight", "bias", "running_mean", "running_var", "weight_g", "weight_v")
_SAFETENSORS = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "<i1",
    "U8": "<u1",
    "BOOL": "?",
}
_NO_STATE = "not a PyTorch state dict, or damaged"
# The JSON of a safetensors file of a network with the most tensors is far smaller.
_MAX_HEADER = 1 << 24


@dataclass
class State:
    """Tensors in the order of the file.

    Attributes
    ----------
    tensors : floats as float64, integers as int64, by the names in the network; a wrapper's names are removed
    odd : why a tensor is not among them, by its name
    ordered : whether the order of the file can be that of the layers; a file of sorted names does not say
    said : what was taken and what was ignored, for the user
    """

    tensors: dict[str, np.ndarray]
    odd: dict[str, str] = field(default_factory=dict)
    ordered: bool = True
    said: list[str] = field(default_factory=list)
    epsilon: float = 1e-5  # of its batch-norms: PyTorch's
    flatten: str | None = None  # how its framework flattens a map, where the user does not say it


def read_state(path: str | os.PathLike[str], key: str | None = None) -> State:
    """The network's tensors of a PyTorch checkpoint or a safetensors file.

    Parameters
    ----------
    path : the file
    key : which of several state dicts in it: the keys that lead to it with "/" between, or what its names begin with

    Raises
    ------
    ModelError : the file is damaged, holds no state dict, or several and no key
    """
    try:
        data = read_source(Path(path))
        if is_safetensors(data):
            state = _safetensors(data)
            names: list[str] = list(state.tensors) + list(state.odd)
            if key is not None:
                state = _below(state, key, f"{len(names)} tensors, such as {names[0][:80] if names else 'none'}")
        else:
            state = _torch(data, key)
        if state.ordered:
            state.ordered = not _sorted(list(state.tensors))
        return _unwrapped(state)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None


def is_safetensors(data: bytes) -> bool:
    """Whether a file's bytes begin as a safetensors file does."""
    return len(data) > 9 and data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= min(len(data) - 8, _MAX_HEADER)


# ---- PyTorch ----


def _torch(data: bytes, key: str | None) -> State:
    try:
        contents = torch_pickle.load(data)
    except Exception:  # a damaged pickle or archive raises any of many types
        raise ModelError(_NO_STATE) from None
    root = contents.root
    if isinstance(root, Foreign) and root.is_module:
        raise ModelError(_whole_module("", root))
    if _items(root) is None:
        raise ModelError(f"not a PyTorch state dict: it holds {_kind(root)}")
    found = dict(_candidates(root))
    path, chosen, prefix = _choose(found, key, root)
    state = State({})
    left = _MAX_ALL_ELEMENTS
    skipped = []
    for name, value in chosen.items():
        if not isinstance(value, Tensor):
            if _is_parameter(name):
                raise ModelError(f"{str(name)[:80]}: is {_kind(value)}; must be a tensor")
            skipped.append(str(name))
            continue
        if not isinstance(name, str):
            raise ModelError(f"{str(name)[:80]}: is Tensor; must be a tensor with a name")
        if prefix and not name.startswith(prefix):
            continue
        dtype = torch_pickle.dtype_of(value)
        if value.odd:
            state.odd[name] = f"must be a dense tensor of at most {MAX_ELEMENTS} elements"
        elif not (dtype.removeprefix("torch.").startswith(("float", "bfloat")) or dtype == "torch.int64"):
            state.odd[name] = f"dtype is {dtype}; must be floating point or int64"
        else:
            left -= math.prod(value.size)
            if left < 0:
                raise ModelError(f"{name}: more than {_MAX_ALL_ELEMENTS} elements in all tensors")
            try:
                state.tensors[name.removeprefix(prefix)] = contents.array(value)
            except Exception:  # of the archive, or of sizes beyond its end
                raise ModelError(_NO_STATE) from None
    if len(state.tensors) > MAX_TENSORS:
        raise ModelError(f"{len(state.tensors)} tensors; at most {MAX_TENSORS}")
    if path:
        beside = sorted(_beside(root, path))
        state.said.append(f"took {'/'.join(path)!r}" + (f", not {_list(beside)}" if beside else ""))
    if skipped:
        state.said.append(f"ignored {_list(skipped)}, which are no tensors")
    return state


def _items(value: Any) -> Mapping[Any, Any] | None:
    """The items of a dict or of an object that is one."""
    if isinstance(value, dict):
        return value
    return value.items if isinstance(value, Foreign) and value.items else None


def _is_parameter(name: Any) -> bool:
    return isinstance(name, str) and "." in name and name.rpartition(".")[2] in _PARAMETERS


def _candidates(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """Every dict that holds a network's tensors, with the keys that lead to it. An optimiser's are passed over."""
    items = _items(value)
    if items is None or "param_groups" in items or len(path) > _MAX_DEPTH:
        return
    if any(isinstance(item, Tensor) and len(item.size) == 4 for item in items.values()):
        yield path, items
    for key, item in items.items():
        if isinstance(key, str):
            yield from _candidates(item, (*path, key))


def _choose(
    found: dict[tuple[str, ...], Mapping[Any, Any]], key: str | None, root: Any
) -> tuple[tuple[str, ...], Mapping[Any, Any], str]:
    """The dict that is meant, the keys that lead to it, and what its names must begin with."""
    if not found:
        raise ModelError(_nothing_in(root))
    if key is None:
        # A dict of tensors may stand in a state dict of its own (as "_extra_state" does); the outer one is meant then.
        outer = [path for path in found if not any(path[:n] in found for n in range(len(path)))]
        if len(outer) > 1:
            names = _list(["/".join(path) for path in outer])
            raise ModelError(f"holds {len(outer)} state dicts: {names}; say which (--key NAME)")
        return outer[0], found[outer[0]], ""
    exact = [path for path in found if key in ("/".join(path), ".".join(path))]
    if len(exact) == 1:
        return exact[0], found[exact[0]], ""
    named = [path for path in found if path and path[-1] == key]
    if len(named) == 1:
        return named[0], found[named[0]], ""
    prefix = f"{key.rstrip('.')}."
    below = [path for path, items in found.items() if any(str(name).startswith(prefix) for name in items)]
    if len(below) == 1:
        return below[0], found[below[0]], prefix
    known = _list(["/".join(path) for path in found if path]) or "none: the file is one state dict"
    raise ModelError(
        f"--key {key[:80]}: leads to {'several' if below or named else 'no'} state dicts; there are: {known}"
    )


def _beside(root: Any, path: tuple[str, ...]) -> Iterator[str]:
    items = _items(root)
    for n, key in enumerate(path):
        for other in items or ():
            if other != key:
                yield "/".join((*path[:n], str(other)[:80]))
        items = _items(items[key]) if items else None


def _nothing_in(root: Any) -> str:
    """Why a dict holds no state dict, in words."""
    items = _items(root) or {}
    for name, value in items.items():
        if isinstance(value, Foreign) and value.is_module:
            return _whole_module(str(name), value)
    for name, value in items.items():
        if isinstance(name, str) and "shadow_params" in (_items(value) or {}):
            return f"{name}: a list of averaged tensors without names; save the state dict of the averaged network"
    shown = _list([f"{str(name)[:40]} ({_kind(value)})" for name, value in items.items()])
    if any(isinstance(value, Tensor) for value in items.values()):
        return f"no convolutions with a head in it; it holds {shown}"
    return f"{_NO_STATE}: no tensors with names in it, but {shown or 'nothing'}"


def _whole_module(key: str, module: Foreign) -> str:
    where = f"{key}: " if key else ""
    return (
        f"{where}a whole pickled module ({module.name[:120]}), which needs its class's code: load it where that is, "
        "and save its state dict (torch.save(model.state_dict(), FILE)), or export it to ONNX (torch.onnx.export)"
    )


def _kind(value: Any) -> str:
    if isinstance(value, Foreign):
        return value.name[:80]
    return {"NoneType": "None"}.get(type(value).__name__, type(value).__name__)


def _list(names: list[str], most: int = 6) -> str:
    shown = [name[:80] for name in names[:most]]
    return ", ".join(shown) + (f" and {len(names) - most} more" if len(names) > most else "")


# ---- safetensors ----


def _safetensors(data: bytes) -> State:
    size = int.from_bytes(data[:8], "little")
    state = State({}, ordered=False)
    left = _MAX_ALL_ELEMENTS
    try:
        header = json.loads(data[8 : 8 + size])
        metadata = header.pop("__metadata__", {})
        if "fcntag" in metadata:
            raise ModelError("is a model file of fcntag already; nothing is to convert")
        if len(header) > MAX_TENSORS:
            raise ModelError(f"{len(header)} tensors; at most {MAX_TENSORS}")
        for name, entry in header.items():
            shape, (start, end) = [int(n) for n in entry["shape"]], entry["data_offsets"]
            kind = _SAFETENSORS.get(entry["dtype"])
            if kind is None:
                state.odd[name] = f"dtype is {str(entry['dtype'])[:20]}; must be floating point or an integer"
                continue
            body = data[8 + size + start : 8 + size + end]
            if start < 0 or min([*shape, 0]) < 0 or len(body) != math.prod(shape) * np.dtype(kind).itemsize:
                raise ValueError(f"{name} has other sizes than its data")
            left -= math.prod(shape)
            if left < 0:
                raise ModelError(f"{name}: more than {_MAX_ALL_ELEMENTS} elements in all tensors")
            array = np.frombuffer(body, kind).reshape(shape)
            if entry["dtype"] == "BF16":
                array = (array.astype(np.uint32) << 16).view(np.float32)
            state.tensors[name] = array.astype(np.float64 if array.dtype.kind == "f" else np.int64)
    except ModelError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ModelError(f"not a safetensors file, or damaged: {' '.join(str(error).split())[:120]}") from None
    if not state.tensors:
        raise ModelError("no tensors in it")
    return state


def _below(state: State, key: str, holds: str) -> State:
    prefix = f"{key.rstrip('.')}."
    tensors = {k.removeprefix(prefix): v for k, v in state.tensors.items() if k.startswith(prefix)}
    if not tensors:
        raise ModelError(f"--key {key[:80]}: no names begin with it; it holds {holds}")
    odd = {k.removeprefix(prefix): v for k, v in state.odd.items() if k.startswith(prefix)}
    return State(tensors, odd, state.ordered, [f"took the names that begin with {prefix!r}"])


# ---- names ----


def _sorted(names: list[str]) -> bool:
    """Whether somebody sorted the names: PyTorch itself writes a layer's weight before its bias."""
    modules = {name.rpartition(".")[0] for name in names}
    return len(modules) > 2 and names in (sorted(names), sorted(names, key=natural))


def natural(name: str) -> tuple[tuple[tuple[int, int, str], ...], ...]:
    """A key by which names sort part by part, their numbers as numbers: ``layer4.conv`` before ``layer10.conv``."""
    return tuple(tuple(_pieces(part)) for part in name.split("."))


def _pieces(part: str) -> Iterator[tuple[int, int, str]]:
    text = ""
    digits = False
    for char in [*part, ""]:
        is_digit = char.isascii() and char.isdigit()
        if text and (not char or is_digit != digits):
            yield (0, int(text[:18]), "") if digits else (1, 0, text)
            text = ""
        text, digits = text + char, is_digit


def _unwrapped(state: State) -> State:
    """Remove wrappers' names, wherever they stand, unless two names would become one."""
    found: set[str] = set()

    def bare(name: str) -> str:
        parts = name.split(".")
        found.update(part for part in parts[:-1] if part in _WRAPPERS)
        return ".".join([part for part in parts[:-1] if part not in _WRAPPERS] + parts[-1:])

    names = [bare(name) for name in [*state.tensors, *state.odd]]
    if len(set(names)) != len(names):
        return state
    state.tensors = {bare(name): tensor for name, tensor in state.tensors.items()}
    state.odd = {bare(name): reason for name, reason in state.odd.items()}
    if found:
        state.said.append(f"removed {_list([f'{name}.' for name in sorted(found)])} from the names")
    return state
