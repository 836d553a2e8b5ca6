"""``fcntag convert``: an original checkpoint to a model file."""

from __future__ import annotations

import argparse

from . import options
from .output import UsageError, log
from .paths import check_outputs


def add_parser(commands: options.Subparsers) -> None:
    """Add the command to ``fcntag``."""
    parser = commands.add_parser(
        "convert",
        help="make a model file from an original checkpoint",
        description="Convert a Keras HDF5 file, a TensorFlow checkpoint or a PyTorch state dict of a catalogue model.",
    )
    parser.add_argument("source", metavar="SRC", help="the original file")
    parser.add_argument("--to", required=True, metavar="OUT", help="model file to write (.safetensors)")
    parser.add_argument(
        "--as", dest="name", metavar="NAME", help="catalogue model that SRC holds, where it cannot be told"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Convert and check; print the sha256 of what was written."""
    import os
    from pathlib import Path

    target = arguments.to
    if not target.lower().endswith(".safetensors"):
        raise UsageError(f"--to {target}: a model file; end the name in .safetensors")
    check_outputs({"--to": target}, [arguments.source])
    if os.path.exists(target) and not os.path.isfile(target):
        raise UsageError(f"--to {target}: is not a regular file")

    from ..convert import convert
    from ..modelfile import read_model, write_model

    document, tensors = convert(Path(arguments.source), arguments.name)
    write_model(arguments.to, document, tensors)
    model = read_model(arguments.to)
    log(f"{arguments.to}: {model.document.name}, {len(model.tensors)} tensors")
    print(model.sha256)
    return 0
