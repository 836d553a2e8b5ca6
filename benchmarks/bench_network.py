"""Network time of fcntag and ONNX Runtime, side by side in one process, outputs checked first.

    python benchmarks/bench_network.py --threads 2 --json benchmarks/results/network-<cpu>-<date>.json

Timed: one batch through the blocks and the head. Not timed: decoding, resampling, the front end.
FCN-4 has random weights (its trained weights were never released); its time does not depend on them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from peers import OnnxRuntime
from timing import alternate, summary, write_json

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from make_models import block, make_model

from fcntag.catalogue import load_model
from fcntag.engine import create_engine
from fcntag.modelfile import Model

# Choi, Fazekas, Sandler 2016: FCN-4.
FCN4 = [(128, (2, 4)), (384, (4, 5)), (768, (3, 8)), (2048, (4, 8))]
BATCH = {"mtt-vgg": 10, "msd-vgg": 10}  # patches of a 30 s clip


def network(name: str) -> Model:
    if name != "fcn4":
        return load_model(name)
    blocks = [block(channels, window=window) for channels, window in FCN4]
    return make_model(
        np.random.default_rng(0), blocks, n_samples=349_440, n_mels=96, sample_rate=12000, fmax=6000.0, n_tags=50
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="fcn4,mtt-vgg,msd-vgg")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json")
    args = parser.parse_args()
    results = []
    for name in args.models.split(","):
        model = network(name)
        batch = BATCH.get(name, 1)
        x = np.random.default_rng(1).standard_normal((batch, *model.document.input_size())).astype(np.float32)
        with create_engine(model, threads=args.threads) as engine:
            peer = OnnxRuntime(model, engine.threads)
            difference = float(np.abs(engine.run(x) - peer.run(x)).max())
            if difference > 1e-5:
                raise SystemExit(f"{name}: outputs differ by {difference:.1e}; nothing was timed")
            samples = alternate({"fcntag": lambda: engine.run(x), "onnxruntime": lambda: peer.run(x)}, args.repeats)
            row = {
                "model": name,
                "batch": batch,
                "threads": engine.threads,
                "gflop": 2e-9 * batch * model.document.multiply_adds(),
                "max_score_difference": difference,
                "onnxruntime": peer.version,
                "times": summary(samples, "fcntag"),
                "samples_s": samples,
            }
        results.append(row)
        ours, theirs = row["times"]["fcntag"], row["times"]["onnxruntime"]
        print(
            f"{name:10} batch {batch:2}  {engine.threads} threads  fcntag {ours['median_ms']:7.1f} ms"
            f" ({row['gflop'] / ours['median_ms'] * 1e3:4.0f} GFLOP/s)  ONNX Runtime {theirs['median_ms']:7.1f} ms"
            f"  ratio {theirs['ratio']:.2f}",
            flush=True,
        )
    write_json(args.json, {"results": results})


if __name__ == "__main__":
    main()
