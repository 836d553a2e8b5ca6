"""Which windows of a track go through the network: the rules of ``document.Segments``, in samples at the model's rate.

A plan is a list of window starts and one window length. Windows may begin before the track or end after it: what
lies outside is zeros (or, for ``short == "repeat"``, the track again).
"""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import Literal

from ..errors import AudioError
from ..model.document import Frontend, Segments

Rule = Literal["default", "center", "first", "all", "dense"]
RULES: tuple[Rule, ...] = ("default", "center", "first", "all", "dense")
# 1e6 windows of 50 scores are 200 MB of results: above it the hop is a mistake (seconds taken for samples), not a wish.
MAX_WINDOWS = 1_000_000
MAX_HOP_S = 1e9  # 30 years; its product with any rate is a number


@dataclass(frozen=True)
class SegmentPlan:
    """The windows of one track. Samples and seconds count from the first sample of the track."""

    starts: list[int]  # ascending; may be negative
    n_samples: int  # length of every window
    n_total: int  # length of the track that was planned for
    sample_rate: int
    # How a window is completed where the track (shorter than one window) ends; None where the track is long enough.
    short: Literal["zeros", "repeat"] | None
    warnings: tuple[str, ...]

    @property
    def start_s(self) -> list[float]:
        """Start of every window in seconds, clipped to the track."""
        return [self._seconds(start) for start in self.starts]

    @property
    def end_s(self) -> list[float]:
        """End of every window in seconds, clipped to the track."""
        return [self._seconds(start + self.n_samples) for start in self.starts]

    def _seconds(self, sample: int) -> float:
        return min(max(sample, 0), self.n_total) / self.sample_rate


def plan_segments(
    segments: Segments,
    frontend: Frontend,
    n_total: int,
    *,
    rule: str | None = None,
    hop_s: float | None = None,
) -> SegmentPlan:
    """Plan the windows of a track of ``n_total`` samples at ``frontend.sample_rate``.

    Parameters
    ----------
    segments, frontend : the model's document
    n_total : int > 0, samples at the model's rate
    rule : "default" or None: the model's own rule; "center": one window in the middle; "first": one at the start;
        "all": the whole track, window after window (hop = one window where the model's own rule has no hop)
    hop_s : float > 0, seconds between windows, rounded to whole frames (at least one). Overrides the rule's hop;
        with the model's own rule or "all" only. Models without a hop then start at 0.

    Raises
    ------
    AudioError : no samples, or more than MAX_WINDOWS windows
    ValueError : unknown rule, hop not a number above 0, hop with "center" or "first"; "dense", which knows no windows
        (``fcntag.pipeline.dense_plan`` plans it)
    """
    check_options(rule, hop_s)
    if rule == "dense":
        raise ValueError("segments: 'dense' has no windows to plan")
    if n_total <= 0:
        raise AudioError("no audio samples")
    lead, trail = (segments.lead, segments.trail) if segments.rule == "hop" else (0, 0)
    starts, fits = _starts(segments, frontend, n_total, rule, hop_s, lead, trail)
    n_samples = segments.n_samples
    short: Literal["zeros", "repeat"] | None = None
    warnings: tuple[str, ...] = ()
    if not fits:
        if segments.min_samples and n_total >= segments.min_samples:
            starts, n_samples = [0], n_total
        else:
            starts, short = [-lead], segments.short
            rate = frontend.sample_rate
            how = "repeated" if short == "repeat" else "padded with zeros"
            warnings = (
                f"{_show_s(n_total / rate)} s is shorter than the model's window of "
                f"{_show_s((segments.n_samples - lead - trail) / rate)} s: {how}",
            )
    return SegmentPlan(starts, n_samples, n_total, frontend.sample_rate, short, warnings)


def check_options(rule: str | None, hop_s: float | None) -> None:
    """Raise ValueError where ``rule`` or ``hop_s`` is not what ``plan_segments`` takes."""
    if rule is not None and rule not in RULES:
        raise ValueError(f"segments: {rule!r} is not a rule; allowed: {', '.join(RULES)}")
    if hop_s is not None:
        if isinstance(hop_s, bool) or not isinstance(hop_s, numbers.Real) or not 0 < hop_s <= MAX_HOP_S:
            raise ValueError(f"hop: {hop_s!r} must be a number of seconds above 0, at most {MAX_HOP_S:g}")
        if rule == "dense":
            raise ValueError(f"hop: {hop_s!r} has no meaning with segments='dense': the network's strides are its step")
        if rule in ("center", "first"):
            raise ValueError(f"hop: {hop_s!r} has no meaning with segments={rule!r}, which is one window")


def _starts(
    segments: Segments,
    frontend: Frontend,
    n_total: int,
    rule: str | None,
    hop_s: float | None,
    lead: int,
    trail: int,
) -> tuple[list[int], bool]:
    """Window starts, and whether the track is long enough for one whole window."""
    length = segments.n_samples
    room = n_total + lead + trail - length
    kind = segments.rule if rule in (None, "default", "all") else rule
    if hop_s is not None or rule == "all":
        kind = "hop"
    if kind == "center":
        # within lead and trail, so that a track that holds one window of the model's own rule holds this one too
        return [min(max((n_total - length) // 2, -lead), n_total + trail - length)], room >= 0
    if kind == "first":
        return [-lead], room >= 0
    if kind == "spread":
        step = (n_total - length) // segments.count
        return [k * step for k in range(segments.count)], n_total >= length
    hop = segments.hop_samples if segments.rule == "hop" else length
    if hop_s is not None:
        hop_length = frontend.hop_length
        # a fraction of a frame would change every frame of the window, and so make no two windows comparable
        hop = max(1, round(float(hop_s) * frontend.sample_rate / hop_length)) * hop_length
    if room < 0:
        return [], False
    count = 1 + room // hop
    if count > MAX_WINDOWS:
        raise AudioError(f"{count} windows with a hop of {hop / frontend.sample_rate:g} s; at most {MAX_WINDOWS}")
    return [k * hop - lead for k in range(count)], True


def _show_s(seconds: float) -> str:
    """Seconds for a message: one decimal, more where the two sides of a comparison would look alike or zero."""
    return f"{seconds:.1f}" if round(seconds, 1) == round(seconds, 4) else f"{seconds:.4g}"
