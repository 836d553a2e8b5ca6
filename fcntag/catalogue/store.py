"""Model files on this machine: three embedded in the package, the others put into ``home()/models`` by ``fcntag.pull``.

Loading never touches the network.
"""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from .facts import Entry, entry

if TYPE_CHECKING:
    from ..model.file import Model

_PACKAGE = Path(__file__).resolve().parent.parent


def home() -> Path:
    """Where pulled models are kept: ``FCNTAG_HOME``, else ``XDG_CACHE_HOME/fcntag``, else ``~/.cache/fcntag``."""
    if folder := os.environ.get("FCNTAG_HOME"):
        return Path(folder).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (Path(cache) / "fcntag").expanduser()


def model_path(name: str) -> Path:
    """The model file of catalogue model ``name``; raises ModelError if it is unknown, not pulled, or out of reach."""
    item = entry(name)
    stem = item.base or item.name
    if item.embedded:
        path = _embedded_path(stem)
        if not is_file(path):
            raise ModelError(f"{path}: missing: the installation of fcntag is incomplete")
        return path
    path = stored_path(stem)
    if not is_file(path):
        raise ModelError(
            f"{name}: not pulled yet (no {path}); run: fcntag models pull {stem}, "
            f"or without network: fcntag models pull {stem} --from FILE"
        )
    return path


def is_here(name: str) -> bool:
    """Whether the file of catalogue model ``name`` exists; raises ModelError if its folder cannot be read."""
    item = entry(name)
    stem = item.base or item.name
    return is_file(_embedded_path(stem) if item.embedded else stored_path(stem))


def load_model(name_or_path: str | os.PathLike[str]) -> Model:
    """Load a model by catalogue name, or from a path (anything with a path separator or ending in ``.safetensors``).

    Raises ModelError if the name is unknown (it lists the known ones), known but not pulled (it says how), if the
    file does not pass ``read_model``, or if a named model's file is not the one that was made for it (its sha256 is on
    record). Never touches the network.
    """
    from ..model.file import read_model

    if not isinstance(name_or_path, str) or _is_path(name_or_path):
        return read_model(name_or_path)
    item = _entry_not_file(name_or_path)
    model = _read_checked(item)
    if item.base is None:
        return model
    document = model.document.with_variant(item.name.removeprefix(f"{item.base}-"))
    # The figures published for the base hold for its pools only.
    document = dataclasses.replace(document, description=item.description, metrics=item.metrics)
    return dataclasses.replace(model, document=document)


def lasting_name(name_or_path: str | os.PathLike[str]) -> str:
    """``name_or_path`` in the form that means the same in a process with another current folder."""
    if isinstance(name_or_path, str) and not _is_path(name_or_path):
        return name_or_path
    return os.path.abspath(os.fsdecode(name_or_path))


def verify(name_or_path: str | os.PathLike[str]) -> dict[str, Any]:
    """Check a model's file from end to end and return the findings as a dict of plain values.

    Every check of ``read_model``. Of a catalogue name also the file's sha256 against the one recorded when it was
    converted, and the sha256 of the original in its document against the catalogue's; of a path (told from a name as by
    ``load_model``) nothing is on record. Raises ModelError at the first that fails.
    """
    from ..model.file import read_model

    if not isinstance(name_or_path, str) or _is_path(name_or_path):
        model = read_model(name_or_path)
        name, embedded = model.document.name, False
    else:
        item = _entry_not_file(name_or_path)
        model = _read_checked(item)
        name, embedded = item.name, item.embedded
        if item.base is not None:
            model.document.with_variant(item.name.removeprefix(f"{item.base}-")).validate()
    return {
        "name": name,
        "path": str(model.path),
        "sha256": model.sha256,
        "source_sha256": model.document.source.sha256,
        "tensors": len(model.tensors),
        "parameters": sum(int(array.size) for array in model.tensors.values()),
        "embedded": embedded,
    }


def _read_checked(item: Entry) -> Model:
    """The file of ``item`` (of a variant: of its base), if it is the one that was made for it; else ModelError."""
    from ..model.file import read_model

    path, stem = model_path(item.name), item.base or item.name
    try:
        model = read_model(path)
    except ModelError as error:
        raise ModelError(f"{error}; {_remedy(item.embedded, stem)}") from None
    document = model.document
    recorded = item.model_sha256 if item.embedded else _recorded_sha256(path, stem)
    if document.name != stem:
        problem = f"document.name: {document.name!r}; the catalogue says {stem!r}"
    elif item.origins and not any(document.source.sha256.startswith(origin.sha256) for origin in item.origins):
        problem = f"document.source.sha256: {document.source.sha256}; the catalogue says {item.sha256}"
    elif recorded != model.sha256:
        problem = f"sha256: {model.sha256}; it was {recorded} when the file was made"
    else:
        return model
    raise ModelError(f"{path}: {problem}; {_remedy(item.embedded, stem)}")


def _remedy(embedded: bool, stem: str) -> str:
    return "install fcntag again" if embedded else f"run again: fcntag models pull {stem}"


def _entry_not_file(name: str) -> Entry:
    """``entry``; where a file has the unknown name, the message says how to name it."""
    try:
        return entry(name)
    except ModelError as error:
        if os.path.isfile(name):
            raise ModelError(f"{error}; there is a file {name}: put ./ in front to name a file") from None
        raise


def is_file(path: Path) -> bool:
    """Whether ``path`` is a file; raises ModelError where that cannot be told, e.g. in a folder without permission."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ModelError(f"{path.parent}: cannot be read: {error.strerror or error}") from None


def _is_path(text: str) -> bool:
    return text.endswith(".safetensors") or os.sep in text or (os.altsep is not None and os.altsep in text)


def _embedded_path(name: str) -> Path:
    installed = _PACKAGE / "weights" / f"{name}.safetensors"
    # A source checkout keeps the weights beside the package; setup.py puts them inside.
    return installed if is_file(installed) else _PACKAGE.parent / "weights" / f"{name}.safetensors"


def stored_path(name: str) -> Path:
    return home() / "models" / f"{name}.safetensors"


def record_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _recorded_sha256(path: Path, stem: str) -> str:
    record = record_path(path)
    try:
        value = json.loads(record.read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{record}: no sha256 of the conversion ({error}); {_remedy(False, stem)}") from None
    return str(value)
