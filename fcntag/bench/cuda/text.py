"""The GPU bench's report for people: stages against the ceilings, whole runs beside peers."""

from __future__ import annotations

from collections.abc import Iterator

from ..report import PHASES, Report, Row
from ..samples import percentile
from ..text import ending, model_title, peers, table, title, work
from .peers import STAGES
from .work import peak_tflops

WHOLE = (*STAGES, "scores, cold cache")


def lines(report: Report) -> Iterator[str]:
    """The report, line by line."""
    e, info = report.environment, report.environment["gpu_info"]
    yield title(report)
    capability = ".".join(map(str, info.get("capability", ())))
    yield (
        f"{e['gpu']}, compute capability {capability}, {info.get('multiprocessors')} multiprocessors,"
        f" CUDA driver {info.get('driver')}, runtime {info.get('runtime')}"
    )
    for state in e["gpu_states"]:
        if len(state) > 1:
            names = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu")
            yield f"clocks {state['when']}: " + ", ".join(f"{name} {state[name]}" for name in names if name in state)
    c = report.ceilings
    peaks = ", ".join(f"{n.removeprefix('tflops_')} {v:.1f}" for n, v in c.items() if n.startswith("tflops_"))
    yield f"ceilings (measured): copy {c['copy_gbytes']:.0f} GB/s, TFLOP/s of mma.sync (float32: fma) {peaks}"
    if "library_tflops_bfloat16" in c:
        yield f"ceiling of the library's large product: bfloat16 {c['library_tflops_bfloat16']:.0f} TFLOP/s"
    if "sampled_sm_mhz" in c:
        peak = c["datasheet_tflops_bfloat16"]
        yield f"datasheet's peak at the sampled {c['sampled_sm_mhz']:.0f} MHz: bfloat16 {peak:.0f} TFLOP/s"
    yield from peers(report)
    for name in report.models:
        yield ""
        yield from _model(report, name)
    yield ""
    yield "% peak: of the measured mma.sync (float32: fma) rate; % copy: of the measured copy bandwidth"
    yield "device time: behind a kernel that hides the host's launches, which the other times hold"
    yield "scores, network, mel: resident in GPU memory, by events, GPU idle before; jax: by the wall clock, no events"
    yield from ending(report)


def _model(report: Report, name: str) -> Iterator[str]:
    info = report.models[name]
    macs = work(info["multiply_adds"], info["reduced_multiply_adds"])
    yield f"{model_title(report, name)}: windows of {info['window_s']:.2f} s, {macs}"
    if "checked_against" in info:
        yield f"  float32 scores within {info['float32_difference']:.1e} of {info['checked_against']}"
    memory = ", ".join(f"{precision} {size / 1e6:.0f} MB" for precision, size in info["memory_bytes"].items())
    if memory:
        yield f"  GPU memory held: {memory}"
    rows = [row for row in report.rows if row.model == name]
    starts = [row for row in rows if row.stage in PHASES]
    if starts:
        yield from table(
            ("start", "precision", "p50 ms", "n", "peak RSS MB"),
            [
                (
                    row.stage,
                    row.precision,
                    f"{1e3 * row.median_s:.1f}",
                    str(len(row.samples_s)),
                    f"{row.peak_rss_bytes / 1e6:.0f}" if row.peak_rss_bytes else "",
                )
                for row in starts
            ],
        )
    head = ("precision", "batch", "p10 us", "p50", "p90", "p99", "n", "TFLOP/s", "% peak", "GB/s", "% copy")
    whole = [stage for stage in WHOLE if stage != "mel"]
    stages = [row for row in rows if row.batch and row.engine == "fcntag" and row.stage not in whole]
    if stages:
        yield from table(("stage", *head), [(row.stage, *_cells(report, row)) for row in stages])
    precisions = list(dict.fromkeys(row.precision for row in rows))
    for stage in WHOLE:
        found = [row for row in rows if row.batch and row.stage == stage]
        # Rows that were timed in turn stand beside one another.
        found.sort(key=lambda row: (precisions.index(row.precision), row.batch))
        if (stage != "mel" and found) or any(row.engine != "fcntag" for row in found):
            more = ("windows/s", "x real time", "max diff", "x fcntag's time")
            yield from table((stage, "of", *head, *more), [_whole(report, row) for row in found])


def _cells(report: Report, row: Row) -> tuple[str, ...]:
    times = (f"{1e6 * percentile(row.samples_s, q):.1f}" for q in (10, 50, 90, 99))
    tflops, gbytes = (_rate(amount, row.median_s) for amount in (row.flop * 1e-12, row.bytes * 1e-9))
    return (
        row.precision,
        str(row.batch),
        *times,
        str(len(row.samples_s)),
        f"{tflops:.2f}" if row.flop else "",
        _share(tflops, peak_tflops(report, row)) if row.flop else "",
        f"{gbytes:.0f}",
        _share(gbytes, report.ceilings["copy_gbytes"]),
    )


def _whole(report: Report, row: Row) -> tuple[str, ...]:
    return (
        row.engine,
        row.variant,
        *_cells(report, row),
        f"{_rate(row.batch, row.median_s):.0f}",
        f"{_rate(row.audio_s, row.median_s):.0f}",
        "" if row.max_score_difference is None else f"{row.max_score_difference:.1e}",
        "" if row.ratio is None else f"{row.ratio:.2f}",
    )


def _rate(amount: float, seconds: float) -> float:
    return amount / seconds if seconds else 0.0


def _share(rate: float, ceiling: float) -> str:
    return f"{100 * rate / ceiling:.0f}" if ceiling else ""
