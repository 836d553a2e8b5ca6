"""The CPU bench's report for people: tables, ratios, and a last line that names the bottleneck.

The parts that a GPU's report has as well are functions here, which cuda/text.py uses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .report import CLIP_STAGES, Report, Row
from .samples import percentile


def lines(report: Report) -> Iterator[str]:
    """The report, line by line."""
    e = report.environment
    yield title(report)
    yield f"{e['cpu']}, {e['isa']}, {e['threads']} of {e['cpus']} CPUs, Python {e['python']}, NumPy {e['numpy']}"
    c = report.ceilings
    yield f"ceilings: {c['fma_gflops']:.0f} GFLOP/s multiply-add, {c['copy_gbytes']:.1f} GB/s copy (measured)"
    yield f"audio: {report.settings['audio']}, {report.settings['audio_s']:.1f} s"
    yield from peers(report)
    for name in report.models:
        yield ""
        yield from _model(report, name)
    yield ""
    if any(row.flop and _share(report, row) > 100 for row in report.rows):
        yield "% FMA: multiply-adds are counted as a direct convolution's; Winograd does fewer, so it may pass 100 %"
    yield from ending(report)


def _model(report: Report, name: str) -> Iterator[str]:
    info = report.models[name]
    whole, reduced = info["multiply_adds"], info["reduced_multiply_adds"]
    macs = work(whole, reduced if reduced != whole else None)
    runs = f"fcntag runs the {info['fcntag_network']} network"
    yield f"{model_title(report, name)}: {info['windows_per_clip']} windows a clip, {macs}, {runs}"
    clip = report.find(model=name, batch=0)
    yield from _clip(report, [row for row in clip if row.stage not in CLIP_STAGES and row.stage != "tag"], "start")
    peak = next((row.peak_rss_bytes for row in clip if row.peak_rss_bytes), None)
    memory = f"  memory: engine {info['memory_bytes'] / 1e6:.0f} MB"
    yield memory + (f", peak RSS of a cold fcntag tag {peak / 1e6:.0f} MB" if peak else "")
    yield from _clip(report, [row for row in clip if row.stage in (*CLIP_STAGES, "tag")], "one clip")
    blocks = [row for row in report.rows if row.model == name and row.batch and row.stage != "network"]
    if blocks:
        yield from table(
            ("block", "batch", "p50 ms", "p90", "p99", "n", "GFLOP/s", "% FMA"),
            [(row.stage, str(row.batch), *_times(row), *_compute(report, row)) for row in blocks],
        )
    rows = [row for row in report.rows if row.model == name and row.batch and row.stage == "network"]
    if rows:
        head = ("network", "of", "batch", "p50 ms", "p90", "p99", "n", "windows/s", "x real time", "GFLOP/s", "% FMA")
        yield from table(
            (*head, "% copy", "max score diff", "x fcntag's time"), [_network(report, row) for row in rows]
        )


def _clip(report: Report, rows: Sequence[Row], title: str) -> Iterator[str]:
    if rows:
        yield from table(
            (title, "p50 ms", "p90", "p99", "n", "clips/s", "x real time"),
            [
                (
                    row.stage,
                    *_times(row),
                    f"{1 / row.median_s:.1f}" if row.audio_s else "",
                    f"{row.audio_s / row.median_s:.0f}" if row.audio_s else "",
                )
                for row in rows
            ],
        )


def _network(report: Report, row: Row) -> tuple[str, ...]:
    bandwidth = row.bytes / row.median_s / 1e9
    return (
        row.engine + (f" +{row.contend} busy" if row.contend else ""),
        row.variant,
        str(row.batch),
        *_times(row),
        f"{row.batch / row.median_s:.1f}",
        f"{row.audio_s / row.median_s:.0f}",
        *_compute(report, row),
        f"{100 * bandwidth / report.ceilings['copy_gbytes']:.0f}",
        "" if row.max_score_difference is None else f"{row.max_score_difference:.1e}",
        "" if row.ratio is None else f"{row.ratio:.2f}",
    )


def _times(row: Row) -> tuple[str, str, str, str]:
    p50, p90, p99 = (f"{1e3 * percentile(row.samples_s, q):.2f}" for q in (50, 90, 99))
    return p50, p90, p99, str(len(row.samples_s))


def _compute(report: Report, row: Row) -> tuple[str, str]:
    """GFLOP/s of direct convolution, and their share of the peak."""
    if not row.flop:
        return "", ""
    return f"{row.flop / row.median_s / 1e9:.0f}", f"{_share(report, row):.0f}"


def _share(report: Report, row: Row) -> float:
    """Per cent of the multiply-add peak, direct convolution's multiply-adds counted: Winograd's may pass 100."""
    return 100 * row.flop / row.median_s / 1e9 / report.ceilings["fma_gflops"]


# ---- the parts of every report ----


def title(report: Report) -> str:
    """The first line: fcntag's version, and the device and precisions."""
    e = report.environment
    commit = f" ({e['commit']})" if e["commit"] else ""
    return f"fcntag {e['fcntag']}{commit}, {report.settings['device']}, {report.settings['precision']}"


def peers(report: Report) -> Iterator[str]:
    """A line with the version of each peer, or the reason for its absence; none if no peer was asked for."""
    if report.peers:
        yield "peers: " + ", ".join(
            f"{name} {text}" if text[:1].isdigit() else f"{name}: {text}" for name, text in report.peers.items()
        )


def model_title(report: Report, name: str) -> str:
    """A model's name, with a word where its weights are random."""
    return name + (", random weights" if report.models[name]["random_weights"] else "")


def work(multiply_adds: int, reduced: int | None) -> str:
    """The multiply-adds of one window, and those of the reduced network where the report tells them."""
    text = f"{multiply_adds / 1e9:.3g} GMAC a window"
    return text + (f" ({reduced / 1e9:.3g} reduced)" if reduced else "")


def ending(report: Report) -> Iterator[str]:
    """The last lines: peers that were refused, warnings, and each model's bottleneck."""
    yield from report.refused
    for text in report.warnings:
        yield f"warning: {text}"
    for name in report.models:
        yield report.bottleneck(name)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a table: the first column left, the others right."""
    widths = [max(len(line[i]) for line in (head, *rows)) for i in range(len(head))]
    for line in (head, *rows):
        cells = [
            f"{line[0]:<{widths[0]}}",
            *(f"{cell:>{width}}" for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        yield "  " + "  ".join(cells).rstrip()
