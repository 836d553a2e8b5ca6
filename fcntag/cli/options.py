"""Options that several commands share: types of values, and groups of options."""

from __future__ import annotations

import argparse
import math
import re
from typing import Any

from ..engine import PRECISIONS

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
    """Add the options that choose the model and the device."""
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
    """Add the options that choose files and windows. ``dense``: whether the command can do without windows."""
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
    """Add the options for the format and place of the output."""
    names = ", ".join(formats)
    note = "; csv has no row for a track that failed" if "csv" in formats else ""
    parser.add_argument(
        "-f", "--format", choices=formats, metavar="FORMAT", help=f"{names} (default: by -o, else {default}){note}"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="write here and not to stdout")
    add_verbosity(parser)


def add_verbosity(parser: argparse.ArgumentParser) -> None:
    """Add the options for the lines on stderr."""
    parser.add_argument("-q", "--quiet", action="store_true", help="errors only on stderr: no warnings, no progress")
    parser.add_argument("-v", "--verbose", action="store_true", help="say what is chosen and why")
