"""``fcntag embed``: one feature vector a track, for search, clustering and classifiers of your own."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from . import options, tagging, writers
from .streams import Progress, UsageError

if TYPE_CHECKING:
    from ..result import EmbedResult

FORMATS = ("npy", "parquet")
INDEX_SUFFIX = ".json"  # after the whole name of the .npy


def add_parser(commands: options.Subparsers) -> None:
    """Add the command to ``fcntag``."""
    parser = commands.add_parser(
        "embed",
        help="feature vectors",
        description="Features of each track (mean over its windows). npy: float32 [n_tracks, F], and FILE.npy.json "
        "names the rows; parquet: one row a track.",
    )
    options.add_input_options(parser, dense=False)
    parser.add_argument(
        "--which",
        choices=("auto", "head", "blocks"),
        default="auto",
        metavar="FEATURE",
        help="head: what enters the last dense layer; blocks: the mean of every block's output; "
        "auto (default): blocks for choi2017 models, else head",
    )
    options.add_output_options(parser, FORMATS, "npy")
    options.add_model_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the features; 1 if an input failed."""
    kind = writers.format_of(arguments.format, arguments.output, FORMATS)
    index = arguments.output + INDEX_SUFFIX if arguments.output is not None and kind == "npy" else None
    tagging.check_inputs(arguments, **{"the index of -o:": index})
    if arguments.output is None:
        raise UsageError(f"embed: {kind} is a binary format; name a file with -o")
    if kind == "parquet":
        writers.import_extra("pyarrow", "parquet")
    with tagging.make_tagger(arguments) as tagger:
        inputs = tagging.Inputs(arguments)
        about = writers.about(tagger, which=tagger.feature_kind(arguments.which))
        writer: writers.Writer
        if kind == "parquet":
            writer = writers.ParquetWriter(arguments.output, writers.parquet_columns("embedding"), _row, about)
        else:
            writer = NpyWriter(arguments.output, about)
        with Progress(arguments.quiet, inputs.total) as progress, writer:
            results = tagger.embed_many(
                inputs,
                arguments.which,
                hop=arguments.hop,
                segments=arguments.segments,
                workers=arguments.workers,
            )
            return tagging.drain(results, inputs, writer, progress, arguments.quiet)


def _row(result: EmbedResult) -> dict[str, Any]:
    return writers.parquet_row(result, "embedding", result.mean)


class NpyWriter(writers.Writer):
    """float32 [n_tracks, F] in one .npy, written row by row; names and errors in ``{path}.json``."""

    def __init__(self, path: str, about: dict[str, Any]) -> None:
        self.path = path
        self._index_path = path + INDEX_SUFFIX
        self._file = open(path, "wb")  # noqa: SIM115 (closed by close)
        self._about = about
        self._paths: list[str] = []
        self._errors: dict[str, str] = {}
        self._features = 0

    def write(self, result: EmbedResult) -> None:
        if result.mean is None:
            self._errors[result.path] = str(result.error)
            return
        if not self._paths:
            self._features = len(result.mean)
            self._header()
        self._file.write(result.mean.tobytes())
        self._paths.append(result.path)

    def _header(self) -> None:
        import numpy as np

        # NumPy pads the header for a first axis of any size, so the header written at the end fits over this one.
        shape = (len(self._paths), self._features)
        self._file.seek(0)
        np.lib.format.write_array_header_1_0(
            self._file, {"descr": np.lib.format.dtype_to_descr(np.dtype("<f4")), "fortran_order": False, "shape": shape}
        )

    def close(self) -> None:
        self._header()
        self._file.close()
        index = {**self._about, "paths": self._paths, "errors": self._errors}
        with writers.named(self._index_path), open(self._index_path, "w", encoding="utf-8") as file:
            json.dump(writers.printable(index), file, ensure_ascii=False, indent=1)
            file.write("\n")
