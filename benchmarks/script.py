"""The common parts of the benchmark scripts: options, figures of samples taken in turn, and the JSON."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from fcntag.bench import machine
from fcntag.bench.samples import median_ratio, percentile


def parser(description: str | None, repeats: int) -> argparse.ArgumentParser:
    """Options that every script has."""
    out = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    out.add_argument("--repeats", type=int, default=repeats)
    out.add_argument("--seconds", type=float, default=60.0, help="stop repeating after so long")
    out.add_argument("--json", help="write environment, settings, raw samples and figures here")
    return out


def figures(samples: dict[str, list[float]], baseline: str) -> dict[str, Any]:
    """For each name, percentiles in seconds, the ratio to ``baseline`` in the same rounds, and the raw samples."""
    return {
        name: {
            **{f"p{q}_s": percentile(values, q) for q in (50, 90, 99)},
            "ratio": median_ratio(values, samples[baseline]),
            "samples_s": values,
        }
        for name, values in samples.items()
    }


def write_json(arguments: argparse.Namespace, threads: int, result: dict[str, Any]) -> None:
    """Write ``result`` beside the environment and settings to the file of --json, if there is one."""
    if arguments.json:
        settings = {
            name: value for name, value in vars(arguments).items() if name not in ("json", "folder")
        }  # no paths
        data = {"environment": machine.environment(threads), "settings": settings, **result}
        Path(arguments.json).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
