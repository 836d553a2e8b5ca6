"""The predicted time of every layer beside the two times that it cannot go below: a table for docs/gpu.md."""

from __future__ import annotations

from collections.abc import Sequence

from machine_code.parts import CtaReport

# An H100 SXM by its datasheet: 989 TFLOP/s of dense products of 16-bit floats at 1.755 GHz, half as many of tf32, 67 of
# float32, and 3.35 TB/s of memory.
PEAK = {"bfloat16": 989e12, "float16": 989e12, "tf32": 494e12, "tf32x3": 494e12 / 3, "float32": 67e12}
BYTES_PER_SECOND = 3.35e12


def operations(line: str) -> float:
    """Multiplications and additions of a layer, a clip; of the pixels that pooling looks at.

    ``line``: as plan_launches.cpp takes it.
    """
    _, _, _, cin, cout, kernel, _, pool_h, pool_w, stride_h, stride_w, height, width = line.split()[:13]
    out_h = (int(height) - int(pool_h)) // int(stride_h) + 1
    out_w = (int(width) - int(pool_w)) // int(stride_w) + 1
    # Windows that overlap share pixels.
    rows = min(out_h * int(pool_h), (out_h - 1) * int(stride_h) + int(pool_h))
    columns = min(out_w * int(pool_w), (out_w - 1) * int(stride_w) + int(pool_w))
    return 2.0 * rows * columns * int(cin) * int(cout) * int(kernel) ** 2


def traffic(r: CtaReport) -> int:
    """Bytes that a batch moves at least: its maps and the weights, once each."""
    return sum(region.size for region in r.planned.launch.regions if region.name in ("x", "y", "weight"))


def text(lines: Sequence[str], reports: Sequence[CtaReport], precision: str, batch: int) -> str:
    """Microseconds a clip, as Markdown."""
    out = [
        f"| {precision}, batch {batch} | tile | operations | bytes | predicted | planner |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for line, r in zip(lines, reports, strict=True):
        least = operations(line) / PEAK[precision] * 1e6
        moved = traffic(r) / batch / BYTES_PER_SECOND * 1e6
        planner = r.planned.planned_cycles / 1755 / batch
        out.append(
            f"| {r.planned.launch.name} | {r.planned.rows} x {r.planned.channels} | {least:.2f} | {moved:.2f} "
            f"| {r.microseconds(batch):.2f} | {planner:.2f} |"
        )
    return "\n".join(out)
