"""``fcntag tag``: sound files in, tags with scores out."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from . import options, tagging, writers
from .streams import Progress, UsageError, log

if TYPE_CHECKING:
    from ..result import Result
    from ..tagger import Tagger

FORMATS = ("table", "json", "jsonl", "csv", "parquet")
DEFAULT_TOP = 5
RECORD_START = b'{"path": '  # of every line that JsonlWriter writes for a Result


def add_parser(commands: options.Subparsers) -> None:
    """Add the command to ``fcntag``."""
    parser = commands.add_parser("tag", help="tag sound files", description="Tag sound files with scores from 0 to 1.")
    options.add_input_options(parser)
    add_tag_options(parser)
    options.add_output_options(parser, FORMATS, "table")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="with -o FILE.jsonl: append, and skip the inputs that FILE holds already without error",
    )
    options.add_model_options(parser)
    parser.set_defaults(run=run)


def add_tag_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for the number of tags."""
    parser.add_argument(
        "-n", "--top", type=options.natural_int, metavar="N", help=f"best tags to give, 0: all (default: {DEFAULT_TOP})"
    )
    parser.add_argument(
        "--threshold", type=options.number, metavar="SCORE", help="only tags of this score or more (all, unless -n)"
    )


def limits(arguments: argparse.Namespace) -> tuple[int | None, float | None]:
    """``n`` and ``threshold`` for ``Result.top``."""
    if arguments.top is None:
        return (DEFAULT_TOP if arguments.threshold is None else None), arguments.threshold
    return arguments.top or None, arguments.threshold


def run(arguments: argparse.Namespace) -> int:
    """Tag everything; 1 if an input failed."""
    kind = writers.format_of(arguments.format, arguments.output, FORMATS)
    tagging.check_inputs(arguments)
    if kind == "parquet":
        if arguments.output is None:
            raise UsageError("-f parquet: a binary format; name a file with -o")
        writers.import_extra("pyarrow", "parquet")
    if arguments.resume and (arguments.output is None or kind != "jsonl"):
        raise UsageError("--resume: needs a JSONL file to go on with: -f jsonl -o FILE")
    with tagging.make_tagger(arguments) as tagger:
        done = resume(arguments.output, tagger.model.sha256, tagger.model.document.name) if arguments.resume else set()
        with make_writer(kind, arguments, tagger) as writer:
            return tag_inputs(arguments, tagger, writer, done)


def tag_inputs(
    arguments: argparse.Namespace, tagger: Tagger, writer: writers.Writer, done: set[str] | frozenset[str] = frozenset()
) -> int:
    """Tag the inputs in order and write each result when it is there; the exit code."""
    inputs = tagging.Inputs(arguments, done)
    with Progress(arguments.quiet, inputs.total) as progress:
        results = tagger.tag_many(inputs, hop=arguments.hop, segments=arguments.segments, workers=arguments.workers)
        return tagging.drain(results, inputs, writer, progress, arguments.quiet)


def make_writer(kind: str, arguments: argparse.Namespace, tagger: Tagger) -> writers.Writer:
    """The writer of format ``kind``."""
    n, threshold = limits(arguments)
    path = arguments.output

    def record(result: Result) -> dict[str, Any]:
        return result.to_dict(n, threshold)

    def rows(result: Result) -> Iterator[tuple[Any, ...]]:
        for rank, tag in enumerate(record(result)["tags"], start=1):
            yield result.path, tag["label"], tag["score"], rank

    if kind == "jsonl":
        return writers.JsonlWriter(path, record, append=arguments.resume)
    if kind == "json":
        return writers.JsonWriter(path, record)
    if kind == "csv":
        return writers.CsvWriter(path, ("path", "label", "score", "rank"), rows)
    if kind == "parquet":
        about = writers.about(tagger, labels=list(tagger.tags))
        return writers.ParquetWriter(path, writers.parquet_columns("scores"), _row, about)
    return writers.TableWriter(path, n, threshold)


def _row(result: Result) -> dict[str, Any]:
    """A wide row: every score, in the order of the labels in the file's metadata."""
    return writers.parquet_row(result, "scores", result.scores)


def resume(path: str, sha256: str, name: str) -> set[str]:
    """The inputs that a JSONL file holds without error; cuts a torn last line off, so that appending is safe.

    Raises UsageError where the file holds anything else, or another model's records: scores of two models must not mix
    unnoticed.
    """
    done: set[str] = set()
    if not os.path.exists(path):
        return done
    with open(path, "rb+") as file:
        whole = 0
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                if line[: len(RECORD_START)] != RECORD_START[: len(line)]:
                    raise UsageError(f"{path}: line {number} is not a record of fcntag; use another file")
                break
            whole += len(line)
            try:
                record = json.loads(line)
                track, model, error = record["path"], record["model"], record["error"]
                if model["sha256"] != sha256 or model["name"] != name:
                    raise UsageError(
                        f"{path}: line {number} is from model {model['name']} ({model['sha256'][:12]}), "
                        f"not {name} ({sha256[:12]}); use another file"
                    )
            except (ValueError, KeyError, TypeError):
                raise UsageError(f"{path}: line {number} is not a record of fcntag; use another file") from None
            if error is None:
                done.add(track)
            else:
                done.discard(track)
        file.seek(0, os.SEEK_END)
        if file.tell() > whole:
            log(f"{path}: the last line is incomplete and is dropped")
            file.truncate(whole)
    return done
