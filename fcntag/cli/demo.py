"""``fcntag demo``: the newcomer's first command. A synthesised piece through the normal path, with times."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import tempfile

from . import options, tag, tagging, writers
from .paths import check_outputs
from .streams import UsageError, log

DEFAULT_SEED = 0


def add_parser(commands: options.Subparsers) -> None:
    """Add the command to ``fcntag``."""
    parser = commands.add_parser(
        "demo",
        help="synthesise a short piece and tag it",
        description="Synthesise a piece of about 20 s, write it as WAV, tag it and print the table and the times. "
        "The same seed gives the same piece and the same scores.",
    )
    parser.add_argument("--seed", type=options.natural_int, default=DEFAULT_SEED, metavar="N", help="another piece")
    parser.add_argument("-o", "--output", metavar="FILE.wav", help="keep the piece")
    tag.add_tag_options(parser)
    options.add_verbosity(parser)
    options.add_model_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Synthesise, tag, print."""
    if arguments.output is not None and not arguments.output.lower().endswith(".wav"):
        raise UsageError(f"-o {arguments.output}: the piece is written as WAV; end the name in .wav")
    check_outputs({"-o": arguments.output}, [arguments.model])
    if arguments.output is not None:
        return _demo(arguments, arguments.output)
    with tempfile.TemporaryDirectory(prefix="fcntag-demo-") as folder:
        return _demo(arguments, os.path.join(folder, "demo.wav"))


def _demo(arguments: argparse.Namespace, path: str) -> int:
    import time

    import soundfile

    from .. import demo

    times = [("", time.perf_counter())]
    piece = demo.synthesise(arguments.seed)
    with writers.named(path), open(path, "wb") as file:  # libsndfile's own errors do not say what is wrong
        soundfile.write(file, piece, demo.SAMPLE_RATE, format="WAV", subtype="PCM_16")
    times.append(("synthesise", time.perf_counter()))
    with tagging.make_tagger(arguments) as tagger:
        times.append(("load the model", time.perf_counter()))
        result = tagger.tag(path)
        times.append(("tag", time.perf_counter()))
        n, threshold = tag.limits(arguments)
        with writers.TableWriter(None, n, threshold) as writer:
            shown = arguments.output or f"demo piece, seed {arguments.seed}"  # the temporary file's name says nothing
            writer.write(dataclasses.replace(result, path=shown))
        if not arguments.quiet:
            steps = [f"{name} {b - a:.2f} s" for (_, a), (name, b) in itertools.pairwise(times)]
            speed = len(piece) / demo.SAMPLE_RATE / (times[-1][1] - times[-2][1])
            log(f"{tagger.model_info.name} on {tagger.device}, {tagger.precision}, {tagger.threads} threads")
            log(f"{', '.join(steps)} ({speed:.0f} x real time)")
    if arguments.output is not None:
        log(f"the piece is in {path}")
    return 0
