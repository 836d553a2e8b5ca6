"""The lossless compiler on the published models, with the oracle and the engine, and its report."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.numerics import max_abs
from support.reduction_checks import EXACT, ROUNDED, check, inputs

from fcntag import oracle
from fcntag.model.file import Model
from fcntag.reduce import reduce_model
from fcntag.reduce.channels import TOLERANCE, reduce_channels

# name: channels after (carrier included), (H, W) seen, samples seen, multiply-adds before and after in millions.
# Without carriers these are the channels and counts measured on the originals.
PUBLISHED: dict[str, tuple[list[int], tuple[int, int], int, float, float]] = {
    "mtt-vgg": ([91, 89, 113, 115, 128], (161, 94), 41472, 885.1, 368.7),
    "msd-vgg": ([50, 54, 89, 82, 128], (161, 94), 41472, 885.1, 144.9),
    "msd-vgg-as-shipped": ([50, 54, 89, 82, 128], (161, 94), 41472, 885.1, 141.6),
    "won2020-fcn-msd": ([41, 82, 122, 128, 64], (96, 1685), 431360, 2154.3, 937.7),
    "won2020-fcn-mtat": ([64, 128, 128, 128, 64], (96, 1685), 431360, 2154.3, 1992.9),
}
UNCHANGED = ["choi2016-fcn5-narrow", "choi2016-fcn5-narrow-v2", "choi2017-compact", "choi2017-compact-keras2"]


def music(model: Model, path: Path) -> np.ndarray:
    """One segment [1, n_samples] from the middle of a track."""
    from fcntag.audio import open_track

    rate, n_samples = model.document.frontend.sample_rate, model.document.segments.n_samples
    with open_track(path) as track:
        start = max(0, (track.length(rate) - n_samples) // 2)
        return np.stack(list(track.windows(rate, [start], n_samples)))


def synthetic(model: Model, rng: np.random.Generator) -> np.ndarray:
    """Chords with a beat and a little noise [1, n_samples]: it has silence, tones and onsets."""
    n, rate = model.document.segments.n_samples, model.document.frontend.sample_rate
    t = np.arange(n) / rate
    chord = sum(np.sin(2 * np.pi * f * t) / k for k, f in enumerate((110.0, 220.0, 277.2, 329.6, 2093.0), 1))
    return (0.2 * chord * (t % 0.5 < 0.3) + 0.01 * rng.standard_normal(n)).astype(np.float32)[None]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models(models: Callable[[str], Model], rng: np.random.Generator, name: str) -> None:
    from fcntag.engine import create_engine

    model = models(name)
    x = np.concatenate([oracle.network_input(model, synthetic(model, rng)), inputs(model, rng, 1)])
    reduced, report = check(model, x, rounded=ROUNDED)
    channels, seen, samples, before, after = PUBLISHED[name]
    assert [b.out_channels for b in reduced.document.blocks] == channels
    assert (report.input_after, report.samples_after) == (seen, samples)
    assert (report.macs_before / 1e6, report.macs_after / 1e6) == pytest.approx((before, after), abs=0.05)
    rows, columns = seen
    assert max_abs(oracle.features(model, x[:, :rows, :columns]), oracle.features(model, x)) == 0.0
    with create_engine(model, threads=2) as full, create_engine(reduced, threads=2) as small:
        x = x.astype(np.float32)
        assert max_abs(small.scores_of(x), full.scores_of(x)) <= 2e-6
        # Elementwise rounding is relative to the map's size, not to the value's
        features = full.blocks(x)[-1]
        restored = report.blocks[-1].restore(small.blocks(x)[-1])
        assert max_abs(restored, features) <= 1e-5 * np.abs(features).max()


@pytest.mark.parametrize("name", ["mtt-vgg", "msd-vgg", "won2020-fcn-msd"])
@pytest.mark.parametrize("track", ["metal-muldjord-chaos_god.ogg", "piano-openmsx-moo_solo.flac"])
def test_published_models_on_music(models: Callable[[str], Model], shared: Path, name: str, track: str) -> None:
    model = models(name)
    x = oracle.network_input(model, music(model, shared / "music" / track))
    want = oracle.scores_of(model, x)
    for tolerance, exact, allowed in ((0.0, True, EXACT), (TOLERANCE, True, EXACT), (TOLERANCE, False, ROUNDED)):
        reduced, _ = reduce_channels(model, tolerance=tolerance, exact=exact)
        assert max_abs(oracle.scores_of(reduced, x), want) <= allowed


def test_dropping_the_constants_would_not_be_lossless(models: Callable[[str], Model], rng: np.random.Generator) -> None:
    """The carrier is needed: without it the scores of mtt-vgg move."""
    model = models("mtt-vgg")
    x = oracle.network_input(model, synthetic(model, rng))
    reduced, report = reduce_channels(model)
    tensors = dict(reduced.tensors)
    for i, part in enumerate(report.blocks):
        if part.carrier:
            tensors[f"blocks.{i}.bias"] = np.append(tensors[f"blocks.{i}.bias"][:-1], np.float32(0))
    dropped = dataclasses.replace(reduced, tensors=tensors)
    assert max_abs(oracle.scores_of(dropped, x), oracle.scores_of(model, x)) > 1e-7


@pytest.mark.parametrize("name", UNCHANGED)
def test_models_without_anything_to_remove(models: Callable[[str], Model], name: str) -> None:
    model = models(name)
    reduced, report = reduce_model(model)
    assert reduced is model
    assert all(b.channels_after == b.channels_before for b in report.blocks)
    assert report.macs_after < report.macs_before, "floor pooling drops columns of every one of them"


# ---- the report ----


def test_report(models: Callable[[str], Model]) -> None:
    model = models("mtt-vgg")
    reduced, report = reduce_model(model)
    assert report.lines() == [
        "block 0: 128 -> 91 channels (35 dead, 3 constant, 1 carrier added)",
        "block 1: 128 -> 89 channels (40 dead, 1 carrier added)",
        "block 2: 128 -> 113 channels (16 dead, 1 carrier added)",
        "block 3: 128 -> 115 channels (14 dead, 1 carrier added)",
        "input: 187 x 96 -> 161 x 94; pooling never sees the rest",
        "samples of a segment: 48128 -> 41472",
        "multiply-adds of a segment: 885.1 -> 368.7 million",
        "proven change of any score, before rounding: at most 5e-11",
    ]
    data = json.loads(json.dumps(report.to_dict()))
    assert data["input_after"] == [161, 94]
    assert data["blocks"][0] == {
        "channels_before": 128,
        "channels_after": 91,
        "dead": 35,
        "constant": 3,
        "unused": 0,
        "carrier": True,
    }
    assert (reduced.document.name, reduced.sha256, reduced.path) == (model.document.name, model.sha256, model.path)
    assert reduced.document.validate() == reduced.document
    assert all(array.flags.c_contiguous and not array.flags.writeable for array in reduced.tensors.values())
