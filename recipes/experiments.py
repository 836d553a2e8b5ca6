#!/usr/bin/env python3
"""The comparisons of Choi, Fazekas and Sandler (arXiv:1606.00298), on a dataset of render_music21.py.

    python recipes/experiments.py train data --out runs        # stop and go on as you like
    python recipes/experiments.py report data --out runs --json docs/experiments.json

``train`` runs train.py for every network and seed that has not ended, seed by seed, with the same settings. ``report``
computes the tables from the runs that have ended. Every network sees the same clips for the same number of steps.

Intervals are 95 % percentiles over resamples of the test's pieces (clips of one piece stay together), of the mean over
the seeds, moved onto the value; a difference is resampled as a pair. Needs pip install "fcntag[train]".
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fcntag
from fcntag.errors import FcntagError
from fcntag.eval import metrics
from fcntag.model import paper
from fcntag.model.file import write_atomically

# Options of every run. No run stops early, so that all have equal numbers of steps; the best epoch is kept.
FIXED = ("--bf16", "--decay", "--patience", "1000000")
METRICS = ("roc_auc", "pr_auc")


class Trained(NamedTuple):
    """One network of the tables, and the one that it is compared with; "" for none."""

    name: str
    baseline: str


RUNS = (
    Trained("fcn4-narrow", ""),
    Trained("fcn4-narrow-stft", "fcn4-narrow"),
    Trained("fcn4-narrow-mfcc", "fcn4-narrow"),
    Trained("fcn3-narrow", "fcn4-narrow"),
    Trained("fcn5-narrow", "fcn4-narrow"),
    Trained("fcn4", "fcn4-narrow"),
    Trained("fcn3", "fcn3-narrow"),
    Trained("fcn5", "fcn5-narrow"),
)


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return train(options) if options.command == "train" else report(options)
    except (FcntagError, OSError) as error:  # a file of the dataset that is not there
        print(f"experiments.py: {error}", file=sys.stderr)
        return 2


# ---- training ----


def narrow_document(kind: str) -> str:
    """FCN-4 on STFT or MFCC with the widths of narrow FCN-4, as JSON; the paper has the wide one only."""
    wide, narrow = paper.document(f"fcn4-{kind}"), paper.document("fcn4-narrow")
    blocks = [
        dataclasses.replace(block, pool=other.pool) for block, other in zip(narrow.blocks, wide.blocks, strict=True)
    ]
    return (
        dataclasses.replace(wide, name=f"fcn4-narrow-{kind}", blocks=tuple(blocks), head=narrow.head)
        .validate()
        .to_json()
    )


def train(options: argparse.Namespace) -> int:
    """Run every network and seed that has not ended, seed by seed; return 1 if a run failed or was stopped, else 0."""
    out, data = Path(options.out), Path(options.data)
    dataset = data / "dataset.csv"
    out.mkdir(parents=True, exist_ok=True)
    if options.clips:
        dataset = subset(dataset, out / f"dataset-{options.clips}.csv", options.clips)
    failed = 0
    for seed in options.seeds:
        for name in options.networks:
            run = out / f"{name}-{seed}"
            if ended(run):
                continue
            network = name
            if name.startswith("fcn4-narrow-"):
                network = str(out / f"{name}.json")
                write_atomically(network, narrow_document(name.removeprefix("fcn4-narrow-")).encode())
            command = [sys.executable, str(Path(__file__).with_name("train.py")), str(dataset), *FIXED]
            command += ["--audio", str(data), "--network", network, "--out", str(run), "--cache", str(out / "cache")]
            command += ["--seed", str(seed), "--epochs", str(options.epochs), "--lr", str(options.lr)]
            command += ["--batch", str(options.batch)]
            command += ["--name", f"{name}-music21", "--dataset-name", "rendered music21 scores"]
            print(f"{name}, seed {seed}", file=sys.stderr, flush=True)
            failed |= subprocess.run(command, check=False).returncode != 0
    return int(failed)


def subset(dataset: Path, to: Path, n_clips: int) -> Path:
    """The dataset with ``n_clips`` of its training clips, evenly over its order (which is by style), and all others."""
    with open(dataset, encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    training = [row for row in rows if row[1] == "train"]
    if n_clips > len(training):
        raise FcntagError(f"--clips {n_clips}: {dataset} has {len(training)} to train on")
    taken = [training[i * len(training) // n_clips] for i in range(n_clips)]
    lines = [",".join(row) for row in (header, *taken, *(row for row in rows if row[1] != "train"))]
    write_atomically(to, ("\n".join(lines) + "\n").encode())
    return to


def ended(run: Path) -> bool:
    """Whether a run has its model file. train.py gives it its name at the very end."""
    return any(not path.name.endswith(".unchecked.safetensors") for path in run.glob("*.safetensors"))


# ---- the tables ----


def report(options: argparse.Namespace) -> int:
    """Write the results as JSON and print the table in Markdown."""
    out, data = Path(options.out), Path(options.data)
    with open(data / "clips.jsonl", encoding="utf-8") as file:
        pieces = {clip["path"]: clip["piece"] for clip in map(json.loads, file)}
    found: dict[str, dict[str, Any]] = {}
    draws: dict[str, dict[int, np.ndarray]] = {}  # of every run, by seed
    for run in RUNS:
        seeds = {seed: out / f"{run.name}-{seed}" for seed in range(100)}
        seeds = {seed: path for seed, path in seeds.items() if ended(path)}
        if not seeds:
            continue
        logs = {seed: json.loads((path / "log.json").read_text(encoding="utf-8")) for seed, path in seeds.items()}
        draws[run.name] = {seed: resampled(path, pieces, options.resamples) for seed, path in seeds.items()}
        found[run.name] = described(logs, np.mean(list(draws[run.name].values()), 0))
    for run in RUNS:  # compared on seeds that both have, so that nothing but the network differs
        shared = [seed for seed in draws.get(run.name, {}) if seed in draws.get(run.baseline, {})]
        if not shared:
            continue
        values, pair = [], []
        for name in (run.name, run.baseline):
            values.append(np.mean([[found[name]["seeds"][seed][metric] for metric in METRICS] for seed in shared], 0))
            pair.append(np.mean([draws[name][seed] for seed in shared], 0))
        found[run.name]["difference"] = {
            "from": run.baseline,
            "seeds": shared,
            **with_intervals(values[0] - values[1], pair[0] - pair[1]),
        }
    if not found:
        raise FcntagError(f"{out}: no run has ended")
    manifest = json.loads((data / "manifest.json").read_text(encoding="utf-8"))
    known = ("rendered", "pieces", "train_soundfont", "test_soundfont", "versions", "seed")
    results = {
        "dataset": {name: manifest[name] for name in known},
        "resamples": options.resamples,
        "fcntag": fcntag.__version__,
        "networks": found,
    }
    if options.json:
        write_atomically(options.json, (json.dumps(results, indent=1) + "\n").encode())
    print("\n".join(table(found)))
    return 0


def resampled(run: Path, pieces: dict[str, str], resamples: int) -> np.ndarray:
    """Macro ROC-AUC and PR-AUC [2, resamples] of a run's test scores; equal draws for all runs."""
    with np.load(run / "scores.npz") as scores:
        _, groups = np.unique([pieces[path] for path in scores["paths"].tolist()], return_inverse=True)
        values = metrics.resampled(scores["labels"], scores["fcntag"], resamples=resamples, seed=0, groups=groups)
    return metrics.macro_each(values)


def described(logs: dict[int, dict[str, Any]], draws: np.ndarray) -> dict[str, Any]:
    """The JSON's part for a network: the results of every seed, and their mean."""
    first = next(iter(logs.values()))
    seeds = {
        seed: {
            **{metric: log["test"][metric] for metric in METRICS},
            "validation_roc_auc": log["epochs"][log["best_epoch"]]["roc_auc"],
            "best_epoch": log["best_epoch"] + 1,
            "epochs": len(log["epochs"]),
            "training_s": round(sum(epoch["seconds"] for epoch in log["epochs"])),
            "fcntag_roc_auc_error": log["check"]["roc_auc_error"],
            "fcntag_max_abs_error": log["check"]["max_abs_error"],
        }
        for seed, log in logs.items()
    }
    mean = np.mean([[result[metric] for metric in METRICS] for result in seeds.values()], 0)
    return {
        "parameters": first["parameters"],
        "clips": first["clips"],
        "n_tags": first["test"]["n_tags"],
        "settings": {name: value for name, value in first["settings"].items() if name not in ("document", "seed")},
        "environment": first["environment"],
        "test": with_intervals(mean, draws),
        "seeds": seeds,
    }


def with_intervals(values: np.ndarray, draws: np.ndarray) -> dict[str, Any]:
    """Values [2] and their 95 % intervals from draws [2, resamples], by metric."""
    low, high = metrics.centred_quantiles(values[:, None], draws[:, :, None], 0.95, limits=(-1.0, 1.0))
    return {
        metric: {"value": float(values[k]), "low": float(low[k, 0]), "high": float(high[k, 0])}
        for k, metric in enumerate(METRICS)
    }


def table(found: dict[str, dict[str, Any]]) -> list[str]:
    """Markdown: one line a network."""
    rows = [
        "| network | weights | seeds | ROC-AUC (95 %) | each seed | PR-AUC | ROC-AUC less its baseline's (95 %) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, result in found.items():
        roc, pr, seeds = result["test"]["roc_auc"], result["test"]["pr_auc"], result["seeds"].values()
        difference = "-"
        if "difference" in result:
            d = result["difference"]["roc_auc"]
            difference = f"{d['value']:+.3f} ({d['low']:+.3f} to {d['high']:+.3f}) from {result['difference']['from']}"
        each = ", ".join(f"{seed['roc_auc']:.3f}" for seed in seeds)
        rows.append(
            f"| {name} | {result['parameters'] / 1e6:.2f} M | {len(seeds)} | {roc['value']:.3f} "
            f"({roc['low']:.3f} to {roc['high']:.3f}) | {each} | {pr['value']:.3f} | {difference} |"
        )
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], epilog="see the head of this file")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("train", help="run what has not ended")
    two = commands.add_parser("report", help="compute the tables")
    for command in (one, two):
        command.add_argument("data", help="folder of render_music21.py")
        command.add_argument("--out", required=True, metavar="DIR", help="a folder for every run")
    names = [run.name for run in RUNS]
    one.add_argument("--networks", type=lambda text: text.split(","), default=names, metavar="NAME,NAME")
    one.add_argument(
        "--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[0, 1, 2], metavar="N,N"
    )
    one.add_argument("--epochs", type=int, default=20)
    one.add_argument("--clips", type=int, default=0, help="to train on (default: all)")
    one.add_argument("--lr", type=float, default=1e-3, help="Adam's learning rate (default: 0.001)")
    one.add_argument("--batch", type=int, default=16, help="clips in a step (default: 16)")
    two.add_argument("--json", metavar="FILE", help="write the results there")
    two.add_argument("--resamples", type=int, default=2000)
    return parser


if __name__ == "__main__":
    sys.exit(main())
