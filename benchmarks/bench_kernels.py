"""The network (blocks and head) by model and batch, fcntag and peers.

    python benchmarks/bench_kernels.py --json benchmarks/results/network-<cpu>-<date>.json
    pytest benchmarks/bench_kernels.py --benchmark-only

The script is `fcntag bench` with the models and batches of the README's table, and takes its options: alternating
runs, ratios, per-block times. The pytest suite times each engine for itself, to watch one over time.
FCN-3, FCN-4, FCN-5 and the narrow FCN-5 have random weights (trained ones were never released).
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from fcntag import cli
from fcntag.bench import peers
from fcntag.catalogue.names import load_any
from fcntag.engine import create_engine

MODELS = ("mtt-vgg", "msd-vgg", "fcn3", "fcn4", "fcn5", "fcn5-narrow")
# One window, and as many as a 30 s clip of mtt-vgg has.
BATCHES = (1, 10)


@pytest.mark.parametrize("engine", ["fcntag", *peers.PEERS])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", MODELS)
def test_network(benchmark: Any, name: str, batch: int, engine: str) -> None:
    """One batch through blocks and head on all CPUs, random input."""
    if engine != "fcntag":
        try:
            peers.version(engine)
        except ImportError as error:
            pytest.skip(f"{engine}: {error}")
    model, _ = load_any(name)
    height, width = model.document.input_size()
    x = np.random.default_rng(1).standard_normal((batch, height, width)).astype(np.float32)
    with create_engine(model) as ours:
        made = None if engine == "fcntag" else peers.make(engine, model, batch, height, width, ours.threads)
        run = ours.scores_of if made is None else made.run
        difference = float(np.abs(run(x) - ours.scores_of(x)).max())
        assert difference <= (5e-2 if engine.endswith("bf16") else 1e-4)
        benchmark.group = f"{name}, batch {batch}"
        benchmark.extra_info |= {"gflop": 2e-9 * batch * model.document.multiply_adds(), "difference": difference}
        benchmark.extra_info |= {"threads": ours.threads}
        benchmark.pedantic(run, args=(x,), rounds=10, warmup_rounds=2)


if __name__ == "__main__":
    defaults = ["--model", ",".join(MODELS), "--batch", ",".join(map(str, BATCHES))]
    # argparse keeps the last of an option; --model adds up, so the default goes where none is given.
    given = any(argument.split("=")[0] in ("-m", "--model") for argument in sys.argv[1:])
    sys.exit(cli.main(["bench", *defaults[2 if given else 0 :], *sys.argv[1:]]))
