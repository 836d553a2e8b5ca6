"""Compiles the networks that quick.py times beside fcntag, while other steps run.

    python benchmarks/gpu/compile_ahead.py --turns FILE fcn4:64 fcn5-narrow:64 ...

PyTorch keeps what it finds in TORCHINDUCTOR_CACHE_DIR and TRITON_CACHE_DIR: the bench that starts later with the same
folders compiles the same graphs in seconds. Most of the work is the CPU's. Each trial of a kernel on the GPU takes a
turn (turns.py); beside that the GPU has a few milliseconds of work when a network begins and when it is recorded.
"""

from __future__ import annotations

import argparse
import functools
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gpu.turns import turn

PRECISION = "bfloat16"
# Methods of inductor's benchmarker, by which it times kernels on a GPU; versions differ in which they have.
TRIALS = ("benchmark", "benchmark_gpu", "benchmark_gpu_with_cuda_graph")


def trials_in_turn(benchmarker: Any, path: Path) -> bool:
    """Make every trial of ``benchmarker`` take a turn; False if it has no method that is known here."""
    inside = threading.local()

    def in_turn(method: Any) -> Any:
        @functools.wraps(method)
        def wrapped(*arguments: Any, **options: Any) -> Any:
            if getattr(inside, "held", False):  # one method calls another
                return method(*arguments, **options)
            with turn(path):
                inside.held = True
                try:
                    return method(*arguments, **options)
                finally:
                    inside.held = False

        return wrapped

    names = [name for name in TRIALS if callable(getattr(benchmarker, name, None))]
    for name in names:
        setattr(benchmarker, name, in_turn(getattr(benchmarker, name)))
    return bool(names)


def main(argv: Sequence[str] | None = None, device: str = "cuda:0", peer: str = "torch-compile") -> int:
    """The command: 0 if everything was compiled."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--turns", type=Path, required=True, help="the file to lock")
    options.add_argument("what", nargs="+", metavar="MODEL:BATCH")
    arguments = options.parse_args(argv)
    try:
        from torch._inductor.runtime.benchmarking import benchmarker
    except ImportError as error:
        print(f"nothing compiled ahead: {error}")
        return 3
    if not trials_in_turn(benchmarker, arguments.turns):
        print("nothing compiled ahead: this PyTorch times kernels in a way that is not known here")
        return 3
    from fcntag.bench.cuda import peers
    from fcntag.bench.variants import original_variant
    from fcntag.catalogue.names import load_any

    for what in arguments.what:
        name, _, batch = what.partition(":")
        begun = time.monotonic()
        made = peers.make(peer, original_variant(load_any(name)[0]), PRECISION, int(batch), device)
        made.close()
        print(f"{name}, batch {batch}: {time.monotonic() - begun:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
