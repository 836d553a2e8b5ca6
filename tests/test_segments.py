"""plan_segments: each rule of document.Segments at its edges, by counting samples."""

from __future__ import annotations

import dataclasses
import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcntag.catalogue.store import load_model
from fcntag.errors import AudioError
from fcntag.model.document import Frontend, Segments
from fcntag.pipeline.segments import MAX_WINDOWS, plan_segments


@pytest.fixture(scope="module")
def frontend() -> Frontend:
    return load_model("mtt-vgg").document.frontend  # 16 kHz, hop_length 256


HOP = Segments(rule="hop", n_samples=1000, hop_samples=700, lead=200, trail=100, short="repeat")
CENTER = Segments(rule="center", n_samples=1000, short="zeros")
FIRST = Segments(rule="first", n_samples=1000, short="zeros")
SPREAD = Segments(rule="spread", n_samples=1000, count=4, short="repeat")
NATURAL = Segments(rule="first", n_samples=1000, min_samples=600, short="zeros")


@pytest.mark.parametrize(
    ("n_total", "starts"),
    [
        (700, [-200]),  # exactly one window: 1000 - lead - trail
        (1399, [-200]),  # one sample short of the second
        (1400, [-200, 500]),  # the second ends exactly trail after the track
        (2100, [-200, 500, 1200]),
    ],
)
def test_hop_rule_keeps_every_window_within_lead_and_trail(frontend, n_total, starts):
    plan = plan_segments(HOP, frontend, n_total)
    assert plan.starts == starts
    assert (plan.n_samples, plan.short, plan.warnings) == (1000, None, ())


@pytest.mark.parametrize("n_total", [1, 699])
def test_track_below_one_window_is_completed_with_a_warning(frontend, n_total):
    plan = plan_segments(HOP, frontend, n_total)
    assert (plan.starts, plan.n_samples, plan.short) == ([-200], 1000, "repeat")
    assert len(plan.warnings) == 1
    assert plan.warnings[0].endswith("repeated")


def test_warning_says_both_lengths_in_seconds(frontend):
    segments = load_model("mtt-vgg").document.segments
    (warning,) = plan_segments(segments, frontend, 8000).warnings
    assert warning == "0.5 s is shorter than the model's window of 2.976 s: repeated"
    zeros = dataclasses.replace(CENTER, n_samples=48000)
    assert plan_segments(zeros, frontend, 8000).warnings == (
        "0.5 s is shorter than the model's window of 3.0 s: padded with zeros",
    )


def test_center_rule(frontend):
    assert plan_segments(CENTER, frontend, 1000).starts == [0]
    assert plan_segments(CENTER, frontend, 1001).starts == [0]
    assert plan_segments(CENTER, frontend, 1003).starts == [1]
    short = plan_segments(CENTER, frontend, 999)
    assert (short.starts, short.short) == ([0], "zeros")  # zeros are appended, so the track stays in front


def test_first_rule(frontend):
    assert plan_segments(FIRST, frontend, 5000).starts == [0]
    assert plan_segments(FIRST, frontend, 999).short == "zeros"


def test_spread_rule(frontend):
    assert plan_segments(SPREAD, frontend, 3000).starts == [0, 500, 1000, 1500]
    assert plan_segments(SPREAD, frontend, 1003).starts == [0, 0, 0, 0]
    assert plan_segments(SPREAD, frontend, 999).starts == [0]


def test_natural_length(frontend):
    plan = plan_segments(NATURAL, frontend, 600)
    assert (plan.starts, plan.n_samples, plan.short, plan.warnings) == ([0], 600, None, ())
    assert plan_segments(NATURAL, frontend, 999).n_samples == 999
    assert plan_segments(NATURAL, frontend, 1000).n_samples == 1000
    below = plan_segments(NATURAL, frontend, 599)
    assert (below.n_samples, below.short) == (1000, "zeros")


def test_original_patch_count_of_musicnn(frontend):
    # 30.000 s at 16 kHz: 1876 frames, 10 patches of 187; 2.976 s is the shortest track that the original takes
    segments = load_model("mtt-vgg").document.segments
    assert len(plan_segments(segments, frontend, 480_000).starts) == 10
    assert plan_segments(segments, frontend, 47_616).short is None
    assert plan_segments(segments, frontend, 47_615).short == "repeat"


@pytest.mark.parametrize(
    ("hop_s", "hop"),
    [(0.016, 256), (0.02, 256), (0.03, 512), (1e-9, 256), (1.0, 62 * 256)],  # 62.5 frames round to even
)
def test_hop_is_rounded_to_whole_frames(frontend, hop_s, hop):
    starts = plan_segments(FIRST, frontend, 100_000, hop_s=hop_s).starts
    assert starts[0] == 0
    assert {b - a for a, b in itertools.pairwise(starts)} == {hop}
    assert starts[-1] + 1000 <= 100_000 < starts[-1] + 1000 + hop


def test_hop_overrides_the_hop_rule_and_keeps_lead(frontend):
    assert plan_segments(HOP, frontend, 1400, hop_s=0.016).starts == [-200, 56, 312]


def test_rules_all_center_first(frontend):
    assert plan_segments(CENTER, frontend, 3500, rule="all").starts == [0, 1000, 2000]
    assert plan_segments(HOP, frontend, 2100, rule="all").starts == [-200, 500, 1200]
    assert plan_segments(HOP, frontend, 2100, rule="first").starts == [-200]
    assert plan_segments(HOP, frontend, 2100, rule="center").starts == [550]
    assert plan_segments(HOP, frontend, 2100, rule="default").starts == plan_segments(HOP, frontend, 2100).starts
    assert plan_segments(HOP, frontend, 700, rule="center").starts == [-200]  # whole, though shorter than n_samples


def test_seconds_are_clipped_to_the_track(frontend):
    plan = plan_segments(HOP, frontend, 1400)
    assert plan.start_s == [0.0, 500 / 16000]
    assert plan.end_s == [800 / 16000, 1400 / 16000]


def test_no_samples(frontend):
    with pytest.raises(AudioError, match="no audio samples"):
        plan_segments(HOP, frontend, 0)


def test_limit_on_windows(frontend):
    n_total = 1000 + 256 * (MAX_WINDOWS - 1)
    assert len(plan_segments(FIRST, frontend, n_total, hop_s=0.016).starts) == MAX_WINDOWS
    with pytest.raises(AudioError, match=r"1000001 windows with a hop of 0.016 s; at most 1000000"):
        plan_segments(FIRST, frontend, n_total + 256, hop_s=0.016)


@pytest.mark.parametrize("hop_s", [0, -1.0, float("nan"), float("inf"), "3"])
def test_bad_hop(frontend, hop_s):
    with pytest.raises(ValueError, match="hop"):
        plan_segments(FIRST, frontend, 5000, hop_s=hop_s)


def test_bad_rule_and_hop_with_one_window(frontend):
    with pytest.raises(ValueError, match=r"'middle' is not a rule; allowed: default, center, first, all"):
        plan_segments(FIRST, frontend, 5000, rule="middle")
    with pytest.raises(ValueError, match="no meaning with segments='center'"):
        plan_segments(HOP, frontend, 5000, rule="center", hop_s=1.0)


@given(
    n_total=st.integers(1, 20_000),
    segments=st.sampled_from([HOP, CENTER, FIRST, SPREAD, NATURAL]),
    rule=st.sampled_from([None, "default", "center", "first", "all"]),
)
def test_every_plan_is_sound(n_total, segments, rule):
    frontend = load_model("mtt-vgg").document.frontend
    plan = plan_segments(segments, frontend, n_total, rule=rule)
    assert plan.starts == sorted(plan.starts)
    assert len(plan.starts) >= 1
    assert plan.n_samples == segments.n_samples or segments.min_samples <= plan.n_samples == n_total
    if plan.short is None:
        lead, trail = (segments.lead, segments.trail) if segments.rule == "hop" else (0, 0)
        assert plan.starts[0] >= -lead
        assert plan.starts[-1] + plan.n_samples <= n_total + trail
    else:
        assert len(plan.starts) == len(plan.warnings) == 1
    for start, end in zip(plan.start_s, plan.end_s, strict=True):
        assert 0 <= start < end <= n_total / frontend.sample_rate


def test_hop_of_any_number_type_but_bool(frontend):
    expected = plan_segments(FIRST, frontend, 100_000, hop_s=1.0).starts
    for hop_s in (1, np.float32(1), np.float64(1), np.int64(1), Fraction(1)):
        assert plan_segments(FIRST, frontend, 100_000, hop_s=hop_s).starts == expected
    for hop_s in (True, np.bool_(True), 1e308, 10**400, np.float32("nan"), 1j):
        with pytest.raises(ValueError, match=r"^hop: .* must be a number of seconds above 0, at most 1e\+09$"):
            plan_segments(FIRST, frontend, 100_000, hop_s=hop_s)


def test_dense_is_no_plan_of_windows(frontend) -> None:
    with pytest.raises(ValueError, match="'dense' has no windows to plan"):
        plan_segments(CENTER, frontend, 3500, rule="dense")
