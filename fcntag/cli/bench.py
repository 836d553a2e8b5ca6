"""``fcntag bench``: fcntag's speed, beside that of other runtimes, and its bottleneck."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..engine import PRECISIONS
from . import options
from .paths import check_outputs
from .streams import UsageError, log, show_line
from .writers import import_extra, named

if TYPE_CHECKING:
    from ..bench.report import Report

# The peers of fcntag/bench/peers.py and of fcntag/bench/cuda/peers.py. The names are repeated here, so that help and
# usage errors need no import; tests compare them.
PEERS = ("torch", "onnxruntime", "openvino", "openvino-bf16")
CUDA_PEERS = ("torch", "torch-graph", "jax", "torchaudio", "torchaudio-graph", "torch-compile")
# Samples of a row, and seconds for a group of rows, where the options do not say.
REPEATS = {"cpu": 15, "cuda": 200}
SECONDS = {"cpu": 20.0, "cuda": 3.0}


def add_parser(commands: options.Subparsers) -> None:
    """Add the command to ``fcntag``."""
    parser = commands.add_parser(
        "bench",
        help="measure speed, alone and against other runtimes",
        description="Time cold start, every stage of a clip, and the network by batch size, alternating with other "
        "runtimes on the same weights in this process. Names the bottleneck. On a GPU: every stage by events, "
        "whole runs from waves to scores, shares of the measured ceilings.",
        epilog="exit codes: 1 a peer computed something else and was not timed, or --compare found a regression; else "
        "as everywhere",
    )
    parser.add_argument(
        "-m",
        "--model",
        action="append",
        type=_names,
        metavar="NAME",
        help="comma list or repeated: catalogue name, path, or fcn3, fcn4, fcn5, fcn5-narrow with random weights "
        "(default: mtt-vgg)",
    )
    parser.add_argument("-b", "--batch", type=_batches, default=(1, 8, 64), metavar="N,...", help="default: 1,8,64")
    parser.add_argument(
        "-t", "--threads", type=options.natural_int, default=0, metavar="N", help="at most 1024 (default: all CPUs)"
    )
    parser.add_argument("--device", type=options.device, default="cpu", metavar="DEVICE", help="default: cpu")
    parser.add_argument(
        "--precision",
        type=_precisions,
        default=("float32",),
        metavar="TYPE",
        help=f"of fcntag: float32 (default), tf32, float16, bfloat16; on a GPU also several, {','.join(PRECISIONS)}",
    )
    parser.add_argument(
        "--peers",
        type=_peers,
        default=PEERS,
        metavar="LIST",
        help=f"all (default), none, or some of {','.join(PEERS)}; on a GPU of {','.join(CUDA_PEERS)}",
    )
    parser.add_argument(
        "--peers-reduced", action="store_true", help="time peers on the losslessly reduced network as well"
    )
    parser.add_argument("--no-reduce", action="store_true", help="run fcntag, too, on the original network")
    parser.add_argument(
        "--contend", type=options.natural_int, default=0, metavar="N", help="also with N busy processes beside"
    )
    parser.add_argument("--repeats", type=options.positive_int, metavar="N", help="samples (default: 15; on a GPU 200)")
    parser.add_argument(
        "--seconds",
        type=options.positive_seconds,
        metavar="S",
        help="stop repeating a group of rows after so long (default: 20; on a GPU 3)",
    )
    parser.add_argument(
        "--minutes",
        type=options.positive_seconds,
        metavar="M",
        help="on a GPU: begin nothing new after so long, and name what is left out",
    )
    parser.add_argument("--no-cold", action="store_true", help="on a GPU: no new processes, whose start is timed")
    parser.add_argument(
        "--beside-only", action="store_true", help="on a GPU: whole runs beside the peers, no stages and no starts"
    )
    parser.add_argument("--audio", metavar="FILE", help="the clip (default: the demo piece, 30 s)")
    parser.add_argument("--json", metavar="FILE", help="everything, with raw samples")
    parser.add_argument("--plot", metavar="FILE.png", help="roofline and latencies (needs fcntag[plot])")
    parser.add_argument("--compare", metavar="OLD.json", help="exit code 1 if anything is slower beyond noise")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, save, compare."""
    old = _read(arguments.compare) if arguments.compare is not None else None
    _check_outputs(arguments)
    on_gpu = arguments.device.startswith("cuda")
    report = _measure_gpu(arguments) if on_gpu else _measure_cpu(arguments)
    if on_gpu:
        from ..bench.cuda import text
    else:
        from ..bench import text
    for line in text.lines(report):
        print(show_line(line))
    _save(report, arguments.json)
    if arguments.plot is not None:
        from ..bench import plot

        with named(arguments.plot):
            plot.save(report, arguments.plot)
    worse = _compare(old, report) if old is not None else False
    return 1 if worse or report.refused else 0


def _measure_cpu(arguments: argparse.Namespace) -> Report:
    if len(arguments.precision) > 1:
        raise UsageError("--precision: one on the CPU")
    for option, given in (
        ("--minutes", arguments.minutes),
        ("--no-cold", arguments.no_cold),
        ("--beside-only", arguments.beside_only),
    ):
        if given:
            raise UsageError(f"{option}: goes with --device cuda")
    from ..bench.measure import Settings, measure
    from ..bench.shared import SettingsError

    settings = Settings(
        models=_models(arguments),
        batches=arguments.batch,
        threads=arguments.threads,
        device=arguments.device,
        precision=arguments.precision[0],
        peers=_fitting_peers(arguments, PEERS),
        peers_reduced=arguments.peers_reduced,
        reduce=not arguments.no_reduce,
        repeats=arguments.repeats or REPEATS["cpu"],
        seconds=arguments.seconds or SECONDS["cpu"],
        contend=arguments.contend,
        audio=arguments.audio or "",
    )
    try:
        return measure(settings, _silent if arguments.quiet else log)
    except SettingsError as error:
        raise UsageError(str(error)) from None


def _measure_gpu(arguments: argparse.Namespace) -> Report:
    for name in ("threads", "contend", "audio", "plot"):
        if getattr(arguments, name):
            raise UsageError(f"--{name}: not with --device {arguments.device}")
    peers = _fitting_peers(arguments, CUDA_PEERS)
    from ..bench.cuda.measure import Settings, measure
    from ..bench.shared import SettingsError

    settings = Settings(
        models=_models(arguments),
        batches=arguments.batch,
        device=arguments.device,
        precisions=arguments.precision,
        peers=peers,
        peers_reduced=arguments.peers_reduced,
        reduce=not arguments.no_reduce,
        repeats=arguments.repeats or REPEATS["cuda"],
        seconds=arguments.seconds or SECONDS["cuda"],
        minutes=arguments.minutes or 0.0,
        cold=not arguments.no_cold,
        alone=not arguments.beside_only,
    )
    try:
        # The report is saved as it grows, so that the measurements survive the machine.
        return measure(settings, _silent if arguments.quiet else log, lambda report: _save(report, arguments.json))
    except SettingsError as error:
        raise UsageError(str(error)) from None


def _models(arguments: argparse.Namespace) -> tuple[str, ...]:
    return tuple(name for names in arguments.model or [("mtt-vgg",)] for name in names)


def _fitting_peers(arguments: argparse.Namespace, fitting: tuple[str, ...]) -> tuple[str, ...]:
    """The peers that were asked for; "all" stands for those of the device."""
    if arguments.peers == PEERS:
        return fitting
    for name in arguments.peers:
        if name not in fitting:
            raise UsageError(f"--peers {name}: not on {arguments.device}; there: {', '.join(fitting)}")
    return tuple(arguments.peers)


def _save(report: Report, path: str | None) -> None:
    if path is not None:
        with named(path):
            Path(path).write_text(report.to_json(), encoding="utf-8")


def _names(text: str) -> tuple[str, ...]:
    """A comma list of names."""
    names = tuple(filter(None, (part.strip() for part in text.split(","))))
    if not names:
        raise argparse.ArgumentTypeError(f"{text!r} names nothing")
    return names


def _batches(text: str) -> tuple[int, ...]:
    """A comma list of integers of 1 or more."""
    return tuple(options.positive_int(part) for part in text.split(","))


def _peers(text: str) -> tuple[str, ...]:
    """all, none, or a comma list of peers of any device, for the device is not known yet."""
    if text in ("all", "none"):
        return PEERS if text == "all" else ()
    names = _names(text)
    for name in names:
        if name not in PEERS + CUDA_PEERS:
            known = dict.fromkeys(PEERS + CUDA_PEERS)
            raise argparse.ArgumentTypeError(f"{name!r} is not one of all, none, {', '.join(known)}")
    return names


def _precisions(text: str) -> tuple[str, ...]:
    """A comma list of PRECISIONS."""
    names = _names(text)
    for name in names:
        if name not in PRECISIONS:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(PRECISIONS)}")
    return names


def _check_outputs(arguments: argparse.Namespace) -> None:
    """Refuse outputs that could not be written, before minutes of measuring."""
    inputs = [name for names in arguments.model or () for name in names]
    inputs += [arguments.audio] if arguments.audio is not None else []
    check_outputs({"--json": arguments.json, "--plot": arguments.plot}, inputs)
    if arguments.plot is not None:
        if not arguments.plot.lower().endswith((".png", ".svg", ".pdf")):
            raise UsageError(f"--plot {arguments.plot}: end the name in .png, .svg or .pdf")
        import_extra("matplotlib", "plot")


def _read(name: str) -> Report:
    from ..bench.report import Report

    try:
        return Report.from_json(Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--compare {name}: {error.strerror or error}") from None
    except (UnicodeDecodeError, json.JSONDecodeError):
        raise UsageError(f"--compare {name}: not a bench report") from None
    except ValueError as error:
        raise UsageError(f"--compare {name}: {error}") from None


def _compare(old: Report, new: Report) -> bool:
    """Print the changes; True if a row of fcntag's became slower beyond noise."""
    from ..bench.compare import compare

    try:
        comparison = compare(old, new)
    except ValueError as error:
        raise UsageError(f"--compare: {error}") from None
    print()
    for change in comparison.changes:
        print(show_line(str(change)))
    for text in comparison.skipped:
        print(show_line(f"not judged: {text}"))
    for text in comparison.warnings:
        print(show_line(f"warning: {text}"))
    sys.stdout.flush()
    for change in comparison.regressions:
        log(f"slower: {change.row.label}: {change.ratio:.2f} x, noise up to {change.limit:.2f} x")
    return bool(comparison.regressions)


def _silent(_: str) -> None:
    """Take a line of progress and show it to nobody."""
