"""Writers of results, one for each format: text, JSON, CSV, Parquet."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from .streams import Progress, UsageError, show, show_line

if TYPE_CHECKING:
    from ..result import Result
    from ..tagger import Tagger


SUFFIXES = ("csv", "json", "jsonl", "parquet", "npy", "png")  # every format that a command writes


@contextlib.contextmanager
def named(path: str | None) -> Iterator[None]:
    """Give an OSError without a file's name (full disk, lost connection) that of the file which is written."""
    try:
        yield
    except OSError as error:
        if path is None or error.filename is not None or isinstance(error, BrokenPipeError):
            raise
        reason = os.strerror(error.errno) if error.errno else str(error)  # pyarrow's own text is longer
        raise OSError(error.errno, reason, path) from error


class Writer:
    """Writes results one by one; ``close`` leaves a whole document behind, also after an interrupt."""

    path: str | None = None  # None: stdout, or nothing at all

    def write(self, result: Any) -> None:
        """Write one result; a failed track has ``error`` set."""
        raise NotImplementedError

    def close(self) -> None:
        """Finish the document and flush it."""
        raise NotImplementedError

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, BrokenPipeError):
            return  # nobody reads: closing the document would only fail again
        with named(self.path):
            self.close()


class TextWriter(Writer):
    """A text stream: stdout, or a file of its own."""

    def __init__(self, path: str | None, append: bool = False) -> None:
        self.path = path
        self._own = path is not None
        self._stream: IO[str] = sys.stdout if path is None else _open_text(path, append)
        # JSON is UTF-8 by its standard. On a stdout with another encoding, escapes keep it valid and readable.
        self._ascii = (getattr(self._stream, "encoding", None) or "").lower().replace("-", "") != "utf8"

    def _put(self, text: str) -> None:
        if Progress.shown is not None and not self._own:
            Progress.shown.clear()
        self._stream.write(text)

    def _json(self, record: Mapping[str, Any]) -> str:
        return json.dumps(printable(record), ensure_ascii=self._ascii, allow_nan=False, separators=(", ", ": "))

    def close(self) -> None:
        self._stream.flush()
        if self._own:
            self._stream.close()


def _open_text(path: str, append: bool) -> IO[str]:
    return open(path, "a" if append else "w", encoding="utf-8", errors="backslashreplace", newline="")


def printable(value: Any) -> Any:
    """A record with every string printable (see ``show``)."""
    if isinstance(value, str):
        return show(value)
    if isinstance(value, Mapping):
        return {key: printable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [printable(item) for item in value]
    return value


class JsonlWriter(TextWriter):
    """One record a line, flushed with each track: every line is whole even if the run is killed."""

    def __init__(self, path: str | None, record: Callable[[Any], Mapping[str, Any]], append: bool = False) -> None:
        super().__init__(path, append)
        self._record = record

    def write(self, result: Any) -> None:
        self._put(self._json(self._record(result)) + "\n")
        self._stream.flush()


class JsonWriter(TextWriter):
    """One array of records, written as they come."""

    def __init__(self, path: str | None, record: Callable[[Any], Mapping[str, Any]]) -> None:
        super().__init__(path)
        self._record = record
        self._separator = "[\n"

    def write(self, result: Any) -> None:
        self._put(self._separator + self._json(self._record(result)))
        self._separator = ",\n"

    def close(self) -> None:
        self._put("[]\n" if self._separator == "[\n" else "\n]\n")
        super().close()


class CsvWriter(TextWriter):
    """A header and the rows of each track. A failed track has no row: its line is on stderr."""

    def __init__(self, path: str | None, header: Iterable[str], rows: Callable[[Any], Iterable[Iterable[Any]]]) -> None:
        import csv

        super().__init__(path)
        self._rows = rows
        self._csv = csv.writer(self._stream, lineterminator="\n")
        self._csv.writerow(header)

    def write(self, result: Any) -> None:
        if Progress.shown is not None and not self._own:
            Progress.shown.clear()
        self._csv.writerows([printable(list(row)) for row in self._rows(result)])


class TableWriter(TextWriter):
    """For people: a heading a track, then its tags with their scores in one column."""

    def __init__(self, path: str | None, n: int | None, threshold: float | None) -> None:
        super().__init__(path)
        self._n, self._threshold = n, threshold
        self._first = True

    def write(self, result: Result) -> None:
        if result.error is not None or result.duration_s is None:
            return
        count = len(result.start_s)
        lines = [f"{show_line(result.path)}  ({clock(result.duration_s)}, {count} segment{'' if count == 1 else 's'})"]
        width = max(map(len, result.tags))
        lines += [f"  {label:<{width}}  {score:.3f}" for label, score in result.top(self._n, self._threshold)]
        if len(lines) == 1:
            lines.append(f"  no score reaches {self._threshold:g}" if self._threshold is not None else "  no tags")
        self._put(("" if self._first else "\n") + "\n".join(lines) + "\n")
        self._first = False
        if self._stream.isatty():
            self._stream.flush()


class ParquetWriter(Writer):
    """One row a track. The file's metadata holds the facts common to all rows, as JSON under ``fcntag``."""

    ROW_GROUP = 1024  # tracks held in memory; a row group far below a thousand rows would make reading slow

    def __init__(
        self, path: str, columns: Mapping[str, str], row: Callable[[Any], Mapping[str, Any]], about: Mapping[str, Any]
    ) -> None:
        pa = import_extra("pyarrow", "parquet")
        import pyarrow.parquet as pq

        kinds = {
            "string": pa.string(),
            "double": pa.float64(),
            "int": pa.int32(),
            "floats": pa.list_(pa.float32()),
            "strings": pa.list_(pa.string()),
        }
        metadata = {"fcntag": json.dumps(printable(about), ensure_ascii=False)}
        self._schema = pa.schema([(name, kinds[kind]) for name, kind in columns.items()], metadata=metadata)
        self._table = pa.Table
        self.path = path
        with named(path):
            self._writer = pq.ParquetWriter(path, self._schema)
        self._row = row
        self._rows: list[dict[str, Any]] = []

    def write(self, result: Any) -> None:
        self._rows.append(printable(self._row(result)))
        if len(self._rows) >= self.ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(self._table.from_pylist(self._rows, schema=self._schema))
            self._rows = []

    def close(self) -> None:
        self._flush()
        self._writer.close()


def parquet_columns(values: str) -> dict[str, str]:
    """Columns of a wide row whose vector is called ``values``."""
    return {
        "path": "string",
        "duration_s": "double",
        "n_segments": "int",
        values: "floats",
        "warnings": "strings",
        "error": "string",
    }


def parquet_row(result: Any, values: str, vector: Any) -> dict[str, Any]:
    """A track's row for ``parquet_columns(values)``; ``vector``: array, or None where the track failed."""
    return {
        "path": result.path,
        "duration_s": result.duration_s,
        "n_segments": len(result.start_s),
        values: None if vector is None else vector.tolist(),
        "warnings": list(result.warnings),
        "error": result.error,
    }


def about(tagger: Tagger, **more: Any) -> dict[str, Any]:
    """The facts common to all rows of a file: model and engine, and ``more``."""
    return {"model": tagger.model_info.to_dict(), "engine": tagger.engine_info.to_dict(), **more}


def import_extra(module: str, extra: str) -> Any:
    """Import an optional package, or say which extra holds it."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise UsageError(f'{module} is not installed; it comes with: pip install "fcntag[{extra}]"') from None


def format_of(wanted: str | None, output: str | None, allowed: tuple[str, ...]) -> str:
    """The format: as asked for, else by the output's suffix, else the first allowed.

    Raises UsageError where the suffix names a format that is not ``allowed``. A suffix of no format is fine.
    """
    suffix = Path(output).suffix.lower().lstrip(".") if output is not None else ""
    if suffix in SUFFIXES and suffix not in allowed:
        raise UsageError(f"-o {output}: .{suffix} is not written by this command; it writes {', '.join(allowed)}")
    if wanted is not None:
        return wanted
    return suffix if suffix in allowed else allowed[0]


def clock(seconds: float) -> str:
    """Seconds as people write them: 0.5 s, 0:30, 1:02:03."""
    if seconds < 1:
        return f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
