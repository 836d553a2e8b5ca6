"""``fcntag eval``: ROC-AUC and PR-AUC of a model, or of computed scores, on a tagging dataset."""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any

from ..errors import DatasetError
from . import options, tagging, writers
from .paths import check_outputs
from .streams import Progress, UsageError, log, show_line
from .writers import named, printable

if TYPE_CHECKING:
    from ..eval import Dataset, Report, Scores, Truth
    from ..result import Result

FORMATS = ("table", "json", "csv")
DATASETS = ("magnatagatune", "jamendo", "msd", "csv")
# Each option and the datasets that it goes with. With another dataset it would silently do nothing, so it is refused.
ONLY = {
    "split": ("magnatagatune", "jamendo", "csv"),
    "subset": ("jamendo",),
    "split_number": ("jamendo",),
    "labels": ("msd",),
    "audio_template": ("msd",),
}
SUBSET = "autotagging_top50tags"
TOP_50 = 50


def add_parser(commands: options.Subparsers) -> None:
    """Add the command to ``fcntag``."""
    parser = commands.add_parser(
        "eval",
        help="ROC-AUC and PR-AUC on a dataset",
        description="Tag the clips of a dataset and compare the scores with its annotations: ROC-AUC and PR-AUC of "
        "every tag and their macro averages, with bootstrap intervals over the clips. Missing and broken files are "
        "listed and left out. Tags that no clip has, or that all have, are left out of the averages and listed.",
        epilog="exit codes: 1 a clip is missing or broken (the report is written); 2 also a dataset or scores file "
        "that cannot be read; else as everywhere",
    )
    parser.add_argument("dataset", choices=DATASETS, metavar="DATASET", help=", ".join(DATASETS))
    parser.add_argument(
        "annotations",
        metavar="ANNOTATIONS",
        help="magnatagatune: annotations_final.csv; jamendo: a split's .tsv, or the folder of splits; msd: ids, one a "
        "line; csv: path,tag,tag,... or a matrix of 0 and 1 with the header path,TAG,TAG,..., or either with a header "
        "path,split,...",
    )
    _add_dataset_options(parser)
    _add_score_options(parser)
    group = parser.add_argument_group("figures")
    group.add_argument(
        "--bootstrap", type=options.natural_int, default=1000, metavar="N", help="resamples, 0: none (default: 1000)"
    )
    group.add_argument("--seed", type=options.natural_int, default=0, metavar="N", help="of the resamples (default: 0)")
    group.add_argument(
        "--confidence", type=_share, default=0.95, metavar="SHARE", help="that an interval holds (default: 0.95)"
    )
    group.add_argument("--plot", metavar="FILE.png", help="draw a bar a tag (needs fcntag[plot])")
    names = ", ".join(FORMATS)
    group.add_argument(
        "-f", "--format", choices=FORMATS, metavar="FORMAT", help=f"{names} (default: by -o, else table)"
    )
    group.add_argument("-o", "--output", metavar="FILE", help="write the report here and not to stdout")
    options.add_verbosity(parser)
    options.add_model_options(parser)
    parser.set_defaults(run=run)


def _add_dataset_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("dataset")
    group.add_argument("--audio", metavar="DIR", help="folder that the paths start from (default: the working folder)")
    group.add_argument("--suffix", metavar=".wav", type=_suffix, help="ending of the files, if not that of the paths")
    group.add_argument(
        "--split",
        metavar="SPLIT",
        help="train, validation or test (default); magnatagatune, by folder 12:1:3, and csv, by its column split: also "
        "all (a csv's default where no clip has the split test)",
    )
    group.add_argument(
        "--list", metavar="FILE", help="evaluate these clips: paths or ids, text (one a line, .tsv) or .npy of strings"
    )
    group.add_argument("--subset", metavar="NAME", help=f"jamendo, of a folder of splits (default: {SUBSET})")
    group.add_argument(
        "--split-number", type=options.natural_int, metavar="N", help="jamendo, of a folder of splits (default: 0)"
    )
    group.add_argument(
        "--labels", metavar="FILE", help="msd: matrix of 0 and 1, .npy, .npz (also SciPy sparse) or .csv"
    )
    group.add_argument(
        "--tag-names",
        metavar="FILE",
        help="names of the columns of --labels, or of --scores FILE.npy: one a line, or a list in a Python file, "
        "which is not run; 'model': the model's",
    )
    group.add_argument(
        "--audio-template", metavar="TEXT", help="msd: file of an id (default: {id[2]}/{id[3]}/{id[4]}/{id}.mp3)"
    )
    group.add_argument(
        "--top-tags",
        type=options.natural_int,
        metavar="N",
        help=f"only the N most frequent tags, 0: all (default: {TOP_50} for magnatagatune, else all)",
    )
    group.add_argument("--map", metavar="FILE.json", help='tags that go by another name: {"dataset tag": "model tag"}')
    group.add_argument("--skip-untagged", action="store_true", help="leave out clips with none of the tags")


def _add_score_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("scores")
    group.add_argument(
        "--cache", metavar="DIR", help="keep scores here, and take those that are there: an interrupted run goes on"
    )
    group.add_argument(
        "--scores", metavar="FILE", help="evaluate these, and run no model: fcntag tag -n 0 (.jsonl, .json, .csv, "
        ".parquet), path,TAG,... (.csv), or a matrix (.npy)"
    )  # fmt: skip
    group.add_argument(
        "--hop",
        type=options.positive_seconds,
        metavar="SECONDS",
        help="from one window to the next (default: the model's)",
    )
    group.add_argument(
        "--segments",
        choices=("default", "center", "first", "all"),
        default="default",
        metavar="RULE",
        help="windows: default (the model's rule), center, first or all",
    )


def run(arguments: argparse.Namespace) -> int:
    """Score, compare, report; 1 if a clip is missing or broken."""
    kind = writers.format_of(arguments.format, arguments.output, FORMATS)
    _check(arguments)
    try:
        report = _from_file(arguments) if arguments.scores is not None else _from_model(arguments)
    except DatasetError as error:
        raise UsageError(str(error)) from None
    _write(report, kind, arguments.output)
    if arguments.plot is not None:
        _draw(report, arguments.plot)
    if arguments.output is not None and not arguments.quiet:
        log(report.summary())
    return 1 if report.missing or report.failed else 0


# ---- inputs ----


def _check(arguments: argparse.Namespace) -> None:
    """Raise UsageError for options that cannot work, before hours of scoring."""
    for option, datasets in ONLY.items():
        if getattr(arguments, option) is not None and arguments.dataset not in datasets:
            raise UsageError(f"--{option.replace('_', '-')}: goes with {', '.join(datasets)} only")
    if arguments.split is not None and arguments.list is not None and arguments.dataset != "jamendo":
        raise UsageError("--split: not with --list, which says which clips to take")
    if arguments.scores is not None:
        for option in ("cache", "hop"):
            if getattr(arguments, option) is not None:
                raise UsageError(f"--{option}: not with --scores, which runs no model")
        if arguments.segments != "default":
            raise UsageError("--segments: not with --scores, which runs no model")
    if arguments.tag_names is not None and arguments.dataset != "msd" and arguments.scores is None:
        raise UsageError("--tag-names: goes with msd, or with --scores FILE.npy")
    from ..pipeline.segments import check_options

    try:
        check_options(arguments.segments, arguments.hop)
    except ValueError as error:
        raise UsageError(str(error)) from None
    names = ("annotations", "list", "labels", "tag_names", "map", "scores", "model")
    inputs = [getattr(arguments, name) for name in names if getattr(arguments, name) is not None]
    check_outputs({"-o": arguments.output, "--plot": arguments.plot}, inputs)
    if arguments.plot is not None:
        if not arguments.plot.lower().endswith(".png"):
            raise UsageError(f"--plot {arguments.plot}: the picture is written as PNG; end the name in .png")
        writers.import_extra("matplotlib", "plot")
    if arguments.cache is not None:
        writers.import_extra("pyarrow", "eval")


def _dataset(arguments: argparse.Namespace, model_tags: tuple[str, ...]) -> Dataset:
    """The dataset; raises DatasetError."""
    from .. import eval as evaluation

    name, path = arguments.dataset, arguments.annotations
    common = {"audio": arguments.audio, "suffix": arguments.suffix, "clips": arguments.list}
    top = arguments.top_tags or None
    if name == "magnatagatune":
        top = TOP_50 if arguments.top_tags is None else top
        return evaluation.magnatagatune(path, split=arguments.split or "test", top=top, **common)
    if name == "jamendo":
        return evaluation.jamendo(
            path,
            split=arguments.split or "test",
            subset=arguments.subset or SUBSET,
            number=arguments.split_number or 0,
            top=top,
            **common,
        )
    if name == "msd":
        from ..eval.datasets.msd import TEMPLATE

        tags = model_tags if arguments.tag_names == "model" else arguments.tag_names
        template = arguments.audio_template or TEMPLATE
        return evaluation.msd(path, arguments.labels, tags=tags, template=template, top=top, **common)
    return evaluation.plain(path, split=arguments.split, top=top, **common)


def _truth(arguments: argparse.Namespace, model_tags: tuple[str, ...]) -> Truth:
    from .. import eval as evaluation

    merges = evaluation.read_merges(arguments.map) if arguments.map is not None else None
    truth = evaluation.align(_dataset(arguments, model_tags), model_tags, merges, skip_untagged=arguments.skip_untagged)
    if not arguments.quiet:
        for note in truth.dataset.notes:
            log(note)
    return truth


# ---- scores ----


def _from_model(arguments: argparse.Namespace) -> Report:
    from .. import eval as evaluation

    with tagging.make_tagger(arguments) as tagger:
        truth = _truth(arguments, tagger.tags)
        with Progress(arguments.quiet, len(truth.dataset.paths)) as progress:

            def step(result: Result | None) -> None:
                progress.step(result is not None and tagging.report(result, arguments.quiet))

            scores = evaluation.score(
                tagger,
                truth.dataset,
                cache=arguments.cache,
                hop=arguments.hop,
                segments=arguments.segments,
                workers=arguments.workers,
                on_clip=step,
                note=(lambda text: None) if arguments.quiet else log,
            )
        if scores.missing:
            several = len(scores.missing) > 1
            log(
                f"{len(scores.missing)} files are not there, the first: {scores.missing[0]}"
                if several
                else f"1 file is not there: {scores.missing[0]}"
            )
        published, notes = evaluation.published_figures(tagger.model.document, truth, scores)
    return _evaluate(arguments, truth, scores, published, notes)


def _from_file(arguments: argparse.Namespace) -> Report:
    from ..eval import read_scores
    from ..eval.datasets.tag_names import read_tags

    if arguments.tag_names == "model":
        raise UsageError("--tag-names model: not with --scores, which runs no model; name a file")
    tags = read_tags(arguments.tag_names) if arguments.tag_names is not None else None
    if arguments.scores.lower().endswith(".parquet"):
        writers.import_extra("pyarrow", "eval")
    table = read_scores(arguments.scores, tags)
    truth = _truth(arguments, table.tags)
    # A matrix without names has the rows of the whole dataset, before any clip is left out.
    if table.paths is None and truth.untagged:
        raise UsageError(f"--skip-untagged: not with {arguments.scores}, whose rows are those of the whole dataset")
    return _evaluate(arguments, truth, table.of(truth.dataset))


def _evaluate(
    arguments: argparse.Namespace,
    truth: Truth,
    scores: Scores,
    published: Sequence[dict[str, Any]] = (),
    notes: Sequence[str] = (),
) -> Report:
    from ..eval import evaluate

    return evaluate(
        truth,
        scores,
        resamples=arguments.bootstrap,
        seed=arguments.seed,
        confidence=arguments.confidence,
        published=published,
        notes=notes,
    )


# ---- outputs ----


def _write(report: Report, kind: str, path: str | None) -> None:
    with named(path), _opened(path) as file:
        if kind == "json":
            ascii_only = (getattr(file, "encoding", None) or "").lower().replace("-", "") != "utf8"
            json.dump(printable(report.to_dict()), file, ensure_ascii=ascii_only, allow_nan=False, indent=1)
            file.write("\n")
        elif kind == "csv":
            from ..eval.report import CSV_HEADER

            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(CSV_HEADER)
            writer.writerows([printable(list(row)) for row in report.csv_rows()])
        else:
            for line in report.lines():
                file.write(show_line(line) + "\n")


@contextlib.contextmanager
def _opened(path: str | None) -> Iterator[IO[str]]:
    if path is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        yield file


def _draw(report: Report, path: str) -> None:
    from ..eval import plot
    from .taggram import _fonts_hushed

    with _fonts_hushed(), named(path):
        plot.save(report, path, show_line)


# ---- values ----


def _share(text: str) -> float:
    """A number between 0 and 1."""
    value = options.number(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1")
    return value


def _suffix(text: str) -> str:
    """The ending of a file's name, with its dot."""
    if not text.startswith(".") or "/" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not an ending such as .wav")
    return text
