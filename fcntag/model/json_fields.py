"""JSON into dataclasses, strictly: an unknown, missing or misshapen field is an error that names it by its path."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

from ..errors import ModelError

Checks = Mapping[Any, Callable[[dict[str, Any], str], None]]


def reject_constant(name: str) -> None:
    """For ``json.loads``: refuses NaN and Infinity, which Python would read and JSON does not have."""
    raise ValueError(f"{name} is not a number that JSON has")


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For ``json.loads``: an object's pairs as a dict; raises ValueError where a name appears twice."""
    out: dict[str, Any] = {}
    for key, value in pairs:
        if key in out:
            raise ValueError(f"field {show(key)} appears twice")
        out[key] = value
    return out


def build(kind: Any, value: Any, path: str, checks: Checks) -> Any:
    """Turn parsed JSON into ``kind`` (dataclass, tuple, Literal, Optional or plain type), refusing anything else.

    ``checks`` maps a dataclass to a further check of its JSON object, which is called with the object and its path.
    """
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, path, checks)
    if origin is tuple:
        inner = typing.get_args(kind)
        if not isinstance(value, list):
            raise ModelError(f"{path}: expected a list, not {show(value)}")
        if inner[-1] is Ellipsis:
            return tuple(build(inner[0], v, f"{path}[{i}]", checks) for i, v in enumerate(value))
        if len(value) != len(inner):
            raise ModelError(f"{path}: expected {len(inner)} values, not {len(value)}")
        return tuple(build(k, v, f"{path}[{i}]", checks) for i, (k, v) in enumerate(zip(inner, value, strict=True)))
    if origin is Literal:
        choices = typing.get_args(kind)
        if not isinstance(value, str) or value not in choices:
            raise ModelError(f"{path}: {show(value)} is not one of {', '.join(choices)}")
        return value
    if origin is types.UnionType:  # the only union in a document is "float | None"
        return None if value is None else build(typing.get_args(kind)[0], value, path, checks)
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise ModelError(f"{path}: {show(value)} is out of range")
        return number
    if kind in (int, str, bool) and type(value) is kind:
        return value
    raise ModelError(f"{path}: expected {kind.__name__}, not {show(value)}")


@functools.cache  # resolving annotations would be half the time of reading a model
def _fields(kind: Any) -> tuple[dict[str, Any], dict[str, dataclasses.Field[Any]]]:
    return typing.get_type_hints(kind), {f.name: f for f in dataclasses.fields(kind)}


def _build_dataclass(kind: Any, value: Any, path: str, checks: Checks) -> Any:
    if not isinstance(value, dict):
        raise ModelError(f"{path}: expected an object, not {show(value)}")
    hints, fields = _fields(kind)
    for name in value:
        if name not in fields:
            shown = name[:80] if name.isprintable() else show(name)  # one line, whatever the name holds
            raise ModelError(f"{path}.{shown}: unknown field; known: {', '.join(fields)}")
    arguments = {}
    for name, spec in fields.items():
        if name in value:
            arguments[name] = build(hints[name], value[name], f"{path}.{name}", checks)
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            raise ModelError(f"{path}.{name}: missing")
    if kind in checks:
        checks[kind](value, path)
    return kind(**arguments)


def show(value: Any) -> str:
    """``repr(value)`` for a message, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
