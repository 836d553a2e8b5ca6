"""Files that are no checkpoint which can be read: what they are, and what to save or export instead, in one line."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from ...errors import ModelError
from .source import read_source

_ONNX = "export the network to ONNX"
_STATE = "save the network's state dict (torch.save(model.state_dict(), FILE)), or " + _ONNX + " (torch.onnx.export)"
_KERAS = "save it as .keras (model.save), or " + _ONNX + " (model.export(FILE, format='onnx'))"
# By the endings that say it; the content of these kinds has no mark of its own.
_ENDINGS = {
    ".pdparams": ("parameters of Paddle", f"{_ONNX} (paddle2onnx)"),
    ".pdmodel": ("a program of Paddle", f"{_ONNX} (paddle2onnx)"),
    ".msgpack": ("parameters of Flax", f"{_ONNX} (jax2onnx)"),
    ".mlmodel": ("a Core ML model", _STATE),
    ".engine": ("an engine of TensorRT", "take the ONNX file that it was built from"),
    ".plan": ("an engine of TensorRT", "take the ONNX file that it was built from"),
    ".param": ("a network of ncnn", "take the file that it was made from, or ONNX"),
    ".caffemodel": ("a network of Caffe", _ONNX),
    ".pb": ("a graph of TensorFlow", f"{_ONNX} (tf2onnx)"),
    ".gguf": ("a GGUF file", _STATE),
    ".npz": ("arrays of NumPy", "save them as a state dict (safetensors), with the names of their layers"),
    ".npy": ("an array of NumPy", "save the network as a state dict (safetensors)"),
}


def refuse_foreign(path: Path) -> None:
    """Raise ModelError for a file or folder of a kind that is known and not read."""
    kind = _of_folder(path) if path.is_dir() else _of_file(path)
    if kind is not None:
        what, instead = kind
        raise ModelError(f"{path}: {what}, which is not read; {instead}")


def _of_folder(path: Path) -> tuple[str, str] | None:
    if (path / "saved_model.pb").is_file() or (path / "saved_model.pbtxt").is_file():
        return "a SavedModel of TensorFlow", f"{_KERAS}, or convert it by tf2onnx"
    if path.suffix == ".mlpackage":
        return "a Core ML model", _STATE
    if (path / "_METADATA").is_file() or (path / "_CHECKPOINT_METADATA").is_file():
        return "a checkpoint of Orbax", f"{_ONNX} (jax2onnx)"
    if (path / ".metadata").is_file() and any(path.glob("*.distcp")):
        return "a distributed checkpoint of PyTorch", f"join it by torch.distributed.checkpoint.format_utils; {_STATE}"
    return None


def _of_file(path: Path) -> tuple[str, str] | None:
    if not path.is_file():
        return None  # a prefix of a checkpoint's files, or missing: others say so
    with path.open("rb") as file:
        start = file.read(64)
    if start[4:8] == b"TFL3":
        return "a TensorFlow Lite model (.tflite)", f"take the network that it was made from: {_KERAS}"
    if start.lstrip().startswith(b"<?xml") or start.lstrip().startswith(b"<net "):
        return "a network of OpenVINO", "take the ONNX file that it was made from"
    if start.startswith(b"PK\x03\x04"):
        return _of_archive(path)
    readable = start.startswith((b"\x89HDF", b"\x80\x02")) or start[8:9] == b"{"
    return None if readable else _ENDINGS.get(path.suffix.lower())


def _of_archive(path: Path) -> tuple[str, str] | None:
    try:
        names = zipfile.ZipFile(io.BytesIO(read_source(path))).namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):
        return None
    parts = {name.partition("/")[2] for name in names} | set(names)
    if any(name.endswith("serialized_exported_program.json") for name in parts) or (
        "archive_format" in parts and any(name.startswith("models/") for name in parts)
    ):
        return "an exported program of PyTorch (.pt2), not a PyTorch state dict", _STATE
    if "constants.pkl" in parts and any(name.startswith("code/") for name in parts):
        return "a TorchScript program, not a PyTorch state dict", _STATE
    if any(name.endswith(".npy") for name in names):
        return _ENDINGS[".npz"]
    return None
