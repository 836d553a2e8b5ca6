"""The picture of a report: a roofline of every network row, and bars of their latencies."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from .report import Report, Row


def save(report: Report, path: str | Path) -> None:
    """Write the picture; the name's ending chooses the format. Needs matplotlib (extra "plot")."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = report.find(stage="network", contend=0)
    batches = [row for row in rows if row.batch]
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(14, max(5.0, 1.5 + 0.28 * len(batches))), layout="constrained"
    )
    engines = list(dict.fromkeys(row.engine for row in batches))
    colours = {engine: f"C{i}" for i, engine in enumerate(engines)}
    _roofline(left, report, batches, colours)
    _bars(right, batches, colours)
    e = report.environment
    figure.suptitle(f"fcntag {e['fcntag']} on {e['cpu']}, {e['isa']}, {e['threads']} threads")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _roofline(axes: Any, report: Report, rows: list[Row], colours: dict[str, str]) -> None:
    peak, bandwidth = report.ceilings["fma_gflops"], report.ceilings["copy_gbytes"]
    ridge = peak / bandwidth
    intensities = [row.flop / row.bytes for row in rows]
    low, high = min([*intensities, ridge]) / 4, max([*intensities, ridge]) * 4
    axes.plot([low, ridge, high], [low * bandwidth, peak, peak], "k-", linewidth=1)
    axes.annotate(f"{peak:.0f} GFLOP/s", (high, peak), ha="right", va="bottom")
    axes.annotate(f"{bandwidth:.0f} GB/s", (low, low * bandwidth), ha="left", va="bottom")
    markers = dict(zip(dict.fromkeys(row.model for row in rows), itertools.cycle("osD^vP*X"), strict=False))
    for row, intensity in zip(rows, intensities, strict=True):
        speed = row.flop / row.median_s / 1e9
        axes.plot(intensity, speed, markers[row.model], color=colours[row.engine], markersize=5)
    for engine, colour in colours.items():
        axes.plot([], [], "s", color=colour, label=engine)
    for model, marker in markers.items():
        axes.plot([], [], marker, color="0.5", label=model)
    axes.set(xscale="log", yscale="log", xlabel="FLOP of direct convolution per byte of weights, input and scores")
    axes.set(ylabel="GFLOP/s of direct convolution", title="Roofline (Winograd may pass the roof)")
    axes.legend()


def _bars(axes: Any, rows: list[Row], colours: dict[str, str]) -> None:
    labels = [f"{row.model}, batch {row.batch}, {row.engine} ({row.variant})" for row in rows]
    times = [1e3 * row.median_s for row in rows]
    axes.barh(range(len(rows)), times, color=[colours[row.engine] for row in rows])
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    for i, time in enumerate(times):
        axes.annotate(f" {time:.1f}", (time, i), va="center", fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(xlabel="ms, median", title="Latency of a batch")
