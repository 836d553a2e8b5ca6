"""Scores that outlive the run: a folder of Parquet parts. Each is whole or absent, and bound to its model and engine.

    FOLDER/mtt-vgg-0123456789abcdef/part-....parquet

The inner folder is named by a digest of the binding: the model's sha256, fcntag's version, device, instruction set,
precision, and which windows of a track were taken. Scores of anything else lie beside it and are never read. A part
is written under another name, synced and renamed, so that a killed run loses at most what it had not yet written. A
row is used only while its sound file has the size and time of change that it had. Needs pyarrow (extra "eval").
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FcntagError

if TYPE_CHECKING:
    from ..tagger import Tagger

FORMAT = 1
# A part is written when so many scores wait, or when the oldest has waited so long. A kill -9 loses at most these.
PART_ROWS = 64
PART_SECONDS = 2.0
MANY_PARTS = 16  # so many become one when the run ends, because opening a file costs more than reading its rows
LEFTOVER_SECONDS = 3600.0  # a temporary file this old belongs to no living run

Note = Callable[[str], None]


def binding_of(tagger: Tagger, hop: float | None, segments: str | None) -> dict[str, Any]:
    """All that a score depends on beside the sound file, of plain JSON types."""
    engine = tagger._engine
    return {
        "format": FORMAT,
        "model": tagger.model_info.to_dict(),
        "engine": tagger.engine_info.to_dict(),
        "isa": engine.isa,
        "reduced": getattr(engine, "reduction", None) is not None,
        "hop_s": hop,
        "segments": segments or "default",
    }


class ScoreCache:
    """Scores of one binding in ``folder``; a context manager that writes the waiting scores, however it is left.

    Parameters
    ----------
    folder : made if it is not there
    binding : see ``binding_of``
    tags : labels of a row of scores
    note : called with one line for each part that was not used, and the reason

    Raises
    ------
    FcntagError : pyarrow is not installed
    OSError : the folder cannot be made, read or written
    """

    def __init__(self, folder: str, binding: Mapping[str, Any], tags: Sequence[str], note: Note) -> None:
        try:
            import pyarrow
        except ImportError:
            raise FcntagError('pyarrow is not installed; it comes with: pip install "fcntag[eval]"') from None
        self._pa = pyarrow
        self._about = {**binding, "labels": list(tags)}
        text = json.dumps(self._about, sort_keys=True)
        name = re.sub(r"[^A-Za-z0-9._-]", "_", self._about["model"]["name"])
        self.folder = os.path.join(folder, f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}")
        self._root, self._note = folder, note
        os.makedirs(self.folder, exist_ok=True)
        self._schema = pyarrow.schema(
            [
                ("path", pyarrow.binary()),
                ("size", pyarrow.int64()),
                ("mtime_ns", pyarrow.int64()),
                ("scores", pyarrow.list_(pyarrow.float32(), len(tags))),
            ],
            metadata={"fcntag": text},
        )
        self._n_tags = len(tags)
        self._rows: dict[bytes, tuple[int, int, np.ndarray]] = {}
        self._new: list[bytes] = []
        self._since = 0.0
        self._parts: list[str] = []
        self._load()

    # ---- use ----

    def get(self, file: str) -> np.ndarray | None:
        """The scores of ``file``, float32 [n_tags]; None where there are none or it has changed since."""
        row = self._rows.get(_key(file))
        if row is None:
            return None
        try:
            status = os.stat(file)
        except OSError:
            return None
        return row[2] if row[:2] == (status.st_size, status.st_mtime_ns) else None

    def put(self, file: str, status: os.stat_result, scores: np.ndarray) -> None:
        """Keep the scores of ``file``, whose ``status`` was taken before it was read."""
        self._rows[_key(file)] = (status.st_size, status.st_mtime_ns, np.array(scores, np.float32))
        if not self._new:
            self._since = time.monotonic()
        self._new.append(_key(file))
        if len(self._new) >= PART_ROWS or time.monotonic() - self._since >= PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the waiting scores as one part."""
        if self._new:
            self._parts.append(self._write(self._new))
            self._new = []

    def close(self) -> None:
        """Write the waiting scores, and make one part of many."""
        self.flush()
        if len(self._parts) > MANY_PARTS:
            whole = self._write(list(self._rows))
            for name in self._parts:  # after a kill right here a row is there twice, with the same scores
                with contextlib.suppress(FileNotFoundError):
                    os.remove(os.path.join(self.folder, name))
            self._parts = [whole]

    def __enter__(self) -> ScoreCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- files ----

    def _write(self, keys: Sequence[bytes]) -> str:
        from pyarrow import parquet

        rows = [self._rows[key] for key in keys]
        flat = self._pa.array(np.concatenate([row[2] for row in rows]), self._pa.float32())
        table = self._pa.table(
            [
                self._pa.array(keys, self._pa.binary()),
                self._pa.array([row[0] for row in rows], self._pa.int64()),
                self._pa.array([row[1] for row in rows], self._pa.int64()),
                self._pa.FixedSizeListArray.from_arrays(flat, self._n_tags),
            ],
            schema=self._schema,
        )
        # Runs at the same time do not know of each other, so no two parts may ever have one name.
        name = f"part-{time.time_ns():020}-{uuid.uuid4().hex[:12]}.parquet"
        path = os.path.join(self.folder, name)
        temporary = os.path.join(self.folder, f".{name}.tmp")
        try:
            with open(temporary, "wb") as file:
                parquet.write_table(table, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.remove(temporary)
            raise OSError(error.errno, os.strerror(error.errno) if error.errno else str(error), path) from error
        return name

    def _load(self) -> None:
        others = [
            entry.name
            for entry in os.scandir(self._root)
            if entry.is_dir()
            and os.path.basename(self.folder) != entry.name
            and re.search(r"-[0-9a-f]{16}$", entry.name)
        ]
        for name in sorted(os.listdir(self.folder)):
            path = os.path.join(self.folder, name)
            if name.endswith(".tmp"):
                with contextlib.suppress(OSError):
                    if time.time() - os.stat(path).st_mtime > LEFTOVER_SECONDS:
                        os.remove(path)
            elif name.endswith(".parquet"):
                reason = self._read(path)
                if reason is None:
                    self._parts.append(name)
                else:
                    self._note(f"{path}: {reason}; its scores are not used")
        if others and not self._rows:
            self._note(
                f"{self._root}: holds scores of other models, versions or settings ({len(others)}); they are not used"
            )

    def _read(self, path: str) -> str | None:
        """Take the rows of a part; returns the reason where it cannot be used."""
        from pyarrow import parquet

        try:
            table = parquet.read_table(path)
            about = json.loads((table.schema.metadata or {}).get(b"fcntag", b"null"))
            if about != json.loads(json.dumps(self._about)):
                return "scores of another model, version or setting"
            if not table.schema.equals(self._schema):
                return "not a part of a score cache"
            scores = table.column("scores").combine_chunks()
            values = scores.values.to_numpy().reshape(-1, self._n_tags)
            keys, sizes, times = (table.column(name).to_pylist() for name in ("path", "size", "mtime_ns"))
        except FileNotFoundError:  # another run has just made one part of many; the clips in it are scored again
            return None
        except (OSError, ValueError, self._pa.ArrowException) as error:
            return f"damaged ({str(error).splitlines()[0]})"
        if len(values) != len(keys) or not np.isfinite(values).all():
            return "damaged (scores that are not finite)"
        for key, size, changed, row in zip(keys, sizes, times, values, strict=True):
            self._rows[key] = (size, changed, row)
        return None


def _key(file: str) -> bytes:
    return os.fsencode(os.path.abspath(file))
