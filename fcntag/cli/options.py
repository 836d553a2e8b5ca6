"""Options that several commands share, and the Tagger made from them."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import re
from collections.abc import Iterator, Set
from typing import TYPE_CHECKING, Any

from ..engine import PRECISIONS
from ..errors import FcntagError
from .paths import check_outputs
from .streams import Progress, UsageError, log, show
from .writers import Writer, named

if TYPE_CHECKING:
    from ..tagger import Tagger

Subparsers = Any  # argparse._SubParsersAction, which has no public name


def positive_int(text: str) -> int:
    """An integer of 1 or more."""
    return _int(text, 1)


def natural_int(text: str) -> int:
    """An integer of 0 or more."""
    return _int(text, 0)


def _int(text: str, low: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if value < low:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of {low} or more")
    return value


def positive_seconds(text: str) -> float:
    """A number of seconds above 0."""
    value = number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def number(text: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


def device(text: str) -> str:
    """auto, cpu, cuda or cuda:N."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not one of auto, cpu, cuda, cuda:N")
    return text


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Which model, on what."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "-m", "--model", default="mtt-vgg", metavar="NAME", help="catalogue name, or path of a file (default: mtt-vgg)"
    )
    group.add_argument(
        "--device", type=device, default="auto", metavar="DEVICE", help="auto, cpu, cuda or cuda:N (default: auto)"
    )
    group.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        metavar="TYPE",
        help=f"arithmetic: {', '.join(PRECISIONS)} (default: float32)",
    )
    group.add_argument(
        "-b", "--batch-size", type=positive_int, default=64, metavar="N", help="windows in one run (default: 64)"
    )
    group.add_argument(
        "-t",
        "--threads",
        type=natural_int,
        default=0,
        metavar="N",
        help="threads of the network, at most 1024 (default: all CPUs)",
    )
    group.add_argument(
        "--no-reduce", action="store_true", help="compute channels and rows too that cannot change a score"
    )
    group.add_argument(
        "-j", "--workers", type=positive_int, metavar="N", help="decoding threads (default: CPUs, at most 4)"
    )


def add_input_options(parser: argparse.ArgumentParser, segments: str = "default", dense: bool = True) -> None:
    """Which files, and which windows of them; ``dense``: whether the command can do without windows."""
    more = "; dense: the whole track at once, scores at the network's own steps" if dense else ""
    parser.add_argument("inputs", nargs="+", metavar="FILE", help="sound file, folder (with -r), or - for stdin")
    parser.add_argument("-r", "--recursive", action="store_true", help="take the sound files in folders, too")
    parser.add_argument(
        "--hop", type=positive_seconds, metavar="SECONDS", help="from one window to the next (default: the model's)"
    )
    parser.add_argument(
        "--segments",
        choices=("default", "center", "first", "all", *(["dense"] if dense else [])),
        default=segments,
        metavar="RULE",
        help=f"windows: default (the model's rule), center, first or all{more} (default: {segments})",
    )


def add_output_options(parser: argparse.ArgumentParser, formats: tuple[str, ...], default: str) -> None:
    """How and where to write."""
    names = ", ".join(formats)
    note = "; csv has no row for a track that failed" if "csv" in formats else ""
    parser.add_argument(
        "-f", "--format", choices=formats, metavar="FORMAT", help=f"{names} (default: by -o, else {default}){note}"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="write here and not to stdout")
    add_verbosity(parser)


def add_verbosity(parser: argparse.ArgumentParser) -> None:
    """How much goes to stderr."""
    parser.add_argument("-q", "--quiet", action="store_true", help="errors only on stderr: no warnings, no progress")
    parser.add_argument("-v", "--verbose", action="store_true", help="say what is chosen and why")


def check_inputs(arguments: argparse.Namespace, **more: str | None) -> None:
    """Refuse what would lose data or cannot work, before anything is loaded.

    ``more``: other files than that of ``-o`` which the command writes, by their option or what they are.
    """
    from ..pipeline.segments import check_options

    if arguments.inputs.count("-") > 1:
        raise UsageError("-: stdin can be read only once")
    try:
        check_options(arguments.segments, arguments.hop)
    except ValueError as error:
        raise UsageError(str(error)) from None
    inputs = [*arguments.inputs, arguments.model]
    check_outputs({"-o": arguments.output, **more}, inputs, arguments.recursive)


def make_tagger(arguments: argparse.Namespace) -> Tagger:
    """The Tagger that the options ask for; raises ModelError, DeviceError, or UsageError for a value out of range."""
    from ..tagger import Tagger

    try:
        return Tagger(
            arguments.model,
            device=arguments.device,
            precision=arguments.precision,
            max_batch=arguments.batch_size,
            threads=arguments.threads,
            reduce=not arguments.no_reduce,
        )
    except FcntagError:
        raise
    except ValueError as error:  # of an option, or of FCNTAG_NUM_THREADS and the like
        raise UsageError(str(error)) from None


@contextlib.contextmanager
def logging_shown(verbose: bool) -> Iterator[None]:
    """Show what the library logs, in the form of every other line on stderr, where ``verbose``."""
    if not verbose:
        yield
        return
    import logging

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            log(record.getMessage())

    logger = logging.getLogger("fcntag")
    handler, level = Handler(), logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def report(result: Any, quiet: bool) -> bool:
    """Say once on stderr what went wrong with a track; True if it failed."""
    from .inputs import hint

    if not quiet:
        for warning in result.warnings:
            log(f"{result.path}: {warning}")
    if result.error is not None:
        log(result.error + hint(result.path))
    return result.error is not None


class Inputs:
    """The sources of a run, less those of ``done`` (as ``show`` prints them); counts what could not be listed."""

    def __init__(self, arguments: argparse.Namespace, done: Set[str] = frozenset()) -> None:
        self._arguments, self._done = arguments, done
        self.failed = 0
        # folders are walked while their files are tagged, so their number is known at the end only
        walks = arguments.recursive and any(os.path.isdir(name) for name in arguments.inputs)
        self.total = None if walks or done else len(arguments.inputs)

    def __iter__(self) -> Iterator[Any]:
        from .inputs import collect

        for source in collect(self._arguments.inputs, self._arguments.recursive, self._fail):
            if not (isinstance(source, str) and show(source) in self._done):
                yield source

    def _fail(self, message: str) -> None:
        self.failed += 1
        log(message)


def drain(results: Any, inputs: Inputs, writer: Writer, progress: Progress, quiet: bool) -> int:
    """Report and write every result as it comes; the exit code."""
    failed = 0
    with contextlib.closing(results):  # an interrupt stops the decoding threads here, and not at some later collection
        for result in results:
            bad = report(result, quiet)
            failed += bad
            with named(writer.path):
                writer.write(result)
            progress.step(bad)
    return 1 if failed or inputs.failed else 0
