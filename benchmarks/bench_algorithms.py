"""The cost model checked by measurement: every block direct and by Winograd, alternating, with the model's choice.

python benchmarks/bench_algorithms.py --models fcn4,fcn5,mtt-vgg --json benchmarks/results/algorithms-<cpu>.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

from fcntag.bench.machine import environment
from fcntag.catalogue.names import load_any
from fcntag.engine import CpuEngine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="fcn3,fcn4,fcn5,fcn5-narrow,mtt-vgg,msd-vgg")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json")
    args = parser.parse_args()
    rows = []
    for name in args.models.split(","):
        model, _ = load_any(name)
        x = np.random.default_rng(0).standard_normal((1, *model.document.input_size())).astype(np.float32)
        engines = {a: CpuEngine(model, threads=args.threads, algorithm=a) for a in ("auto", "direct", "winograd")}
        times: dict[str, list[list[float]]] = {a: [] for a in engines}
        for _ in range(args.repeats):
            for algorithm, engine in engines.items():
                engine.block_times(x)
                times[algorithm].append(engine.block_times(x))
                time.sleep(0.01)
        chosen, possible = engines["auto"].algorithms, engines["winograd"].algorithms
        for i in range(len(chosen)):
            ms = {a: statistics.median(t[i] for t in times[a]) * 1e3 for a in ("direct", "winograd")}
            best = min(ms, key=lambda a: ms[a]) if possible[i] == "winograd" else "direct"
            # A choice counts as wrong if it is slower by more than 10 %. On a shared machine, less is noise.
            wrong = ms[chosen[i]] > 1.1 * ms[best]
            rows.append({"model": name, "block": i, **ms, "chosen": chosen[i], "best": best, "wrong": wrong})
            winograd = f"{ms['winograd']:8.2f}" if possible[i] == "winograd" else "       -"
            print(
                f"{name:12} block {i}  direct {ms['direct']:8.2f} ms  winograd {winograd} ms  chosen {chosen[i]:8}"
                + ("  <- slower" if wrong else ""),
                flush=True,
            )
    if args.json:
        Path(args.json).write_text(
            json.dumps({"environment": environment(engines["auto"].threads), "blocks": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
