"""What kind of file a source is, which published checkpoint, and which converter it therefore needs."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..catalogue.facts import entries, entry
from ..errors import ModelError
from .families import choi2016, choi2017, musicnn_vgg, won2020
from .provenance import Provenance
from .readers.keras import HDF5_MAGIC, read_keras
from .readers.source import read_source
from .readers.tensorflow_checkpoint import Checkpoint
from .readers.torch_state import read_state

if TYPE_CHECKING:
    import numpy as np

    from ..model.document import ModelDocument

_Converted = tuple["ModelDocument", "dict[str, np.ndarray]"]
_MUSICNN = ("mtt-vgg", "msd-vgg")
_WON = ("won2020-fcn-mtat", "won2020-fcn-msd", "won2020-fcn-jamendo")
# PyTorch before 1.6 wrote bare pickles (protocol 2, then a magic number), later versions zip archives.
_PICKLE_MAGIC, _ZIP_MAGIC = b"\x80\x02", b"PK\x03\x04"
_MAX_MEMBER_BYTES = 256 << 20


def families() -> tuple[str, ...]:
    """The catalogue models that a checkpoint can be: all but the variants, and what was never one."""
    return tuple(item.name for item in entries() if item.base is None and item.origins)


def convert_source(path: Path, family: str | None, kernels: Literal["theano", "tensorflow"] | None) -> _Converted:
    """``fcntag.convert.convert`` without the naming of the path in errors."""
    prefix = _checkpoint_prefix(path)
    if prefix is not None:
        return _from_checkpoint(prefix, family)
    data = read_source(path)
    if data.startswith(HDF5_MAGIC):
        return _from_keras(path, data, family, kernels)
    if data.startswith(_ZIP_MAGIC) and path.suffix == ".whl":
        return _from_wheel(path, data, family)
    if data.startswith((_PICKLE_MAGIC, _ZIP_MAGIC)):
        return _from_torch(path, data, family)
    raise ModelError(
        "not a checkpoint of a known kind; known: a TensorFlow V2 checkpoint (its folder or prefix), the musicnn "
        "wheel, Keras HDF5 (.hdf5, .h5), PyTorch state dict (.pth), ONNX (.onnx)"
    )


def _provenance(path: Path, data: bytes, family: str | None, guess: Callable[[], str]) -> Provenance:
    """Whose file it is: by its digest, else what the caller says, else what ``guess`` makes of its layers."""
    digest = hashlib.sha256(data).hexdigest()
    for item in entries():
        if item.base is not None:
            continue
        for origin in item.origins:
            if not origin.members and origin.matches(data):
                if family not in (None, item.name):
                    raise ModelError(f"is the published file of {item.name}, not of {family}")
                return Provenance(item, origin, digest, origin.file)
    return Provenance(entry(family or guess()), None, digest, path.name)


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


def _from_checkpoint(prefix: str, family: str | None) -> _Converted:
    files: dict[str, bytes] = {}

    def read(suffix: str) -> bytes:
        files[suffix] = read_source(Path(prefix + suffix))
        return files[suffix]

    checkpoint = Checkpoint(read)
    return _musicnn(checkpoint, files, family)


def _from_wheel(path: Path, data: bytes, family: str | None) -> _Converted:
    if family not in _MUSICNN:
        raise ModelError(f"a wheel of musicnn holds several models; say which: {' or '.join(_MUSICNN)}")
    folder = entry(family).origins[0].file
    files: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(path) as wheel:

            def read(suffix: str) -> bytes:
                member = wheel.getinfo(f"{folder}/{suffix}")
                if member.file_size > _MAX_MEMBER_BYTES:
                    raise ModelError(f"{member.filename}: {member.file_size} bytes; at most {_MAX_MEMBER_BYTES}")
                files[suffix] = wheel.read(member)
                return files[suffix]

            return _musicnn(Checkpoint(read), files, family)
    except KeyError as error:
        raise ModelError(f"not a wheel of musicnn: {error.args[0] if error.args else error}") from None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise ModelError(f"not a wheel, or damaged: {error}") from None


def _musicnn(checkpoint: Checkpoint, files: dict[str, bytes], family: str | None) -> _Converted:
    if not musicnn_vgg.matches(checkpoint.names()):
        raise ModelError("a TensorFlow checkpoint, but not of musicnn's VGG models (MTT_vgg, MSD_vgg)")
    checkpoint.read("dense/kernel")  # so that the shard is among the files that are told by digest
    digests = {suffix: hashlib.sha256(data).hexdigest() for suffix, data in files.items()}
    for name in _MUSICNN:
        item = entry(name)
        origin = item.origins[0]
        if {f"{origin.file}/{suffix}": digest for suffix, digest in digests.items()} == origin.members:
            if family not in (None, name):
                raise ModelError(f"is the published checkpoint of {name}, not of {family}")
            # The wheel's digest stands for the checkpoint in it, so that folder and wheel give the same model file.
            return musicnn_vgg.build(Provenance(item, origin, origin.sha256, origin.file), checkpoint)
    if family is None:
        raise ModelError(f"not one of the published checkpoints; say whose tags it has: {' or '.join(_MUSICNN)}")
    if family not in _MUSICNN:
        raise ModelError(f"is a musicnn checkpoint; {family} is not: allowed: {' or '.join(_MUSICNN)}")
    shards = sorted(suffix for suffix in digests if suffix != ".index")
    provenance = Provenance(entry(family), None, digests[shards[0]], shards[0])
    return musicnn_vgg.build(provenance, checkpoint)


# ---- Keras and PyTorch ----


def _from_keras(
    path: Path, data: bytes, family: str | None, kernels: Literal["theano", "tensorflow"] | None
) -> _Converted:
    file = read_keras(path, kernels)
    signature = file.signature()
    if signature == choi2016.SIGNATURE:
        return choi2016.build(_provenance(path, data, family, lambda: choi2016.family(file)), file)
    if signature in (choi2017.SIGNATURE, choi2017.SIGNATURE_WITHOUT_HEAD):
        return choi2017.build(_provenance(path, data, family, lambda: choi2017.family(file)), file)
    raise ModelError(f"a Keras file, but of no known network: its layers are {signature[:200] or 'none'}")


def _from_torch(path: Path, data: bytes, family: str | None) -> _Converted:
    state = read_state(path)
    if not won2020.matches(state):
        raise ModelError(
            "a PyTorch state dict, but of no known network; known: Won's FCN; of another one say what it holds by "
            "--like NAME or --spec FILE"
        )

    def guess() -> str:
        raise ModelError(f"not one of the published files; say whose tags it has: {', '.join(_WON)}")

    provenance = _provenance(path, data, family, guess)
    if provenance.entry.name not in _WON:
        raise ModelError(f"holds Won's FCN; {family} is not: allowed: {', '.join(_WON)}")
    return won2020.build(provenance, state)
