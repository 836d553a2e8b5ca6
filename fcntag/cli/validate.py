"""``fcntag validate``: is the engine right on this machine, stage by stage."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..engine import PRECISIONS
from ..errors import FcntagError
from . import options
from .paths import check_outputs
from .streams import UsageError, log, show_line
from .writers import named

if TYPE_CHECKING:
    from ..validate import CaseReport

REFERENCES = ("oracle", "torch", "onnxruntime")


def add_parser(commands: options.Subparsers) -> None:
    """Add the command to ``fcntag``."""
    parser = commands.add_parser(
        "validate",
        help="compare the engine with a reference, stage by stage",
        description="Run MODEL on noise, a random input, a synthetic piece and a window of each AUDIO, and compare the "
        "front end, every block on its own, the head, and the scores with the float64 oracle, with the same network in "
        "PyTorch or ONNX Runtime, or with stored arrays.",
        epilog="exit codes: 1 a stage is beyond tolerance or an AUDIO cannot be read; else as everywhere",
    )
    parser.add_argument(
        "model", metavar="MODEL", help="catalogue name, path of a model file, or a network with random weights"
    )
    parser.add_argument("audio", nargs="*", metavar="AUDIO", help="sound files")
    parser.add_argument(
        "--against",
        default="oracle",
        metavar="REFERENCE",
        help="oracle (default; float64, no framework), torch (float64), onnxruntime, or FILE.npz with the arrays mel, "
        "block1, block2, ..., scores, and waves",
    )
    parser.add_argument(
        "--device", type=options.device, default="auto", metavar="DEVICE", help="auto, cpu, cuda or cuda:N"
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        metavar="TYPE",
        help=f"arithmetic: {', '.join(PRECISIONS)} (default: float32)",
    )
    parser.add_argument(
        "-t", "--threads", type=options.natural_int, default=0, metavar="N", help="at most 1024 (default: all CPUs)"
    )
    parser.add_argument("--no-reduce", action="store_true", help="the scores, too, of the network as it is")
    parser.add_argument(
        "--windows", type=options.positive_int, default=1, metavar="N", help="windows of each AUDIO (default: 1)"
    )
    parser.add_argument(
        "--top", type=options.positive_int, default=5, metavar="N", help="best tags that must agree (default: 5)"
    )
    parser.add_argument("--json", metavar="FILE", help="the report")
    parser.add_argument("--save", metavar="FILE.npz", help="the reference's stages, for --against on another machine")
    parser.add_argument("-q", "--quiet", action="store_true", help="no tables: only what fails, on stderr")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Compare, print tables, save; 1 if anything is beyond tolerance."""
    against, audio = arguments.against, arguments.audio
    is_file = against.endswith(".npz")
    if not is_file and against not in REFERENCES:
        raise UsageError(f"--against {against}: allowed: {', '.join(REFERENCES)}, or a file that ends in .npz")
    if arguments.save is not None and is_file:
        raise UsageError("--save: goes with a reference that computes, not with a file")
    if arguments.save is not None and not arguments.save.endswith(".npz"):
        raise UsageError(f"--save {arguments.save}: end the name in .npz")
    if is_file and len(audio) > 1:
        raise UsageError(f"--against {against}: goes with one AUDIO, or none")
    inputs = [arguments.model, *audio, *([against] if is_file else [])]
    check_outputs({"--json": arguments.json, "--save": arguments.save}, inputs)

    from ..catalogue.names import load_any
    from ..validate import StoredError, validate

    model, _ = load_any(arguments.model)

    def show(case: CaseReport) -> None:
        if not arguments.quiet:
            for line in case.lines():
                print(show_line(line), flush=True)
        for line in case.failures():
            log(line)

    try:
        report = validate(
            model,
            audio,
            against=against,
            device=arguments.device,
            precision=arguments.precision,
            threads=arguments.threads,
            reduce=not arguments.no_reduce,
            windows=arguments.windows,
            top=arguments.top,
            save=arguments.save,
            progress=show,
        )
    except (ImportError, StoredError) as error:
        raise UsageError(str(error)) from None
    except FcntagError:
        raise
    except ValueError as error:  # of an option
        raise UsageError(str(error)) from None
    if arguments.json is not None:
        with named(arguments.json):
            Path(arguments.json).write_text(report.to_json() + "\n", encoding="utf-8")
    if not arguments.quiet:
        print(show_line(f"{report.title()}: {'ok' if report.ok else 'FAILS'}"))
    return 0 if report.ok else 1
