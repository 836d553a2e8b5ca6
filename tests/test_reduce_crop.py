"""The range of the front end's values, and the part of them that pooling never sees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.make_models import block, make_model
from support.reduction_checks import FRONTENDS

from fcntag import oracle
from fcntag.reduce import reduce_model
from fcntag.reduce.crop import needed_input
from fcntag.reduce.ranges import input_range


@pytest.mark.parametrize("name", FRONTENDS)
def test_input_range_holds_whatever_is_played(rng: np.random.Generator, name: str) -> None:
    from fcntag.engine import create_engine

    model = make_model(rng, [block(2)], **FRONTENDS[name])
    n = model.document.segments.n_samples
    impulse = np.zeros(n)
    impulse[n // 2] = 1.0
    waves = np.stack([np.zeros(n), rng.uniform(-1, 1, n), np.sin(np.arange(n)), np.ones(n), impulse]).astype(np.float32)
    waves = np.concatenate([waves, 1e-6 * waves, 4.0 * waves])
    low, high = input_range(model.document, model.tensors)
    with create_engine(model, threads=1) as engine:
        for x in (oracle.network_input(model, waves), engine.log_mel(waves)):
            assert low <= x.min()
            assert x.max() <= high


def test_standardized_input_reaches_its_bound(rng: np.random.Generator) -> None:
    model = make_model(rng, [block(2)], normalization="standardize")
    x = np.zeros(model.document.input_size())
    x[3, 3] = 1.0
    peak = (x - x.mean()).max() / x.std()
    assert peak == pytest.approx(input_range(model.document, model.tensors)[1], rel=0.01)
    assert peak <= input_range(model.document, model.tensors)[1]


sizes = st.tuples(st.integers(1, 4), st.integers(1, 4))
chains = st.lists(st.tuples(st.sampled_from([1, 3]), sizes, sizes), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(chains, st.integers(0, 3), st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_cropped_input_gives_the_same_features_to_the_last_bit(
    chain: list[tuple[int, tuple[int, int], tuple[int, int]]], flatten: int, more: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    blocks = [block(2, kernel=k, window=window, stride=stride) for k, window, stride in chain]
    smallest = np.array([1, 1])
    for _, window, stride in reversed(chain):
        smallest = (smallest - 1) * stride + window
    height, width = (int(n) for n in smallest + rng.integers(0, more + 1, 2))
    order = ("chw", "hwc", "max")[flatten % 3]
    frames = max(width, 3)
    model = make_model(rng, blocks, n_mels=height, n_samples=(frames - 1) * 256, flatten=order)
    assert model.document.input_size() == (height, frames)
    x = rng.standard_normal((1, height, frames))
    rows, columns = needed_input(model.document, height, frames)
    want = oracle.features(model, x)
    assert (oracle.features(model, x[:, :rows, :columns]) == want).all()
    poisoned = np.full_like(x, np.nan)
    poisoned[:, :rows, :columns] = x[:, :rows, :columns]
    assert (oracle.features(model, poisoned) == want).all()
    # And no less will do. (Rows between windows are not claimed to be skipped; the last row and column are seen.)
    for last in (np.s_[:, rows - 1, :], np.s_[:, :, columns - 1]):
        poisoned = x.copy()
        poisoned[last] = np.nan
        assert np.isnan(oracle.features(model, poisoned)).any()


def test_input_too_small(rng: np.random.Generator) -> None:
    model = make_model(rng, [block(2, window=(4, 4))])
    with pytest.raises(ValueError, match="3 x 9 is too small"):
        needed_input(model.document, 3, 9)


@pytest.mark.parametrize("framing", ["center", "valid", "same_theano", "same_tensorflow", "pad_end"])
@pytest.mark.parametrize("pad_mode", ["reflect", "constant"])
@pytest.mark.parametrize("layout", ["mel_time", "time_mel"])
@pytest.mark.parametrize("win_length", [0, 300])
def test_samples_after_the_seen_frames_do_not_matter(
    rng: np.random.Generator, framing: str, pad_mode: str, layout: str, win_length: int
) -> None:
    pool = (3, 7) if layout == "mel_time" else (7, 3)
    model = make_model(
        rng,
        [block(3, window=pool)],
        framing=framing,
        pad_mode=pad_mode,
        layout=layout,
        n_samples=4352,
        win_length=win_length,
        win_position="start",
    )
    _, report = reduce_model(model)
    assert report.samples_after < report.samples_before == 4352
    waves = rng.standard_normal((1, 4352))
    rows, columns = report.input_after
    seen = oracle.network_input(model, waves)[:, :rows, :columns]
    waves[:, report.samples_after :] = rng.standard_normal(4352 - report.samples_after)
    assert (oracle.network_input(model, waves)[:, :rows, :columns] == seen).all()
    waves[:, report.samples_after - 2] += 100.0  # the window's own last sample weighs nearly nothing
    assert (oracle.network_input(model, waves)[:, :rows, :columns] != seen).any()


def test_the_first_frame_reads_what_is_reflected_into_its_padding(rng: np.random.Generator) -> None:
    first_frame_only = [block(2, kernel=1, window=(3, 1), stride=(3, 100))]
    model = make_model(rng, first_frame_only, window="hann_reversed")  # its first sample is not 0
    _, report = reduce_model(model)
    assert (report.input_after[1], report.samples_after) == (1, 257)
    waves = rng.standard_normal((1, 4000))
    seen = oracle.network_input(model, waves)[:, :, 0]
    waves[:, 257:] = 0.0
    assert (oracle.network_input(model, waves)[:, :, 0] == seen).all()
    waves[:, 256] += 1000.0
    assert (oracle.network_input(model, waves)[:, :, 0] != seen).any()


def test_a_short_window_that_lies_in_the_padding_needs_a_sample(rng: np.random.Generator) -> None:
    """The first frame's window ends 156 samples in front of the wave."""
    first_frame_only = [block(2, kernel=1, window=(3, 1), stride=(3, 100))]
    model = make_model(rng, first_frame_only, win_length=100, win_position="start", pad_mode="constant")
    _, report = reduce_model(model)
    assert (report.input_after[1], report.samples_after) == (1, 1)


@pytest.mark.parametrize("name", ["db below the maximum", "db, floored", "standardize"])
def test_whole_segment_is_needed_for_its_statistics(rng: np.random.Generator, name: str) -> None:
    model = make_model(rng, [block(3, window=(3, 7))], **FRONTENDS[name])
    _, report = reduce_model(model)
    assert report.input_after != report.input_before
    assert report.samples_after == report.samples_before


def test_a_stride_above_the_window_skips_convolutions(rng: np.random.Generator) -> None:
    model = make_model(rng, [block(4, window=(2, 1), stride=(3, 4))], flatten="max", n_mels=12, n_samples=16 * 256)
    _, report = reduce_model(model)
    assert report.input_before == (12, 17)
    assert report.macs_after == 4 * 2 * 5 * 9 * 4 + 7 * 4
