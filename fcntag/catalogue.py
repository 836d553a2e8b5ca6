"""The models that fcntag knows by name: three embedded in the package, the others fetched once by ``pull``.

Loading never touches the network. What ``pull`` converts is kept in ``home()/models``; what is known about each
model (origin, sha256, licence, published figures) is in ``data/catalogue.json``, the one place for these facts.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .document import Metric
from .errors import ModelError

if TYPE_CHECKING:
    from .modelfile import Model

DEFAULT = "mtt-vgg"
_PACKAGE = Path(__file__).resolve().parent
_MAX_SOURCE_BYTES = 1 << 30  # 15 x the widest network of the paper


@dataclass(frozen=True, kw_only=True)
class Origin:
    """One published file that holds a model's weights; several may hold the same weights."""

    url: str
    file: str  # path inside the repository, or for an archive the folder of the checkpoint in it
    sha256: str  # of the file at ``url``, in hex; a prefix of at least 16 digits where the whole was never recorded
    git_blob: str = ""  # git's object id of the same bytes (or a prefix): a second check where sha256 is a prefix
    members: dict[str, str] = dataclasses.field(default_factory=dict)  # of an archive: path in it -> sha256
    note: str = ""

    def matches(self, data: bytes) -> bool:
        """Whether ``data`` is this file."""
        return hashlib.sha256(data).hexdigest().startswith(self.sha256) and git_blob_id(data).startswith(self.git_blob)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One model of the catalogue."""

    name: str
    description: str
    embedded: bool  # shipped with the package; else it has to be pulled
    base: str | None  # of a variant: the model whose file it shares
    origins: tuple[Origin, ...]  # the first is the one that ``pull`` downloads; none of a model that we trained
    authors: str
    licence: str
    licence_notice: str
    training_data: str
    tags: tuple[str, ...]
    metrics: tuple[Metric, ...]
    notes: tuple[str, ...]
    model_sha256: str = ""  # embedded: of the model file

    @property
    def url(self) -> str:
        """Where the original weights are published; "" where there are none."""
        return self.origins[0].url if self.origins else ""

    @property
    def sha256(self) -> str:
        """Of the file at ``url``; a prefix where the whole was never recorded, "" where there is none."""
        return self.origins[0].sha256 if self.origins else ""


@functools.cache
def entries() -> tuple[Entry, ...]:
    """Every model of the catalogue, variants included, the default first."""
    data = json.loads((_PACKAGE / "data" / "catalogue.json").read_text(encoding="utf-8"))
    found: dict[str, Entry] = {}
    for item in data["models"]:
        if "base" not in item:
            item = {"base": None, "embedded": False, **item}
            item["origins"] = tuple(Origin(**origin) for origin in item["origins"])
            item["tags"] = tuple(data["tags"][item["tags"]])
            item["metrics"] = tuple(Metric(**metric) for metric in item["metrics"])
            item["notes"] = tuple(item["notes"])
            item["licence_notice"] = data["notices"][item["licence_notice"]]
            found[item["name"]] = Entry(**item)
        else:  # a variant states only what differs
            item["notes"] = (*item["notes"], *found[item["base"]].notes)
            item["metrics"] = ()
            found[item["name"]] = dataclasses.replace(found[item["base"]], **item)
    return tuple(found.values())


def entry(name: str) -> Entry:
    """The entry called ``name``; raises ModelError that lists the known names."""
    for item in entries():
        if item.name == name:
            return item
    from .networks import PAPER

    if name in PAPER:
        raise ModelError(
            f"{name}: a network of the paper, whose trained weights were never released; "
            f"for random ones: fcntag models new {name} -o FILE.safetensors, and name that file"
        )
    raise ModelError(f"{name}: unknown model; known: {', '.join(e.name for e in entries())}, or a .safetensors file")


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
        if not _is_file(path):
            raise ModelError(f"{path}: missing: the installation of fcntag is incomplete")
        return path
    path = _stored_path(stem)
    if not _is_file(path):
        raise ModelError(
            f"{name}: not pulled yet (no {path}); run: fcntag models pull {stem}, "
            f"or without network: fcntag models pull {stem} --from FILE"
        )
    return path


def is_here(name: str) -> bool:
    """Whether the file of catalogue model ``name`` exists; raises ModelError if its folder cannot be read."""
    item = entry(name)
    stem = item.base or item.name
    return _is_file(_embedded_path(stem) if item.embedded else _stored_path(stem))


def load_model(name_or_path: str | os.PathLike[str]) -> Model:
    """Load a model by catalogue name, or from a path (anything with a path separator or ending in ``.safetensors``).

    Raises ModelError if the name is unknown (it lists the known ones), known but not pulled (it says how), if the
    file does not pass ``read_model``, or if a named model's file is not the one that was made for it (its sha256 is on
    record). Never touches the network.
    """
    from .modelfile import read_model

    if not isinstance(name_or_path, str) or _is_path(name_or_path):
        return read_model(name_or_path)
    item = _entry_not_file(name_or_path)
    model = _read_checked(item)
    if item.base is None:
        return model
    document = model.document.with_variant(item.name.removeprefix(f"{item.base}-"))
    # What was published for the base holds for its pools only.
    document = dataclasses.replace(document, description=item.description, metrics=item.metrics)
    return dataclasses.replace(model, document=document)


def pull(
    name: str,
    source: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Path:
    """Download catalogue model ``name`` (or take the local file ``source``), check, convert and store it; its path.

    ``progress(bytes_done, bytes_total_or_None)`` is called during the download. A model that is stored and intact is
    not downloaded again, an embedded one never. Raises ModelError if the name is unknown, if the network is refused
    (``FCNTAG_OFFLINE=1``) or fails, if a library of the extra ``[convert]`` is missing, or if the sha256 differs.
    """
    item = entry(name)
    if item.embedded:
        return model_path(name)
    item = entry(item.base or item.name)
    path = _stored_path(item.name)
    if source is not None:
        return _convert_into_store(item, Path(source), path, shown=os.fspath(source))
    if _is_file(path):
        try:
            verify(item.name)
            return path
        except ModelError:
            pass  # damaged, or of an older format: fetch it again
    if os.environ.get("FCNTAG_OFFLINE", "0") not in ("", "0"):
        raise ModelError(
            f"{item.name}: FCNTAG_OFFLINE is set: not downloading {item.url}; "
            f"use: fcntag models pull {item.name} --from FILE"
        )
    with tempfile.TemporaryDirectory(prefix="fcntag-pull-") as folder:
        return _convert_into_store(item, _download(item, Path(folder), progress), path, shown=item.url)


def verify(name_or_path: str | os.PathLike[str]) -> dict[str, Any]:
    """Check a model's file from end to end; what was found, as a dict of plain values.

    Every check of ``read_model``. Of a catalogue name also the file's sha256 against the one recorded when it was
    converted, and the sha256 of the original in its document against the catalogue's; of a path (told from a name as by
    ``load_model``) nothing is on record. Raises ModelError at the first that fails.
    """
    from .modelfile import read_model

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
    from .modelfile import read_model

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


def git_blob_id(data: bytes) -> str:
    """The id that git gives a file with these bytes: repositories list it where no sha256 was ever published."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _entry_not_file(name: str) -> Entry:
    """``entry``; where a file has the unknown name, the message says how to name it."""
    try:
        return entry(name)
    except ModelError as error:
        if os.path.isfile(name):
            raise ModelError(f"{error}; there is a file {name}: put ./ in front to name a file") from None
        raise


def _is_file(path: Path) -> bool:
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
    return installed if _is_file(installed) else _PACKAGE.parent / "weights" / f"{name}.safetensors"


def _stored_path(name: str) -> Path:
    return home() / "models" / f"{name}.safetensors"


def _record_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _recorded_sha256(path: Path, stem: str) -> str:
    record = _record_path(path)
    try:
        value = json.loads(record.read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{record}: no sha256 of the conversion ({error}); {_remedy(False, stem)}") from None
    return str(value)


def _convert_into_store(item: Entry, source: Path, path: Path, *, shown: str) -> Path:
    from .convert import convert
    from .modelfile import read_model, write_atomically, write_model

    data = read_source(source)
    if not any(origin.matches(data) for origin in item.origins):
        raise ModelError(
            f"{shown}: sha256 is {hashlib.sha256(data).hexdigest()}; {item.name} is made from "
            + " or ".join(f"{origin.sha256} ({origin.file})" for origin in item.origins)
        )
    document, tensors = convert(source, item.name)
    write_model(path, document, tensors)
    # Equal sources give equal bytes, so two pulls at once write the same file and the same record, in any order.
    record = {"sha256": read_model(path).sha256, "source_sha256": document.source.sha256, "url": document.source.url}
    write_atomically(_record_path(path), json.dumps(record, indent=1).encode())
    return path


def read_source(source: Path) -> bytes:
    """The bytes of an original checkpoint; raises ModelError if it is missing, no regular file, or too large."""
    try:
        if not source.is_file():
            raise ModelError(f"{source}: {'is not a regular file' if source.exists() else 'no such file'}")
        size = source.stat().st_size
        if size > _MAX_SOURCE_BYTES:
            raise ModelError(f"{source}: {size} bytes; at most {_MAX_SOURCE_BYTES}")
        return source.read_bytes()
    except OSError as error:
        raise ModelError(f"{source}: cannot be read: {error.strerror or error}") from None


class _Progress:
    """What pooch expects of a progress bar, handed on to a plain function."""

    def __init__(self, report: Callable[[int, int | None], None]) -> None:
        self.total: int | None = None
        self._report = report
        self._done = 0

    def update(self, n: int) -> None:
        self._done += n
        total = self.total or None  # pooch says 0 where the server gave no length
        # pooch counts the last chunk as a whole one.
        self._report(self._done if total is None else min(self._done, total), total)

    def reset(self) -> None:  # pooch counts the whole file a second time when it is complete
        self._done = 0

    def close(self) -> None:
        pass


def _download(item: Entry, folder: Path, progress: Callable[[int, int | None], None] | None) -> Path:
    try:
        import pooch
    except ImportError:
        raise ModelError(
            f'{item.name}: downloading needs pooch; install it with: pip install "fcntag[convert]"'
        ) from None
    pooch.get_logger().setLevel("WARNING")  # it would announce the download on stderr, which is the caller's to do
    downloader = pooch.HTTPDownloader(progressbar=_Progress(progress) if progress else False, timeout=30)
    try:
        # The hash is checked by the caller for downloads and local files alike.
        return Path(
            pooch.retrieve(item.url, known_hash=None, fname=Path(item.url).name, path=folder, downloader=downloader)
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{item.name}: download failed: {item.url}: {error}; "
            f"without network: fcntag models pull {item.name} --from FILE"
        ) from None
