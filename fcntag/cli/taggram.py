"""``fcntag taggram``: scores over time, as numbers and as a picture."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from . import options, tagging, writers
from .streams import Progress, UsageError, show_line

if TYPE_CHECKING:
    from ..result import Result

FORMATS = ("json", "jsonl", "csv")
PLOT_TOP = 15  # rows of the picture: more cannot be read at its size


def add_parser(commands: options.Subparsers) -> None:
    """Add the command to ``fcntag``."""
    parser = commands.add_parser(
        "taggram", help="scores over time", description="Scores of every window of a track, as JSON, CSV or a picture."
    )
    options.add_input_options(parser, segments="all")
    parser.add_argument(
        "-n",
        "--top",
        type=options.natural_int,
        metavar="N",
        help=f"only the best tags of the track, 0: all (default: all; {PLOT_TOP} in the picture)",
    )
    options.add_output_options(parser, FORMATS, "json")
    parser.add_argument(
        "--plot", metavar="FILE.png", help="draw a heat map of one track (and write no numbers, unless -f or -o)"
    )
    options.add_model_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the windows' scores; 1 if an input failed."""
    plot = arguments.plot
    writers.format_of(arguments.format, arguments.output, FORMATS)
    tagging.check_inputs(arguments, **{"--plot": plot})
    if plot is not None:
        if not plot.lower().endswith(".png"):
            raise UsageError(f"--plot {plot}: the picture is written as PNG; end the name in .png")
        if len(arguments.inputs) != 1 or arguments.recursive:
            raise UsageError("--plot: draws one track; give one FILE, without -r")
        writers.import_extra("matplotlib", "plot")
    with tagging.make_tagger(arguments) as tagger:
        results = tagging.Inputs(arguments)
        silent = plot is not None and arguments.format is None and arguments.output is None
        with Progress(arguments.quiet, results.total) as progress, _writer(arguments, silent) as writer:
            stream = tagger.tag_many(results, hop=arguments.hop, segments=arguments.segments, workers=arguments.workers)
            if plot is not None:
                stream = _draw_each(stream, plot, arguments.top)
            return tagging.drain(stream, results, writer, progress, arguments.quiet)


def _writer(arguments: argparse.Namespace, silent: bool) -> writers.Writer:
    n = arguments.top or None

    def record(result: Result) -> dict[str, Any]:
        return taggram_record(result, n)

    def rows(result: Result) -> Iterator[tuple[Any, ...]]:
        data = record(result)
        for segment in data["segments"]:
            for label, score in zip(data["labels"], segment["scores"], strict=True):
                yield result.path, segment["start_s"], segment["end_s"], label, score

    if silent:
        return _Nothing()
    kind = writers.format_of(arguments.format, arguments.output, FORMATS)
    if kind == "csv":
        return writers.CsvWriter(arguments.output, ("path", "start_s", "end_s", "label", "score"), rows)
    if kind == "jsonl":
        return writers.JsonlWriter(arguments.output, record)
    return writers.JsonWriter(arguments.output, record)


class _Nothing(writers.Writer):
    """Writes nothing: only the picture is wanted."""

    def write(self, result: Any) -> None:
        pass

    def close(self) -> None:
        pass


def taggram_record(result: Result, n: int | None = None) -> dict[str, Any]:
    """A track's record with the scores of every segment, in the order of ``labels``; failed tracks have no segments.

    ``labels`` are the model's tags, or the ``n`` best of the track, best first.
    """
    from ..result import shortest

    data = result.to_dict(n)
    best = [tag["label"] for tag in data.pop("tags")]
    labels = list(result.tags) if n is None else best
    columns = [result.tags.index(label) for label in labels]
    segments: Any = [] if result.segments is None else result.segments[:, columns]
    tail = {key: data.pop(key) for key in ("warnings", "error")}
    spans = data.pop("segments")
    return {
        **data,
        "labels": labels,
        "segments": [
            {**span, "scores": [shortest(score) for score in scores]}
            for span, scores in zip(spans, segments, strict=True)
        ],
        **tail,
    }


def _draw_each(results: Iterator[Result], path: str, n: int | None) -> Iterator[Result]:
    for result in results:
        if result.error is None:
            draw(result, path, PLOT_TOP if n is None else (n or None))
        yield result


def draw(result: Result, path: str, n: int | None = PLOT_TOP) -> None:
    """Write a heat map [tags, time] of one track as PNG: best tag on top, from 0 (dark) to the best score (bright).

    The scale ends at 0.1 or more, so that scores near zero stay dark.
    """
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # and not pyplot, which looks for a display

    if result.segments is None:
        raise ValueError(f"{result.path}: a failed track, which has no segments to draw")
    labels = [label for label, _ in result.top(n)]
    scores = result.segments[:, [result.tags.index(label) for label in labels]]
    figure = Figure(figsize=(10, 1.2 + 0.25 * len(labels)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    # A window's colour reaches to the start of the next one, so that overlapping windows stay apart.
    edges = np.array([*result.start_s, result.end_s[-1]])
    edges = np.maximum.accumulate(edges + np.arange(len(edges)) * 1e-6)  # windows clipped at the ends may coincide
    top = max(0.1, float(scores.max(initial=0.0)))
    mesh = axes.pcolormesh(edges, np.arange(len(labels) + 1), scores.T, vmin=0.0, vmax=top, cmap="magma")
    axes.set_yticks(np.arange(len(labels)) + 0.5, labels, parse_math=False)  # "$" is a letter like any other
    axes.invert_yaxis()
    axes.set_xlabel("time (seconds)")
    axes.set_title(show_line(result.path), fontsize="medium", parse_math=False)
    figure.colorbar(mesh, ax=axes, label="score")
    with _fonts_hushed(), writers.named(path), open(path, "wb") as file:
        figure.savefig(file, format="png", dpi=120)


@contextlib.contextmanager
def _fonts_hushed() -> Iterator[None]:
    """Silence matplotlib's lines about letters that its font lacks; the picture shows a box for each."""
    import logging
    import warnings

    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            warnings.filterwarnings("ignore", message="Matplotlib currently does not support")  # some scripts
            yield
    finally:
        logger.setLevel(level)
