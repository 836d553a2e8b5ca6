"""Dense evaluation of a track: where the positions of its scores lie. ``fcntag.engine.dense`` computes them.

The step between positions is the product of the pools' strides in time. The network fixes it; no setting changes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import AudioError, ModelError
from ..model.document import MAX_SAMPLES
from .segments import SegmentPlan, check_options, plan_segments

if TYPE_CHECKING:
    from ..model.document import ModelDocument


def planner(document: ModelDocument, rule: str | None, hop_s: float | None) -> Callable[[int], SegmentPlan]:
    """A function from a track's length in samples to its plan, by any rule, "dense" included.

    Raises
    ------
    ValueError : ``rule`` or ``hop_s`` is out of range
    ModelError : the model cannot be evaluated densely, and ``rule`` is "dense"
    """
    check_options(rule, hop_s)
    if rule == "dense":
        check_dense(document)
        return lambda n_total: plan_track(document, n_total)
    return lambda n_total: plan_segments(document.segments, document.frontend, n_total, rule=rule, hop_s=hop_s)


@dataclass(frozen=True)
class DensePlan:
    """Where the positions of a track of ``n_total`` samples lie. Frames and samples count from the padded start."""

    n_frames: int  # of the whole track
    n_columns: int  # of the last map, in time
    window_columns: int  # that the head takes
    step_frames: int
    lead: int  # zeros in front of the track, in samples

    @property
    def n_positions(self) -> int:
        return self.n_columns - self.window_columns + 1


def check_dense(document: ModelDocument) -> None:
    """Raise ModelError where the model cannot be evaluated at another length than its window's."""
    if document.frontend.normalization == "per_frame":
        raise ModelError(
            f"{document.name}: dense evaluation needs a network of any length; "
            f"its per_frame normalization fixes {document.frontend.n_frames(document.segments.n_samples)} frames"
        )


def plan_dense(document: ModelDocument, n_total: int) -> DensePlan:
    """The positions of a track of ``n_total`` samples.

    Raises ModelError as :func:`check_dense`, AudioError for a track that is shorter than a window or too long to be
    held at once.
    """
    check_dense(document)
    frontend, segments = document.frontend, document.segments
    lead, trail = (segments.lead, segments.trail) if segments.rule == "hop" else (0, 0)
    n_samples = n_total + lead + trail
    if n_samples < segments.n_samples:
        shortest = (segments.n_samples - lead - trail) / frontend.sample_rate
        given = n_total / frontend.sample_rate
        raise AudioError(f"{given:.2f} s; dense evaluation by {document.name} needs at least {shortest:.2f} s")
    if n_samples > MAX_SAMPLES:
        raise AudioError(
            f"{n_total / frontend.sample_rate:.0f} s; dense evaluation takes at most {MAX_SAMPLES} samples, "
            f"{MAX_SAMPLES / frontend.sample_rate:.0f} s"
        )
    axis = frontend.time_axis
    return DensePlan(
        n_frames=frontend.n_frames(n_samples),
        n_columns=document.map_sizes(n_samples)[-1][axis],
        window_columns=document.map_sizes()[-1][axis],
        step_frames=math.prod(block.pool.stride[axis] for block in document.blocks),
        lead=lead,
    )


def dense_spans(document: ModelDocument, n_total: int) -> tuple[list[float], list[float]]:
    """Start and end of every position in seconds, clipped to a track of ``n_total`` samples."""
    plan, frontend = plan_dense(document, n_total), document.frontend
    starts = [p * plan.step_frames * frontend.hop_length - plan.lead for p in range(plan.n_positions)]
    ends = [start + document.segments.n_samples for start in starts]
    clipped = [[min(max(at, 0), n_total) / frontend.sample_rate for at in edges] for edges in (starts, ends)]
    return clipped[0], clipped[1]


@dataclass(frozen=True)
class TrackPlan(SegmentPlan):
    """For the pipeline: the whole track as one window, and where the positions lie that its scores are of."""

    spans: tuple[list[float], list[float]]

    @property
    def start_s(self) -> list[float]:
        """Start of every position in seconds, clipped to the track."""
        return self.spans[0]

    @property
    def end_s(self) -> list[float]:
        """End of every position in seconds, clipped to the track."""
        return self.spans[1]


def plan_track(document: ModelDocument, n_total: int) -> TrackPlan:
    """The plan of a track of ``n_total`` samples; errors as of :func:`plan_dense`."""
    spans = dense_spans(document, n_total)
    return TrackPlan([0], n_total, n_total, document.frontend.sample_rate, None, (), spans)
