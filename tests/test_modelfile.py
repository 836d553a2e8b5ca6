"""read_model and write_model: what goes in comes out, and every damage is one line that names file and field."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.make_models import block, make_model

from fcntag.errors import ModelError
from fcntag.model import file as file_module
from fcntag.model.file import METADATA_KEY, Model, check_tensors, read_model, write_model


@pytest.fixture
def model(rng: np.random.Generator) -> Model:
    blocks = [block(3, activation="elu", window=(2, 2)), block(4, affine=True, window=(10, 8))]
    return make_model(rng, blocks, normalization="per_mel")


@pytest.fixture
def file(model: Model, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    write_model(path, model.document, model.tensors)
    return path


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The JSON header and the tensors' bytes of a safetensors file."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(header: dict[str, Any], payload: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + payload


def with_header(change: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    def damage(data: bytes) -> bytes:
        header, payload = split(data)
        change(header)
        return join(header, payload)

    return damage


def with_document(change: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    def damage(header: dict[str, Any]) -> None:
        document = json.loads(header["__metadata__"][METADATA_KEY])
        change(document)
        header["__metadata__"][METADATA_KEY] = json.dumps(document)

    return with_header(damage)


def without_tensor(name: str) -> Callable[[bytes], bytes]:
    """Leave a tensor out, the offsets of the others moved up: a valid safetensors file."""

    def damage(data: bytes) -> bytes:
        header, payload = split(data)
        start, end = header.pop(name)["data_offsets"]
        for entry in header.values():
            if "data_offsets" in entry and entry["data_offsets"][0] >= end:
                entry["data_offsets"] = [offset - (end - start) for offset in entry["data_offsets"]]
        return join(header, payload[:start] + payload[end:])

    return damage


def with_tensor(name: str, dtype: str, size: int) -> Callable[[bytes], bytes]:
    def damage(data: bytes) -> bytes:
        header, payload = split(data)
        entry = {"dtype": dtype, "shape": [1], "data_offsets": [len(payload), len(payload) + size]}
        return join({**header, name: entry}, payload + bytes(size))

    return damage


def as_half(data: bytes) -> bytes:
    """The whole file in float16: a valid safetensors file with a valid document."""
    header, payload = split(data)
    for name, entry in header.items():
        if name != "__metadata__":
            entry["dtype"] = "F16"
            entry["data_offsets"] = [offset // 2 for offset in entry["data_offsets"]]
    return join(header, np.frombuffer(payload, "<f4").astype("<f2").tobytes())


def with_weight(name: str, value: float) -> Callable[[bytes], bytes]:
    """Change the last number of a tensor."""

    def damage(data: bytes) -> bytes:
        header, payload = split(data)
        end = header[name]["data_offsets"][1]
        return join(header, payload[: end - 4] + struct.pack("<f", value) + payload[end:])

    return damage


def overlapping(header: dict[str, Any]) -> None:
    header["head.bias"]["data_offsets"] = header["blocks.0.bias"]["data_offsets"]


def swapped_sizes(header: dict[str, Any]) -> None:
    """Offsets that cover the data but do not fit the shapes."""
    first, second = header["blocks.0.bias"], header["blocks.0.weight"]
    (start, _), (_, end) = sorted([first["data_offsets"], second["data_offsets"]])
    first["data_offsets"], second["data_offsets"] = [start, start + 4], [start + 4, end]


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated in the data": (lambda d: d[:-7], r"data: \d+ bytes after the header, the document needs \d+: truncated"),
    "truncated in the header": (lambda d: d[:200], r"header: length \d+, but 192 bytes follow: truncated"),
    "truncated in the length": (lambda d: d[:5], r"file: 5 bytes; not a safetensors file"),
    "empty": (lambda d: b"", r"file: empty"),
    "trailing bytes": (lambda d: d + b"\0", r"data: \d+ bytes after the header, .*: trailing bytes"),
    "another format": (lambda d: b"\x89HDF\r\n\x1a\n" + d, r"header: length \d+; at most \d+; not a safetensors file"),
    "a text file": (lambda d: b"epoch,loss\n" * 9, r"header: length \d+; at most"),
    "header longer than allowed": (lambda d: struct.pack("<Q", 1 << 62) + d[8:], r"header: length 4611686018427387904"),
    "header not JSON": (lambda d: d[:8] + b"!" + d[9:], r"header: not valid JSON"),
    "header not UTF-8": (lambda d: d.replace(b'{"__metadata__"', b'{"__metadata\xff_"'), r"header: not valid JSON"),
    "header a list": (lambda d: struct.pack("<Q", 2) + b"[]", r"header: not a JSON object"),
    "header nested deeply": (lambda d: struct.pack("<Q", 200_000) + b"[" * 200_000, r"header: not valid JSON"),
    "a tensor named twice": (
        lambda d: join({}, b"")[:8].replace(b"\2", b"\x40") + b'{"a":1,"a":2}'.ljust(64) + d,
        r"header: not valid JSON: field '.*' appears twice",
    ),
    "no metadata": (with_header(lambda h: h.pop("__metadata__")), r"metadata.fcntag: missing: not an fcntag model"),
    "metadata of others": (
        with_header(lambda h: h.update(__metadata__={"format": "pt"})),
        r"metadata.fcntag: missing: not an fcntag model",
    ),
    "metadata a list": (with_header(lambda h: h.update(__metadata__=[1])), r"metadata.fcntag: missing"),
    "document not text": (
        with_header(lambda h: h["__metadata__"].update(fcntag={"name": 1})),
        r"metadata.fcntag: must be a string of JSON, not dict",
    ),
    "document not JSON": (
        with_header(lambda h: h["__metadata__"].update(fcntag=h["__metadata__"]["fcntag"][:-9])),
        r"document: not valid JSON",
    ),
    "document of a later format": (with_document(lambda d: d.update(format=99)), r"document.format: 99"),
    "document with a missing field": (
        with_document(lambda d: d["frontend"].pop("fmin")),
        r"document.frontend.fmin: mis",
    ),
    "document with an unknown field": (
        with_document(lambda d: d["head"].update(gain=1)),
        r"document.head.gain: unknown",
    ),
    "document with half a surrogate": (
        with_document(lambda d: d.update(description="\ud800")),
        r"metadata.fcntag: text that is not Unicode",
    ),
    "missing tensor": (without_tensor("blocks.1.scale"), r"blocks.1.scale: missing$"),
    "several missing tensors": (
        with_document(lambda d: d["blocks"][0].update(post_affine=True)),
        r"blocks.0.scale: missing \(and 1 more\)",
    ),
    "extra tensor": (with_tensor("blocks.9.weight", "F32", 4), r"'blocks.9.weight': unknown tensor; the document has"),
    "wrong dtype": (as_half, r": dtype is F16; must be F32"),
    "no dtype": (with_header(lambda h: h["head.bias"].pop("dtype")), r"head.bias: dtype is None; must be F32"),
    "entry not an object": (with_header(lambda h: h.update({"head.bias": 3})), r"header: head.bias: must be an object"),
    "wrong shape": (
        with_header(lambda h: h["head.weight"].update(shape=h["head.weight"]["shape"][::-1])),
        r"head.weight: shape is \[\d+, 7\]; the document needs \[7, \d+\]",
    ),
    "document of other shapes": (
        with_document(lambda d: d["tags"].pop()),
        r"head.weight: shape is \[7, .* needs \[6, ",
    ),
    "offsets that overlap": (with_header(overlapping), r"header: "),
    "offsets that do not fit the shape": (with_header(swapped_sizes), r"header: "),
    "offsets beyond the file": (
        with_header(lambda h: h["head.bias"].update(data_offsets=[1 << 40, (1 << 40) + 28])),
        r"header: ",
    ),
    "negative offsets": (with_header(lambda h: h["head.bias"].update(data_offsets=[-28, 0])), r"header: "),
    "NaN": (
        with_weight("blocks.0.weight", float("nan")),
        r"blocks.0.weight: nan at \[2, 0, 2, 2\]; every weight must be",
    ),
    "infinity": (
        with_weight("input.shift", float("-inf")),
        r"input.shift: -inf at \[19\]; every weight must be finite",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_one_line_that_names_file_and_field(file: Path, damage: str) -> None:
    change, message = DAMAGES[damage]
    data = change(file.read_bytes())
    assert data != file.read_bytes()
    file.write_bytes(data)
    with pytest.raises(ModelError) as caught:
        read_model(file)
    text = str(caught.value)
    assert text.startswith(f"{file}: ")
    assert "\n" not in text
    assert re.search(message, text.removeprefix(f"{file}: ")), text


def test_reads_what_was_written(model: Model, file: Path) -> None:
    read = read_model(file)
    assert read.document == model.document
    assert read.tensors.keys() == model.tensors.keys()
    for name, array in read.tensors.items():
        np.testing.assert_array_equal(array, model.tensors[name])
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        assert not array.flags.writeable
    assert read.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert read.path == str(file)


def test_a_file_that_changes_meanwhile_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The header that was checked and the tensors that are used must be of the same bytes."""

    class Changing(io.BytesIO):
        def seek(self, offset: int, whence: int = 0) -> int:
            super().seek(8)
            self.write(b" ")
            return super().seek(offset, whence)

        def fileno(self) -> int:
            return descriptor

    with file.open("rb") as real:
        descriptor = real.fileno()
        monkeypatch.setattr(file_module, "_open", lambda name: Changing(file.read_bytes()))
        with pytest.raises(ModelError, match="file: changed while it was read"):
            read_model(file)


def test_equal_models_are_equal_bytes(model: Model, file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    # Another order of the dict, other memory layout, and ints where the document wants floats.
    tensors = {name: np.asfortranarray(model.tensors[name]) for name in reversed(model.tensors)}
    frontend = dataclasses.replace(model.document.frontend, fmin=0, fmax=8000)
    write_model(other, dataclasses.replace(model.document, frontend=frontend), tensors)
    assert other.read_bytes() == file.read_bytes()


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=rf"^{re.escape(str(tmp_path))}/x: no such file$"):
        read_model(tmp_path / "x")
    with pytest.raises(ModelError, match=rf"^{re.escape(str(tmp_path))}: is a directory"):
        read_model(tmp_path)
    with pytest.raises(ModelError, match="not a file name"):
        read_model("a\0b")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelError, match="is not a regular file"):
        read_model(tmp_path / "pipe")


def test_a_huge_sparse_file_is_refused_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(ModelError, match=r"file: 3221225472 bytes; at most 2147483648"):
        read_model(path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("head.bias", None, "head.bias: missing"),
        ("head.bias", np.zeros(6, np.float32), r"head.bias: shape is \[6\]; the document needs \[7\]"),
        ("head.bias", np.zeros(7), "head.bias: dtype is float64; must be float32"),
        ("head.bias", np.full(7, np.inf, np.float32), r"head.bias: inf at \[0\]"),
        ("tail.bias", np.zeros(7, np.float32), "'tail.bias': unknown tensor"),
    ],
)
def test_bad_tensors_are_refused_before_writing(
    model: Model, file: Path, name: str, value: np.ndarray | None, message: str
) -> None:
    before = file.read_bytes()
    tensors = {**model.tensors, name: value}
    if value is None:
        del tensors[name]
    with pytest.raises(ModelError, match=message):
        check_tensors(model.document, tensors)
    with pytest.raises(ModelError, match=message):
        write_model(file, model.document, tensors)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_bad_document_is_refused_before_writing(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    bad = dataclasses.replace(model.document, frontend=dataclasses.replace(model.document.frontend, n_mels=0))
    with pytest.raises(ModelError, match=r"document\.frontend\.n_mels"):
        write_model(path, bad, model.tensors)
    with pytest.raises(ModelError, match="not Unicode"):
        write_model(path, dataclasses.replace(model.document, description="\udc80"), model.tensors)
    assert not list(tmp_path.iterdir())


def test_unwritable_place_is_one_line(model: Model, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ModelError, match=r"model\.safetensors: cannot be written: "):
        write_model(tmp_path / "file" / "model.safetensors", model.document, model.tensors)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    model: Model, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    tensors = {name: array + 1 for name, array in model.tensors.items()}
    with pytest.raises(ModelError, match=r"cannot be written: No space left on device"):
        write_model(file, model.document, tensors)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]
