"""``fcntag convert``: an original checkpoint, or a network of one's own, to a model file."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from . import options
from .paths import check_outputs
from .streams import UsageError, log

if TYPE_CHECKING:
    from ..convert import Converted


def add_parser(commands: options.Subparsers) -> None:
    """Add the command to ``fcntag``."""
    parser = commands.add_parser(
        "convert",
        help="make a model file from an original checkpoint, an ONNX or Keras file or a state dict",
        description="Convert a Keras HDF5 file, a TensorFlow checkpoint or a PyTorch state dict of a catalogue model; "
        "or any stack of 3x3 and 1x1 convolutions, batch-norms, ReLU or ELU, max-pools and dense layers, from an ONNX "
        "file, a Keras 3 model or, with --like or --spec, from a state dict or training checkpoint. Such a model is "
        "compared with the original before it is written, and the command says what was not checked.",
    )
    parser.add_argument("source", metavar="SRC", help="the original file")
    parser.add_argument("--to", required=True, metavar="OUT", help="model file to write (.safetensors)")
    parser.add_argument(
        "--as", dest="name", metavar="NAME", help="catalogue model that SRC holds, where it cannot be told"
    )
    parser.add_argument(
        "--key", metavar="NAME", help="which of several state dicts in a training checkpoint, e.g. model_ema"
    )
    parser.add_argument(
        "--check",
        metavar="FILE.npz",
        help="compare with stored results of the original: waves or input, and scores or logits (docs/models.md)",
    )
    group = parser.add_argument_group("a network of your own (ONNX, Keras 3, state dict)")
    group.add_argument(
        "--like",
        metavar="NAME",
        help="front end, windows and tags are those of this model; of a state dict also activations and pools",
    )
    group.add_argument(
        "--spec",
        metavar="FILE.json",
        help="what differs from it, or all of it, as JSON: name, tags, licence, frontend, segments, input, blocks, ...",
    )
    group.add_argument("--tags", metavar="FILE", help="the tags, one a line, in the order of the scores")
    group.add_argument("--name", dest="called", metavar="NAME", help="name of the model (default: that of SRC)")
    group.add_argument("--logits", action="store_true", help="an ONNX file or a Keras model ends before the sigmoid")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Convert and check; print the sha256 of what was written."""
    target = arguments.to
    if not target.lower().endswith(".safetensors"):
        raise UsageError(f"--to {target}: a model file; end the name in .safetensors")
    check_outputs(
        {"--to": target},
        [arguments.source, *filter(None, (arguments.like, arguments.spec, arguments.tags, arguments.check))],
    )
    if os.path.exists(target) and not os.path.isfile(target):
        raise UsageError(f"--to {target}: is not a regular file")

    from ..convert import convert, convert_stack
    from ..model.file import read_model, write_model

    own = {"like": arguments.like, "spec": arguments.spec, "tags": arguments.tags, "name": arguments.called}
    is_onnx = arguments.source.lower().endswith(".onnx")
    is_keras = arguments.source.lower().endswith((".keras", ".h5", ".hdf5"))
    if is_onnx or arguments.source.lower().endswith(".keras") or any(own.values()) or arguments.logits:
        if arguments.name is not None:
            raise UsageError("--as: goes with a checkpoint of the catalogue; of a network of your own, --like")
        if arguments.logits and not (is_onnx or is_keras):
            raise UsageError(
                "--logits: goes with an ONNX file or a Keras model; the head of a state dict gets its sigmoid"
            )
        converted = convert_stack(
            arguments.source, logits=arguments.logits, key=arguments.key, check=arguments.check, **own
        )
        document, tensors = converted.document, converted.tensors
        _report(arguments.source, arguments.check, converted)
    else:
        document, tensors = convert(Path(arguments.source), arguments.name, key=arguments.key, check=arguments.check)
        if arguments.check is not None:
            log(f"{arguments.source}: compared with the stored results of {arguments.check}")
        elif document.name.endswith("-unverified"):
            log(f"{arguments.source}: not the published file; its scores were compared with nothing (--check FILE.npz)")
    write_model(arguments.to, document, tensors)
    model = read_model(arguments.to)
    log(f"{arguments.to}: {model.document.name}, {len(model.tensors)} tensors")
    print(model.sha256)
    return 0


def _report(source: str, file: str | None, converted: Converted) -> None:
    """Say what was taken, what was compared with what, and what no comparison saw."""
    for line in converted.said:
        log(f"{source}: {line}")
    log(
        f"{source}: compared with {converted.runtime} on random input: scores within {converted.scores:.1e}, logits "
        f"within a relative {converted.logits:.1e}"
    )
    checked = converted.checked
    if checked is not None:
        what = "the front end's windows" if checked.what == "waves" else "the network's input"
        log(
            f"{source}: compared with the stored results of {file}, {checked.samples} samples of {what}: scores within "
            f"{checked.scores:.1e}"
        )
    left = unchecked(converted)
    if left:
        advice = "" if checked is not None else "; --check FILE.npz compares with stored results of the original"
        log(f"{source}: not checked: {'; '.join(left)}{advice}")


def unchecked(converted: Converted) -> list[str]:
    """What no comparison saw: of stored waves nothing, of stored input the front end."""
    if converted.checked is None:
        return list(converted.unchecked)
    return [] if converted.checked.what == "waves" else ["the front end and its windows"]
