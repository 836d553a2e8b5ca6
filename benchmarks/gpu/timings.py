"""``fcntag bench --device cuda`` for quick.py: the same measurements, checked by the oracle's stored scores.

python benchmarks/gpu/timings.py --json FILE --minutes M -m fcn4,mtt-vgg -b 64,1 --precision bfloat16 [--peers ...]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gpu.record import replace_file
from gpu.references import STORED, Stored

from fcntag.bench.cuda import text
from fcntag.bench.cuda.group import random_clips
from fcntag.bench.cuda.measure import Settings, measure
from fcntag.catalogue.names import load_any
from fcntag.errors import FcntagError

# Before the end, no network is begun that PyTorch compiles: most of the search lies in a cache by then.
COMPILE_S = 20.0


def known_scores(names: Sequence[str], path: Path = STORED) -> dict[str, np.ndarray]:
    """The oracle's scores of the bench's first clip, of those models for which they are stored."""
    stored, found = Stored(path), {}
    for name in names:
        model, _ = load_any(name)
        if (scores := stored.known_scores(f"bench, {name}", model, random_clips(model)[:1])) is not None:
            found[name] = scores
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """The command: 1 if something was refused."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--json", type=Path, required=True)
    options.add_argument("--minutes", type=float, required=True)
    options.add_argument("-m", "--models", type=lambda text: tuple(text.split(",")), required=True)
    options.add_argument("-b", "--batches", type=lambda text: tuple(map(int, text.split(","))), required=True)
    options.add_argument("--precision", type=lambda text: tuple(text.split(",")), required=True)
    options.add_argument("--peers", type=lambda text: tuple(text.split(",")), default=())
    options.add_argument("--seconds", type=float, default=0.5)
    arguments = options.parse_args(argv)
    settings = Settings(
        models=arguments.models,
        batches=arguments.batches,
        precisions=arguments.precision,
        peers=arguments.peers,
        seconds=arguments.seconds,
        minutes=arguments.minutes,
        cold=False,
        starts=False,
        alone=not arguments.peers,
        compile_s=COMPILE_S,
    )
    try:
        report = measure(
            settings,
            lambda line: print(line, flush=True),
            lambda report: replace_file(arguments.json, report.to_json()),
            known_scores(arguments.models),
        )
    except FcntagError as error:
        raise SystemExit(f"timings: {error}") from None
    for line in text.lines(report):
        print(line)
    return 1 if report.refused else 0


if __name__ == "__main__":
    sys.exit(main())
