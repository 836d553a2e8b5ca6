"""Channels that the lossless compiler removes, against the oracle: they change nothing, and those that would stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from support.make_models import block, make_model
from support.numerics import max_abs
from support.reduction_checks import EXACT, check, inputs

from fcntag import oracle
from fcntag.model.file import Model
from fcntag.reduce import reduce_model
from fcntag.reduce.channels import TOLERANCE, reduce_channels
from fcntag.reduce.ranges import channel_ranges, input_range

DENORMAL = np.float32(1e-40)


def plant(
    model: Model, i: int, channel: int, *, bias: float, weight: float = 0.0, scale: float = 1.0, shift: float = 0.0
) -> None:
    """Make a channel of block ``i`` constant, or nearly so if ``weight`` is not 0."""
    model.tensors[f"blocks.{i}.weight"][channel] = weight
    model.tensors[f"blocks.{i}.bias"][channel] = bias
    if f"blocks.{i}.scale" in model.tensors:
        model.tensors[f"blocks.{i}.scale"][channel] = scale
        model.tensors[f"blocks.{i}.shift"][channel] = shift


def removed(report: Any, i: int) -> list[int]:
    return [channel for channel, _ in report.blocks[i].removed]


def three_blocks(
    rng: np.random.Generator, flatten: str = "chw", hidden: Sequence[tuple[int, str]] = (), **options: Any
) -> Model:
    blocks = [
        block(6, window=(2, 2), **options),
        block(8, window=(2, 2), **options),
        block(5, window=(2, 3), **options),
    ]
    return make_model(rng, blocks, flatten=flatten, hidden=hidden)


# ---- constant channels ----


@pytest.mark.parametrize("hidden", [(), ((9, "relu"), (6, "elu"))], ids=["", "hidden"])
@pytest.mark.parametrize("flatten", ["chw", "hwc", "max", "mean"])
@pytest.mark.parametrize("activation", ["relu", "elu", "none"])
@pytest.mark.parametrize("affine", [False, True])
def test_planted_constants_are_found_in_every_block(
    rng: np.random.Generator, flatten: str, activation: str, affine: bool, hidden: Sequence[tuple[int, str]]
) -> None:
    model = three_blocks(rng, flatten, hidden, activation=activation, affine=affine)
    x = inputs(model, rng)
    plant(model, 0, 1, bias=0.7, scale=-2.0, shift=0.3)
    plant(model, 0, 4, bias=-0.4, scale=1.5, shift=-0.2)
    plant(model, 1, 0, bias=0.0, scale=3.0, shift=0.0)
    plant(model, 1, 5, bias=-1.0, scale=-0.5, shift=0.9)
    plant(model, 1, 7, bias=2.0)
    plant(model, 2, 2, bias=0.9, scale=-1.0, shift=0.1)
    plant(model, 2, 3, bias=-0.9, scale=-1.0, shift=0.1)
    for tolerance in (0.0, TOLERANCE):
        reduced, report = check(model, x, tolerance)
        assert [removed(report, i) for i in range(3)] == [[1, 4], [0, 5, 7], [2, 3]]
        assert [b.out_channels for b in reduced.document.blocks] == [5, 6, 4]
        assert report.score_bound == 0.0


@pytest.mark.parametrize("hidden", [((9, "relu"),), ((9, "relu"), (6, "elu"), (3, "none"))], ids=["one", "three"])
def test_scores_and_features_behind_hidden_layers_stay_within_the_bound(
    rng: np.random.Generator, hidden: Sequence[tuple[int, str]]
) -> None:
    """A channel that moves little is taken out only as far as scores and the last hidden layer's output allow."""
    for size in (1e-13, 1e-10, 1e-7, 1e-4):
        model = three_blocks(rng, "chw", hidden)
        plant(model, 1, 3, bias=0.5, weight=size)
        plant(model, 2, 1, bias=0.8, weight=size)
        model.tensors["head.weight"] *= 1e-3  # features move more than scores
        x = inputs(model, rng)
        reduced, report = reduce_channels(model, exact=True)
        assert np.abs(oracle.scores_of(reduced, x) - oracle.scores_of(model, x)).max() <= TOLERANCE
        assert np.abs(oracle.features(reduced, x) - oracle.features(model, x)).max() <= 2 * TOLERANCE
        assert report.score_bound <= TOLERANCE
    assert not any(removed(report, i) for i in range(3))  # the last size is far too much


def test_dead_relu_needs_no_small_weights(rng: np.random.Generator) -> None:
    model = three_blocks(rng)
    x = inputs(model, rng)
    _, high = input_range(model.document, model.tensors)
    for channel in (0, 3):
        model.tensors["blocks.0.weight"][channel] = np.abs(model.tensors["blocks.0.weight"][channel])
        sums = float(model.tensors["blocks.0.weight"][channel].astype(np.float64).sum())
        # dead by a hair, and alive by a hair
        model.tensors["blocks.0.bias"][channel] = -sums * high * (1.0 + (1e-4 if channel == 0 else -1e-4))
    _, report = check(model, x)
    assert removed(report, 0) == [0]
    assert report.blocks[0].dead == 1
    assert not report.blocks[0].carrier, "the constant is 0"


def test_a_channel_that_the_loudest_input_opens_is_kept(rng: np.random.Generator) -> None:
    """The bound is not taken from typical inputs: this channel is 0 for all music, but not for every sound."""
    model = three_blocks(rng)
    low, high = input_range(model.document, model.tensors)
    plant(model, 0, 2, bias=-0.9 * high * 9, weight=1.0)
    reduced, _ = reduce_model(model)
    assert reduced is model
    x = np.full((1, *model.document.input_size()), high)
    assert oracle.blocks(model, x)[0][:, 2].max() > 0
    assert low < 0 < high


def test_constants_that_are_zero_need_no_carrier(rng: np.random.Generator) -> None:
    model = three_blocks(rng)
    for channel in (0, 2, 3):
        plant(model, 1, channel, bias=-0.5)
    reduced, report = check(model, inputs(model, rng))
    assert [b.out_channels for b in reduced.document.blocks] == [6, 5, 5]
    assert not report.blocks[1].carrier
    assert report.blocks[1].dead == 3


def test_the_border_sees_zero_padding_not_the_constant(rng: np.random.Generator) -> None:
    """A constant folded into the next bias would be wrong at the border, by much."""
    model = make_model(rng, [block(4), block(3)])
    plant(model, 0, 1, bias=2.0)
    plant(model, 0, 3, bias=1.0)
    x = inputs(model, rng)
    exact, _ = reduce_channels(model, exact=True)
    want = oracle.blocks(model, x)[1]
    assert max_abs(oracle.blocks(exact, x)[1], want) <= EXACT * np.abs(want).max()
    folded = dict(model.tensors)
    folded["blocks.0.bias"] = np.where(np.isin(np.arange(4), (1, 3)), 0, model.tensors["blocks.0.bias"])
    carried = model.tensors["blocks.1.weight"][:, [1, 3]].sum(axis=(2, 3)) @ np.float32([2, 1])
    folded["blocks.1.bias"] = model.tensors["blocks.1.bias"] + carried
    got = oracle.blocks(dataclasses.replace(model, tensors=folded), x)[1]
    assert max_abs(got[:, :, 1:-1, 1:-1], want[:, :, 1:-1, 1:-1]) <= 1e-5
    assert max_abs(got, want) > 0.01


def test_one_constant_is_left_where_its_carrier_would_cost_as_much(rng: np.random.Generator) -> None:
    model = three_blocks(rng)
    plant(model, 1, 4, bias=0.8)
    reduced, report = reduce_model(model)
    assert reduced is model
    assert removed(report, 1) == []
    assert report.blocks[1].channels_after == 8


def test_constants_chain_through_1x1_blocks(rng: np.random.Generator) -> None:
    model = make_model(rng, [block(5, activation="elu"), block(6, kernel=1, activation="elu", affine=True), block(4)])
    for channel in (0, 1, 4):
        plant(model, 0, channel, bias=0.1 * channel - 0.2)
    live = [2, 3]
    for channel in (1, 2, 5):  # reads constants only
        model.tensors["blocks.1.weight"][channel][live] = 0.0
    _, report = check(model, inputs(model, rng))
    assert removed(report, 0) == [0, 1, 4]
    assert removed(report, 1) == [1, 2, 5]


def test_constants_chain_through_3x3_blocks_where_they_are_zero(rng: np.random.Generator) -> None:
    model = three_blocks(rng)
    for channel in (0, 1, 2):
        plant(model, 0, channel, bias=-0.5)
    model.tensors["blocks.1.weight"][[2, 6]] *= np.isin(np.arange(6), (0, 1, 2))[:, None, None]
    model.tensors["blocks.1.bias"][[2, 6]] = 0.6
    _, report = check(model, inputs(model, rng))
    assert removed(report, 0) == [0, 1, 2]
    assert removed(report, 1) == [2, 6]


def test_a_chained_constant_that_varies_at_the_border_is_kept(rng: np.random.Generator) -> None:
    model = three_blocks(rng)
    for channel in (0, 1, 2):
        plant(model, 0, channel, bias=0.5)
    model.tensors["blocks.1.weight"][[2, 6]] *= np.isin(np.arange(6), (0, 1, 2))[:, None, None]
    model.tensors["blocks.1.bias"][[2, 6]] = 6.0
    x = inputs(model, rng)
    _, report = check(model, x)
    assert removed(report, 0) == [0, 1, 2]
    assert removed(report, 1) == []
    maps = oracle.activate(
        oracle.conv(oracle.blocks(model, x)[0], model.tensors["blocks.1.weight"], model.tensors["blocks.1.bias"]),
        "relu",
    )
    assert np.ptp(maps[:, 2, 1:-1, 1:-1]) < 1e-12 < 0.01 < np.ptp(maps[:, 2])


def test_channels_that_nothing_reads(rng: np.random.Generator) -> None:
    model = three_blocks(rng)
    model.tensors["blocks.1.weight"][:, [0, 5]] = 0.0
    model.tensors["blocks.2.weight"][:, 3] = 1e-25  # read, but not by anything that could matter
    _, report = check(model, inputs(model, rng))
    assert removed(report, 0) == [0, 5]
    assert removed(report, 1) == [3]
    assert (report.blocks[0].unused, report.blocks[1].unused) == (2, 1)
    assert not report.blocks[0].carrier


def test_channels_that_only_dead_channels_read(rng: np.random.Generator) -> None:
    model = three_blocks(rng)
    plant(model, 1, 2, bias=-0.5)
    plant(model, 1, 3, bias=-0.5)
    reads = model.tensors["blocks.1.weight"]
    reads[:, 4] = 0.0
    reads[2, 4] = reads[3, 4] = 1e-3
    model.tensors["blocks.1.bias"][[2, 3]] = -1e9
    _, report = check(model, inputs(model, rng))
    assert removed(report, 1) == [2, 3]
    assert removed(report, 0) == [4]


def test_features_that_the_head_ignores_stay_features(rng: np.random.Generator) -> None:
    model = three_blocks(rng, "max")
    model.tensors["head.weight"][:, 1] = 0.0
    reduced, report = reduce_model(model)
    assert reduced is model
    assert removed(report, 2) == []


@pytest.mark.parametrize(("bias", "last"), [(-0.5, 1), (0.5, 5)])
def test_a_block_without_a_live_channel_keeps_one(rng: np.random.Generator, bias: float, last: int) -> None:
    """Zeros make the next block constant too; other constants do not, because of its borders."""
    model = three_blocks(rng)
    for channel in range(8):
        plant(model, 1, channel, bias=bias)
    reduced, _ = check(model, inputs(model, rng))
    assert [b.out_channels for b in reduced.document.blocks] == [1, 1, last]


def test_nothing_to_reduce_returns_the_model_itself(rng: np.random.Generator) -> None:
    model = make_model(rng, [block(6), block(8)], flatten="max")
    reduced, report = reduce_model(model)
    assert reduced is model
    assert report.lines() == ["nothing to reduce"]
    assert report.macs_after == report.macs_before


# ---- the bound ----


@pytest.mark.parametrize("seed", range(6))
def test_the_change_of_every_score_stays_below_the_proven_bound(seed: int) -> None:
    """Nearly constant channels under a generous tolerance: the change can be measured, so the bound can be wrong."""
    rng = np.random.default_rng(seed)
    activation = ("relu", "elu", "none")[seed % 3]
    flatten = ("chw", "hwc", "max")[seed // 2]
    model = three_blocks(rng, flatten, activation=activation, affine=seed % 2 == 0)
    for i, channels in enumerate(((1, 4), (0, 5, 7), (2, 3))):
        for channel in channels:
            model.tensors[f"blocks.{i}.weight"][channel] *= 10.0 ** -(7 + i)
            model.tensors[f"blocks.{i}.bias"][channel] = 0.5
    exact, report = reduce_channels(model, tolerance=0.05, exact=True)
    assert 0 < report.score_bound <= 0.05
    assert sum(len(b.removed) for b in report.blocks) >= 4
    low, high = input_range(model.document, model.tensors)
    worst = 0.0
    for x in (inputs(model, rng), rng.uniform(low, high, (4, *model.document.input_size()))):
        worst = max(worst, max_abs(oracle.scores_of(exact, x), oracle.scores_of(model, x)))
    assert 1e-13 < worst <= report.score_bound, "nothing moved, or the proof is wrong"


def test_tolerance_is_a_budget_not_a_threshold(rng: np.random.Generator) -> None:
    model = make_model(rng, [block(32), block(3)], flatten="max")
    for channel in range(30):
        plant(model, 0, channel, bias=0.5, weight=1e-9)
    _, everything = reduce_channels(model, tolerance=1.0)
    assert len(everything.blocks[0].removed) == 30
    counts = []
    for part in (0.0, 0.001, 0.3, 0.6, 1.0):
        _, report = reduce_channels(model, tolerance=part * everything.score_bound)
        assert report.score_bound <= part * everything.score_bound
        counts.append(len(report.blocks[0].removed))
    assert counts[:2] == [0, 0]
    assert 0 < counts[2] < counts[3] < counts[4] == 30


@pytest.mark.parametrize("tolerance", [-1e-12, float("nan"), float("inf")])
def test_bad_tolerance(rng: np.random.Generator, tolerance: float) -> None:
    with pytest.raises(ValueError, match="tolerance="):
        reduce_channels(make_model(rng, [block(3)]), tolerance=tolerance)


@pytest.mark.parametrize("activation", ["relu", "elu", "none"])
def test_ranges_hold_every_value(rng: np.random.Generator, activation: str) -> None:
    blocks = [block(6, activation=activation, affine=True), block(4, kernel=1, activation=activation), block(5)]
    model = make_model(rng, blocks)
    low, high = input_range(model.document, model.tensors)
    size = model.document.input_size()
    signs = np.where(model.tensors["blocks.0.weight"][2, 0] > 0, high, low)  # the worst input of channel 2
    patch = np.tile(signs, (size[0] // 3 + 1, size[1] // 3 + 1))[: size[0], : size[1]]
    x = np.stack([rng.uniform(low, high, size), np.full(size, low), np.full(size, high), patch])
    ranges = channel_ranges(model)
    for values, bounds in zip(oracle.blocks(model, x), ranges[1:], strict=True):
        values = values.transpose(1, 0, 2, 3).reshape(values.shape[1], -1)
        assert (values.min(axis=1) >= bounds.low).all()
        assert (values.max(axis=1) <= bounds.high).all()
        assert (np.abs(values - bounds.centre[:, None]).max(axis=1) <= bounds.deviation).all()
    if activation == "none":  # and are no wider than they must be
        first = oracle.conv(x[:, None], model.tensors["blocks.0.weight"], model.tensors["blocks.0.bias"])[:, 2]
        scale, shift = (float(model.tensors[f"blocks.0.{n}"][2]) for n in ("scale", "shift"))
        edge = ranges[1].high[2] if scale > 0 else ranges[1].low[2]
        assert scale * first.max() + shift == pytest.approx(edge, rel=1e-6)


# ---- denormals ----


@pytest.mark.parametrize("flatten", ["chw", "hwc", "max"])
def test_denormal_weights_become_zero(rng: np.random.Generator, flatten: str) -> None:
    model = three_blocks(rng, flatten)
    model.tensors["blocks.0.weight"][0, 0, 1] = DENORMAL
    model.tensors["blocks.1.weight"][2, :, 0, 0] = -DENORMAL
    model.tensors["head.weight"][3, :2] = DENORMAL
    reduced, report = check(model, inputs(model, rng))
    assert report.denormals_flushed == 3 + 6 + 2
    assert 0 < report.score_bound < 1e-25
    assert "denormal weights set to 0: 11" in report.lines()
    for name, array in reduced.tensors.items():
        assert not ((array != 0) & (np.abs(array) < np.finfo(np.float32).smallest_normal)).any(), name


def test_denormal_weights_that_matter_stay(rng: np.random.Generator) -> None:
    """1e-40 times a scale of 1e38 is a hundredth, not nothing."""
    model = make_model(rng, [block(3, affine=True)], flatten="max")
    model.tensors["blocks.0.weight"][1] = DENORMAL
    model.tensors["blocks.0.scale"][1] = 1e38
    reduced, report = reduce_model(model)
    assert reduced is model
    assert report.denormals_flushed == 0


def test_the_original_is_left_alone(rng: np.random.Generator) -> None:
    model = three_blocks(rng, affine=True)
    for channel in (0, 2, 3):
        plant(model, 1, channel, bias=0.5)
    model.tensors["blocks.0.weight"][0, 0, 0, 0] = DENORMAL
    copies = {name: array.copy() for name, array in model.tensors.items()}
    reduced, _ = reduce_model(model)
    assert reduced is not model
    for name, array in model.tensors.items():
        assert (array == copies[name]).all(), name
        assert array.flags.writeable
        assert not np.shares_memory(array, reduced.tensors[name]), name
