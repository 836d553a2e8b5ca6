"""``fcntag models pull``: downloads an original checkpoint, checks it, converts it and puts it into the store.

Nothing else in fcntag touches the network.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from .catalogue.facts import Entry, entry
from .catalogue.store import is_file, model_path, record_path, stored_path, verify
from .convert import convert
from .convert.readers.source import read_source
from .errors import ModelError
from .model.file import read_model, write_atomically, write_model


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
    path = stored_path(item.name)
    if source is not None:
        return _convert_into_store(item, Path(source), path, shown=os.fspath(source))
    if is_file(path):
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


def _convert_into_store(item: Entry, source: Path, path: Path, *, shown: str) -> Path:
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
    write_atomically(record_path(path), json.dumps(record, indent=1).encode())
    return path


class _Progress:
    """The progress bar that pooch expects; it hands the count on to a plain function."""

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
