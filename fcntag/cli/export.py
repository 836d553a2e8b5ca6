"""``fcntag export``: a model as an ONNX graph or a PyTorch program."""

from __future__ import annotations

import argparse
import os

from . import options
from .paths import check_outputs
from .streams import UsageError, log


def add_parser(commands: options.Subparsers) -> None:
    """Add the command to ``fcntag``."""
    parser = commands.add_parser(
        "export",
        help="write a model for ONNX or PyTorch",
        description="Write MODEL as an ONNX graph (.onnx), TorchScript (.pt, torch.jit.load) or an exported PyTorch "
        "program (.pt2, torch.export.load): log_mel [batch, n_rows, n_frames], the front end's rows (mel bands, STFT "
        "bins, or MFCC and their deltas) not normalised, to scores [batch, n_tags]. The file needs no fcntag, and is "
        "compared with the engine after it is written.",
    )
    parser.add_argument(
        "model", metavar="MODEL", help="catalogue name, path of a model file, or a network with random weights"
    )
    parser.add_argument("--to", required=True, metavar="OUT", help="file to write: .onnx, .pt or .pt2")
    parser.add_argument("--frontend", action="store_true", help="from waves [batch, n_samples] at the model's rate")
    parser.add_argument("--blocks", action="store_true", help="also every block's pooled output, block1, block2, ...")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Export, compare, and print the shapes of input and output."""
    target = arguments.to
    from ..export import SUFFIXES, export, rows_and_frames

    if not target.lower().endswith(SUFFIXES):
        raise UsageError(f"--to {target}: the format is told by the suffix; allowed: {', '.join(SUFFIXES)}")
    check_outputs({"--to": target}, [arguments.model])
    if os.path.exists(target) and not os.path.isfile(target):
        raise UsageError(f"--to {target}: is not a regular file")

    from ..catalogue.names import load_any

    model, _ = load_any(arguments.model)
    wanted = {"frontend": arguments.frontend, "blocks": arguments.blocks}
    try:
        export(model, target, **wanted)
    except ImportError as error:
        raise UsageError(str(error)) from None
    document = model.document
    shape = f"log_mel [batch, {', '.join(map(str, rows_and_frames(document)))}]"
    if arguments.frontend:
        shape = f"waves [batch, {document.segments.n_samples}] at {document.frontend.sample_rate} Hz"
    log(f"{target}: {document.name}, {shape} -> scores [batch, {len(document.tags)}]")
    return _compare(model, target, wanted)


def _compare(model: object, target: str, wanted: dict[str, bool]) -> int:
    from ..export.check import difference
    from ..validate.tolerances import FLOAT32_SCORES, SCORES

    try:
        worst = difference(model, target, **wanted)  # type: ignore[arg-type]
    except ImportError:
        log(f'{target}: not compared: needs onnxruntime; it comes with: pip install "fcntag[validate]"')
        return 0
    allowed = SCORES["float32"] + FLOAT32_SCORES
    if not worst <= allowed:
        log(f"{target}: scores differ from the engine's by {worst:.1e}, allowed {allowed:.0e}")
        return 1
    log(f"{target}: compared with the engine on random input: scores within {worst:.1e}")
    return 0
