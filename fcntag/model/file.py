"""The model file: safetensors with one metadata key, ``fcntag``, that holds the model document as JSON.

A model file is untrusted input. Its size, header, document, tensor names, dtypes and shapes are checked before the
tensors are read, its numbers before they are used; every failure is one ``ModelError`` line ``PATH: field: problem``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import stat
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from ..errors import ModelError
from .document import MAX_JSON_BYTES, ModelDocument
from .json_fields import unique_keys

METADATA_KEY = "fcntag"
MAX_FILE_BYTES = 2 << 30  # 20 x the widest network of the paper: above it a file is damaged, not ambitious
# The document is a JSON string inside the JSON header, so escaping may double it.
MAX_HEADER_BYTES = 2 * MAX_JSON_BYTES + (1 << 20)


@dataclass(frozen=True)
class Model:
    """What a model is, its numbers, and which file they came from; :func:`read_model` gives one that is checked.

    Attributes
    ----------
    document : the model document
    tensors : float32 by the names and shapes of ``document.tensor_shapes()``, C-contiguous and in native byte order.
        Arrays that lie otherwise in memory are copied at construction; :func:`read_model` gives read-only ones.
    sha256 : of the whole file, in hex
    path : of the file
    """

    document: ModelDocument
    tensors: dict[str, np.ndarray]
    sha256: str
    path: str

    def __post_init__(self) -> None:
        plain = {name: _plain(array) for name, array in self.tensors.items()}
        if any(plain[name] is not array for name, array in self.tensors.items()):
            object.__setattr__(self, "tensors", plain)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Unpickle: the tensors stay read-only, which NumPy forgets."""
        self.__dict__.update(state)
        for array in self.tensors.values():
            array.flags.writeable = False


def read_model(path: str | os.PathLike[str]) -> Model:
    """Read and check the model file at ``path``.

    Raises ``ModelError``, its message beginning with the path, if the file is missing, not a regular file, not a
    safetensors file, truncated, longer or shorter than its header says, without a valid document, or if its tensors
    are not exactly those of the document: same names and shapes, float32, finite.
    """
    name = os.fspath(path)
    try:
        with _open(name) as file:
            size = os.fstat(file.fileno()).st_size
            document, header = _read_header(file, size)
            file.seek(0)
            data = file.read(size)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from None
    except OSError as error:
        raise ModelError(f"{name}: cannot be read: {error.strerror or error}") from None
    try:
        if len(data) != size or not data.startswith(header):
            raise ModelError("file: changed while it was read")
        tensors = _load(data)
        check_tensors(document, tensors)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from None
    for array in tensors.values():
        array.flags.writeable = False
    return Model(document, tensors, hashlib.sha256(data).hexdigest(), name)


def write_model(path: str | os.PathLike[str], document: ModelDocument, tensors: Mapping[str, np.ndarray]) -> None:
    """Check, then write a model file atomically: a reader sees the old file or the whole new one.

    Equal documents and tensors give equal bytes. Raises ``ModelError`` that names the bad field or tensor, or says
    why the file cannot be written.
    """
    from safetensors.numpy import save

    document = document.validate()
    check_tensors(document, tensors)
    contiguous = {name: np.ascontiguousarray(tensors[name]) for name in document.tensor_shapes()}
    try:
        data = save(contiguous, {METADATA_KEY: document.to_json()})
    except UnicodeEncodeError as error:
        raise ModelError(f"document: text that is not Unicode: {error}") from None
    write_atomically(path, data)


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to a new file beside ``path`` and rename it; raises ``ModelError`` if that fails."""
    name = os.fspath(path)
    folder = os.path.dirname(name) or "."
    try:
        os.makedirs(folder, exist_ok=True)
        # The file's own name is in the temporary one so that what a crash leaves behind can be told.
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{os.path.basename(name)}.", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)  # mkstemp makes it private; a model in a shared store is not a secret
            os.replace(temporary, name)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise ModelError(f"{name}: cannot be written: {error.strerror or error}") from None


def check_shapes(document: ModelDocument, tensors: Mapping[str, np.ndarray]) -> None:
    """Raise ``ModelError`` naming the first tensor that is missing, unknown, no array, misshapen or not float32."""
    expected = document.tensor_shapes()
    _check_names(expected, tensors)
    for name, shape in expected.items():
        array = tensors[name]
        if not isinstance(array, np.ndarray):
            raise ModelError(f"{name}: is {type(array).__name__}; must be a NumPy array")
        if array.dtype != np.float32:
            raise ModelError(f"{name}: dtype is {array.dtype}; must be float32")
        if array.shape != shape:
            raise ModelError(f"{name}: shape is {list(array.shape)}; the document needs {list(shape)}")
        if np.ma.is_masked(array):
            raise ModelError(f"{name}: has masked values; fill them first")


def check_tensors(document: ModelDocument, tensors: Mapping[str, np.ndarray]) -> None:
    """Raise ``ModelError`` where :func:`check_shapes` does, and for a tensor that is not finite."""
    check_shapes(document, tensors)
    for name in document.tensor_shapes():
        array = tensors[name]
        finite = np.isfinite(array)
        if not finite.all():
            index = [int(i) for i in np.argwhere(~finite)[0]]
            raise ModelError(f"{name}: {array[tuple(index)]} at {index}; every weight must be finite")


def _plain(array: Any) -> Any:
    """``array`` C-contiguous, aligned and in native byte order: itself, or a copy. What is no array stays as it is."""
    if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
        return array
    return np.require(array, array.dtype.newbyteorder("="), ["C", "A"])


def _check_names(expected: Mapping[str, Any], names: Mapping[str, Any]) -> None:
    missing = [name for name in expected if name not in names]
    if missing:
        raise ModelError(f"{missing[0]}: missing{_and_more(missing)}")
    unknown = sorted(name for name in names if name not in expected)
    if unknown:
        raise ModelError(f"{unknown[0][:80]!r}: unknown tensor{_and_more(unknown)}; the document has none of that name")


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _open(name: str) -> BinaryIO:
    """Open a regular file; anything else is refused before it is opened, because opening a pipe can wait for ever."""
    try:
        mode = os.stat(name).st_mode
    except FileNotFoundError:
        raise ModelError("no such file") from None
    except ValueError as error:  # a NUL byte in the name
        raise ModelError(f"not a file name: {error}") from None
    if stat.S_ISDIR(mode):
        raise ModelError("is a directory, not a model file")
    if not stat.S_ISREG(mode):
        raise ModelError("is not a regular file")
    return open(name, "rb")


def _read_header(file: BinaryIO, size: int) -> tuple[ModelDocument, bytes]:
    """The document, and the header's bytes, once sizes, names, dtypes and shapes are known to fit one another."""
    if size == 0:
        raise ModelError("file: empty")
    if size > MAX_FILE_BYTES:
        raise ModelError(f"file: {size} bytes; at most {MAX_FILE_BYTES}")
    prefix = file.read(8)
    if len(prefix) < 8:
        raise ModelError(f"file: {size} bytes; not a safetensors file")
    (length,) = struct.unpack("<Q", prefix)
    if length > MAX_HEADER_BYTES:
        raise ModelError(f"header: length {length}; at most {MAX_HEADER_BYTES}; not a safetensors file, or damaged")
    if length > size - 8:
        raise ModelError(f"header: length {length}, but {size - 8} bytes follow: truncated, or not a safetensors file")
    header = file.read(length)
    entries = _parse_header(header)
    document = _document(entries.pop("__metadata__", None))
    expected = document.tensor_shapes()
    _check_names(expected, entries)
    for name, shape in expected.items():
        _check_entry(name, entries[name], shape)
    needed = 4 * sum(math.prod(shape) for shape in expected.values())
    if needed != size - 8 - length:
        what = "truncated" if needed > size - 8 - length else "trailing bytes"
        raise ModelError(f"data: {size - 8 - length} bytes after the header, the document needs {needed}: {what}")
    return document, prefix + header


def _parse_header(header: bytes) -> dict[str, Any]:
    try:
        entries = json.loads(header, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"header: not valid JSON: {error}; not a safetensors file, or damaged") from None
    if not isinstance(entries, dict):
        raise ModelError("header: not a JSON object; not a safetensors file, or damaged")
    return entries


def _document(metadata: Any) -> ModelDocument:
    text = metadata.get(METADATA_KEY) if isinstance(metadata, dict) else None
    if text is None:
        raise ModelError(
            f"metadata.{METADATA_KEY}: missing: not an fcntag model (make one from a checkpoint with fcntag convert)"
        )
    if not isinstance(text, str):
        raise ModelError(f"metadata.{METADATA_KEY}: must be a string of JSON, not {type(text).__name__}")
    document = ModelDocument.from_json(text)
    # JSON can spell half a surrogate pair, which no output can be written in.
    if "\\ud" in text.lower():
        try:
            document.to_json().encode()
        except UnicodeEncodeError as error:
            raise ModelError(f"metadata.{METADATA_KEY}: text that is not Unicode: {error}") from None
    return document


def _check_entry(name: str, entry: Any, shape: tuple[int, ...]) -> None:
    if not isinstance(entry, dict):
        raise ModelError(f"header: {name}: must be an object")
    if entry.get("dtype") != "F32":
        raise ModelError(f"{name}: dtype is {str(entry.get('dtype'))[:20]}; must be F32")
    if entry.get("shape") != list(shape):
        raise ModelError(f"{name}: shape is {str(entry.get('shape'))[:80]}; the document needs {list(shape)}")


def _load(data: bytes) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(data)
    except SafetensorError as error:  # offsets that overlap, leave holes or contradict the shapes
        raise ModelError(f"header: {error}") from None
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise ModelError(f"header: tensors cannot be laid out: {error}") from None
