"""What the planner has to know about the compiled shapes of conv_block, read from their machine code.

The planner (csrc/cuda/conv/conv_plan.cpp) takes a step for the time of its products and adds constants: for every
barrier, every pass, and every CTA. Here are the figures that those stand for, by shape.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from machine_code.model import L2_BYTES_PER_CYCLE, SUB_PARTITIONS
from machine_code.parts import CtaReport


@dataclass(frozen=True)
class Constants:
    """Of one shape, over several layers. Cycles of a CTA alone on a multiprocessor.

    ``step``: of a full tap beyond its products; ``barrier``: the same for all taps between two barriers. ``start``:
    outside of the steps, in a CTA of one pass. ``further_pass``: between the steps of two passes. Instructions are
    those of one warp.
    """

    rows: int
    channels: int
    layers: int
    step: Sequence[float]
    barrier: Sequence[float]
    start: Sequence[float]
    further_pass: Sequence[float]
    step_instructions: Sequence[float]
    cta_instructions: Sequence[float]


def constants(reports: Iterable[CtaReport]) -> list[Constants]:
    """By shape; layers whose channels do not fill a block of 128 bytes are left out."""
    by_shape: dict[str, list[CtaReport]] = {}
    for r in reports:
        if r.planned.chunks == 8:
            by_shape.setdefault(r.planned.launch.kernel, []).append(r)
    found = []
    for same in by_shape.values():
        many = [r for r in same if r.planned.passes > 1]
        further = [r.part_cycles["between passes"] / (r.planned.passes - 1) for r in many]
        found.append(
            Constants(
                rows=same[0].planned.rows,
                channels=same[0].planned.channels,
                layers=len(same),
                step=[r.step_overhead for r in same],
                barrier=[r.step_overhead * r.planned.steps / max(1, r.barriers) for r in same],
                start=[r.outside - r.part_cycles["between passes"] for r in same],
                further_pass=further,
                step_instructions=[r.instructions["steps"] / r.planned.steps for r in same],
                cta_instructions=[float(sum(r.instructions.values()) - r.instructions["steps"]) for r in same],
            )
        )
    return found


@dataclass(frozen=True)
class Fit:
    """The planner's form with the constants that come closest to the replays of CTAs alone on a multiprocessor:

    cycles = products + halos + taps * tap + barriers * barrier + start + passes * pass_ + outputs * output.

    ``halos``: bytes of the first halo of every pass at the level-2 cache's rate. ``outputs``: pairs of channels that
    a thread writes. ``ratios``: these cycles over the replay's, for each replay.
    """

    tap: float
    barrier: float
    start: float
    pass_: float
    output: float
    ratios: Sequence[float]


def fit(reports: Sequence[CtaReport]) -> Fit:
    """One set of constants for all shapes, by least squares of the relative error; none is negative."""
    terms = np.array([_terms(r) for r in reports])
    known = np.array([r.product_cycles + _halos(r) for r in reports])
    cycles = np.array([r.cycles for r in reports])
    used = list(range(terms.shape[1]))
    while True:
        solved, *_ = np.linalg.lstsq(terms[:, used] / cycles[:, None], (cycles - known) / cycles, rcond=None)
        if solved.min() >= 0:
            break
        used.pop(int(solved.argmin()))
    values = np.zeros(terms.shape[1])
    values[used] = solved
    return Fit(*values.tolist(), ratios=((known + terms @ values) / cycles).tolist())


def _halos(r: CtaReport) -> float:
    return r.planned.passes * r.planned.halo_pixels * 128 / (L2_BYTES_PER_CYCLE * SUB_PARTITIONS)


def _terms(r: CtaReport) -> list[float]:
    p = r.planned
    outputs = p.windows * p.channels / 2 / p.launch.threads
    return [p.steps, r.barriers, 1.0, p.passes, outputs]


def text(found: Iterable[Constants]) -> str:
    """Median of every figure, with the least and the largest."""
    names = ("step", "barrier", "start", "further_pass", "step_instructions", "cta_instructions")
    lines = [f"{'shape':<12}{'layers':>7}" + "".join(f"{name.replace('_', ' '):>24}" for name in names)]
    for c in found:
        cells = []
        for name in names:
            values = getattr(c, name)
            middle = f"{statistics.median(values):,.0f} ({min(values):,.0f}-{max(values):,.0f})" if values else "-"
            cells.append(f"{middle:>24}")
        lines.append(f"{c.rows:>5}x{c.channels:<6}{c.layers:>7}" + "".join(cells))
    return "\n".join(lines)
