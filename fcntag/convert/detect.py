"""Recognising a checkpoint: its kind of file, the converter for its network, and whether it is a published file.

``KINDS`` is the only table. A new family of networks is a module in ``families`` and its name in a row; a new kind of
file is a module in ``readers`` and a row.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ..catalogue.facts import entries, entry
from ..errors import ModelError
from .families import choi2016, choi2017, musicnn_vgg, won2020
from .provenance import Provenance
from .readers.foreign import refuse_foreign
from .readers.keras import HDF5_MAGIC, read_keras
from .readers.keras_model import is_model, is_weights
from .readers.source import read_source
from .readers.state import is_safetensors, read_state
from .readers.tensorflow_checkpoint import Checkpoint

if TYPE_CHECKING:
    import numpy as np

    from ..model.document import ModelDocument

Model = tuple["ModelDocument", "dict[str, np.ndarray]"]
# PyTorch before 1.6 wrote bare pickles (protocol 2, then a magic number), later versions zip archives.
_PICKLE_MAGIC, _ZIP_MAGIC = b"\x80\x02", b"PK\x03\x04"
_MAX_MEMBER_BYTES = 256 << 20  # of a wheel's member, unpacked: larger ones are refused


class Converter(Protocol):
    """The interface of a module in ``families``. ``contents`` is what the kind's reader gives."""

    @property
    def NETWORK(self) -> str:
        """A name of the network for messages."""

    @property
    def MODELS(self) -> tuple[str, ...]:
        """The models of the catalogue that have this network."""

    def matches(self, contents: Any, /) -> bool:
        """Whether the contents are of this network."""

    def family(self, contents: Any, /) -> str:
        """The one of ``MODELS`` that the contents look like; raises ModelError where they do not tell."""

    def build(self, provenance: Provenance, contents: Any, /) -> Model:
        """Document and tensors; raises ModelError if the contents are not of ``provenance.entry``."""


@dataclass(frozen=True)
class Source:
    """A file or folder to convert, and the caller's choices: the catalogue model, the kernels' layout, the dict."""

    path: Path
    family: str | None
    kernels: Literal["theano", "tensorflow"] | None
    key: str | None = None

    @cached_property
    def data(self) -> bytes:
        """The file's bytes; raises ModelError if it cannot be read."""
        return read_source(self.path)


@dataclass(frozen=True)
class Kind:
    """A kind of checkpoint.

    Attributes
    ----------
    about : its name in the list of known kinds
    recognises : whether a source is of this kind
    convert : reads a source of this kind and hands it to the converter that matches
    converters : the networks that such a file can hold
    """

    about: str
    recognises: Callable[[Source], bool]
    convert: Callable[[Source, tuple[Converter, ...]], Model]
    converters: tuple[Converter, ...]


def families() -> tuple[str, ...]:
    """The catalogue models that a checkpoint can be: all but the variants and those that we trained ourselves."""
    return tuple(item.name for item in entries() if item.base is None and item.origins)


def convert_source(
    path: Path, family: str | None, kernels: Literal["theano", "tensorflow"] | None, key: str | None = None
) -> Model:
    """``fcntag.convert.convert``, but an error need not name the path."""
    refuse_foreign(path)
    source = Source(path, family, kernels, key)
    for kind in KINDS:
        if kind.recognises(source):
            return kind.convert(source, kind.converters)
    known = ", ".join([*(kind.about for kind in KINDS), "ONNX (.onnx)"])
    raise ModelError(f"not a checkpoint of a known kind; known: {known}")


def _matching(converters: tuple[Converter, ...], contents: Any) -> Converter | None:
    return next((converter for converter in converters if converter.matches(contents)), None)


def _provenance(source: Source, converter: Converter, contents: Any) -> Provenance:
    """The file's model: by its digest, else by the caller's choice, else by its layers."""
    digest = hashlib.sha256(source.data).hexdigest()
    for item in entries():
        if item.base is not None:
            continue
        for origin in item.origins:
            if not origin.members and origin.matches(source.data):
                if source.family not in (None, item.name):
                    raise ModelError(f"is the published file of {item.name}, not of {source.family}")
                return Provenance(item, origin, digest, origin.file)
    return Provenance(entry(source.family or converter.family(contents)), None, digest, source.path.name)


# ---- TensorFlow ----


def _checkpoint_prefix(path: Path) -> str | None:
    """The prefix of a TensorFlow checkpoint's files, or None. musicnn's files have the empty name in their folder."""
    if path.is_dir():
        if (path / ".index").is_file():
            return f"{path}/"
        found = sorted(path.glob("*.index"))
        if len(found) == 1:
            return str(found[0]).removesuffix(".index")
        below = sorted(str(p.parent.relative_to(path)) for p in path.glob("*/*.index"))
        hint = f"; name one of its folders: {', '.join(below)}" if below else ""
        raise ModelError(f"is a folder with {len(found)} TensorFlow checkpoints; expected one{hint}")
    if path.suffix == ".index" or path.name == ".index":
        return str(path).removesuffix(".index")
    return str(path) if Path(f"{path}.index").is_file() else None


def _from_checkpoint(source: Source, converters: tuple[Converter, ...]) -> Model:
    prefix = _checkpoint_prefix(source.path)
    return _tensorflow(lambda suffix: read_source(Path(f"{prefix}{suffix}")), source.family, converters)


def _is_wheel(source: Source) -> bool:
    return source.path.suffix == ".whl" and source.data.startswith(_ZIP_MAGIC)


def _from_wheel(source: Source, converters: tuple[Converter, ...]) -> Model:
    models = _models(converters)
    if source.family not in models:
        raise ModelError(f"a wheel of musicnn holds several models; say which: {' or '.join(models)}")
    folder = entry(source.family).origins[0].file
    try:
        with zipfile.ZipFile(source.path) as wheel:

            def read(suffix: str) -> bytes:
                member = wheel.getinfo(f"{folder}/{suffix}")
                if member.file_size > _MAX_MEMBER_BYTES:
                    raise ModelError(f"{member.filename}: {member.file_size} bytes; at most {_MAX_MEMBER_BYTES}")
                return wheel.read(member)

            return _tensorflow(read, source.family, converters)
    except KeyError as error:
        raise ModelError(f"not a wheel of musicnn: {error.args[0] if error.args else error}") from None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise ModelError(f"not a wheel, or damaged: {error}") from None


def _tensorflow(read_file: Callable[[str], bytes], family: str | None, converters: tuple[Converter, ...]) -> Model:
    """Convert a checkpoint. ``read_file`` gives the bytes of the file with a suffix; the digests are of those files."""
    digests: dict[str, str] = {}

    def read(suffix: str) -> bytes:
        data = read_file(suffix)
        digests[suffix] = hashlib.sha256(data).hexdigest()
        return data

    checkpoint = Checkpoint(read)
    converter = _matching(converters, checkpoint)
    if converter is None:
        raise ModelError(f"a TensorFlow checkpoint, but not of {' or '.join(c.NETWORK for c in converters)}")
    checkpoint.read("dense/kernel")  # the head, as tf.layers names it: its shard is read and has a digest then
    for name in converter.MODELS:
        item = entry(name)
        origin = item.origins[0]
        if {f"{origin.file}/{suffix}": digest for suffix, digest in digests.items()} == origin.members:
            if family not in (None, name):
                raise ModelError(f"is the published checkpoint of {name}, not of {family}")
            # The wheel's digest stands for the checkpoint in it, so that folder and wheel give the same model file.
            return converter.build(Provenance(item, origin, origin.sha256, origin.file), checkpoint)
    shard = min(suffix for suffix in digests if suffix != ".index")
    provenance = Provenance(entry(family or converter.family(checkpoint)), None, digests[shard], shard)
    return converter.build(provenance, checkpoint)


# ---- Keras and PyTorch ----


def _from_keras(source: Source, converters: tuple[Converter, ...]) -> Model:
    if is_weights(source.data):
        _refuse_keras_model(source)
    file = read_keras(source.path, source.kernels)
    converter = _matching(converters, file)
    if converter is None:
        signature = file.signature()
        raise ModelError(f"a Keras file, but of no known network: its layers are {signature[:200] or 'none'}")
    return converter.build(_provenance(source, converter, file), file)


def _refuse_keras_model(source: Source) -> None:
    if is_model(source.data) or is_weights(source.data):
        raise ModelError(
            "a Keras 3 file of a network of your own: its front end is not in it: name a model that has the same "
            "(--like NAME), or give it (--spec FILE)"
        )


def _from_torch(source: Source, converters: tuple[Converter, ...]) -> Model:
    _refuse_keras_model(source)
    state = read_state(source.path, source.key)
    converter = _matching(converters, state)
    if converter is None:
        raise ModelError(
            f"a PyTorch state dict, but of no known network; known: {', '.join(c.NETWORK for c in converters)}; of "
            "another one say what it holds by --like NAME or --spec FILE"
        )
    return converter.build(_provenance(source, converter, state), state)


def _models(converters: tuple[Converter, ...]) -> list[str]:
    return [name for converter in converters for name in converter.MODELS]


# ---- the table ----

# A source is of the first kind that recognises it. TensorFlow comes first: its source may be a folder or a prefix,
# which have no bytes that the others could look at. A wheel is a zip archive, as a state dict is, so it comes before.
KINDS = (
    Kind(
        "a TensorFlow V2 checkpoint (its folder or prefix)",
        lambda source: _checkpoint_prefix(source.path) is not None,
        _from_checkpoint,
        (musicnn_vgg,),
    ),
    Kind("the musicnn wheel", _is_wheel, _from_wheel, (musicnn_vgg,)),
    Kind(
        "Keras HDF5 (.hdf5, .h5)",
        lambda source: source.data.startswith(HDF5_MAGIC),
        _from_keras,
        (choi2016, choi2017),
    ),
    Kind(
        "PyTorch state dict (.pth, .ckpt, .safetensors)",
        lambda source: source.data.startswith((_PICKLE_MAGIC, _ZIP_MAGIC)) or is_safetensors(source.data),
        _from_torch,
        (won2020,),
    ),
)
