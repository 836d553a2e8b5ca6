"""Values of an ONNX file that lie in another file beside it, as PyTorch writes them.

A file may name any path. Only one in the file's own folder is read, or in a folder below it, and no link may lead out.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import ModelError
from .onnx_types import bytes_of, elements_of, one_line

MAX_BYTES = 1 << 30  # of all values together, as of one original file


def embed(proto: Any, path: Path) -> list[Path]:
    """Read the values of ``proto`` that lie in other files; returns those files.

    Raises ModelError that names the tensor and the file, where a file is missing, not in the folder of ``path``, or too
    short.
    """
    files: dict[Path, int] = {}
    total = 0
    for tensor in _tensors(proto):
        if tensor.data_location != 1:  # TensorProto.EXTERNAL
            if tensor.external_data:
                raise ModelError(f"{_name(tensor)}: its values are here and in another file; damaged")
            continue
        where = _name(tensor)
        location, offset, length = _entry(tensor, where)
        needed = elements_of(tensor, where) * bytes_of(tensor.data_type, where)
        if length is not None and length != needed:
            raise ModelError(f"{where}: {length} bytes in {location!r}; its shape needs {needed}")
        total += needed
        if total > MAX_BYTES:
            raise ModelError(f"{where}: more than {MAX_BYTES} bytes in other files")
        file = _inside(path, location, where)
        try:
            size = files.setdefault(file, file.stat().st_size)
            if offset + needed > size:
                raise ModelError(
                    f"{file}: {size} bytes; {where} lies at {offset} to {offset + needed}: it is cut short"
                )
            with file.open("rb") as stream:
                stream.seek(offset)
                data = stream.read(needed)
        except OSError as error:
            raise ModelError(f"{file}: cannot be read: {error.strerror or error}") from None
        if len(data) != needed:
            raise ModelError(f"{file}: ends before the values of {where}")
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        tensor.raw_data = data
    return list(files)


def _tensors(proto: Any) -> Iterator[Any]:
    """Every tensor of the graph: initializers, and the values of nodes."""
    yield from proto.graph.initializer
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t


def _name(tensor: Any) -> str:
    return one_line(str(tensor.name))[:80] or "a constant"


def _entry(tensor: Any, where: str) -> tuple[str, int, int | None]:
    """Location, offset and length of a tensor's values."""
    entries = {str(entry.key): str(entry.value) for entry in tensor.external_data}
    numbers = {}
    for key in ("offset", "length"):
        text = entries.get(key)
        if text is not None and not (text.isascii() and text.isdigit() and len(text) < 19):
            raise ModelError(f"{where}: {key} {one_line(text)[:40]!r} of its values in another file; must be a number")
        numbers[key] = None if text is None else int(text)
    location = entries.get("location", "")
    if not location or "\0" in location:
        raise ModelError(f"{where}: its values are in another file that is not named; damaged")
    return location, numbers["offset"] or 0, numbers["length"]


def _inside(path: Path, location: str, where: str) -> Path:
    """The file at ``location``, a regular one that is really inside the folder of ``path``."""
    shown = one_line(location)[:200]
    parts = location.replace("\\", "/").split("/")
    if os.path.isabs(location) or parts[0] == "" or ":" in parts[0] or ".." in parts:
        raise ModelError(f"{where}: its values are in {shown!r}; only a file in the model's own folder is read")
    file = path.parent / location
    try:
        mode = file.stat().st_mode
    except OSError as error:
        missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
        raise ModelError(
            f"{one_line(str(file))}: {'no such file' if missing else error.strerror or error}; the values of "
            f"{where} are in it: keep the two files together"
        ) from None
    if not stat.S_ISREG(mode):
        raise ModelError(f"{one_line(str(file))}: is not a regular file; the values of {where} should be in it")
    folder = os.path.realpath(path.parent)
    real = os.path.realpath(file)
    if os.path.commonpath([folder, real]) != folder:
        raise ModelError(
            f"{where}: its values are in {shown!r}, a link out of the model's folder; only a file in it is read"
        )
    return Path(real)
