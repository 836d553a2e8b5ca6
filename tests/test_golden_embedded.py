"""The embedded models on synthetic signals against tests/golden: the numerics where there is no reference material."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import numpy as np
import pytest
from support.numerics import BLOCKS, SCORES, assert_scores, max_abs, relative_l2

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))
from make_golden import FRAMES, MODELS, PATH, piece, signals  # noqa: E402

SIGNALS = ["piece", "silence", "impulses", "square"]
FLOAT32 = 2.0**-24  # inputs, means and norms are stored in it
FLOAT16_STEP_IN_LOG = np.log10(1 + 2.0**-10)  # one step of the rounded mel power, after the log


@functools.cache
def golden() -> dict[str, np.ndarray]:
    with np.load(PATH) as file:
        return {name: file[name] for name in file.files}


@functools.cache
def waves(signal: str) -> np.ndarray:
    return signals(golden()["pcm16"])[signal]


def test_stored_piece_is_the_one_described() -> None:
    # a sine may differ in its last bit between machines: then one sample in many falls to the next integer
    assert np.abs(piece().astype(int) - golden()["pcm16"]).max() <= 1


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("name", ["mtt-vgg", "msd-vgg"])
def test_input(backend, models, name, signal) -> None:
    model = models(name)
    error = np.abs(backend.log_mel(model, waves(signal))[0, FRAMES] - golden()[f"{signal}/{name}/input"])
    error /= float(model.tensors["input.scale"][0])
    # 1e-6: float32 of values up to 4. A power on the edge between two float16 numbers may fall to either side.
    assert np.mean(error > 1e-6) <= 5e-4
    assert error.max() <= FLOAT16_STEP_IN_LOG + 1e-6


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("name", MODELS)
def test_blocks_features_and_scores(backend, models, name, signal) -> None:
    model, g, key = models(name), golden(), f"{signal}/{name}/"
    tolerance = BLOCKS[backend.kind]
    x = backend.log_mel(model, waves(signal))
    maps = [np.asarray(block[0], np.float64) for block in backend.blocks(model, x)]
    first = 0
    for i, block in enumerate(maps):
        channels = slice(first, first + len(block))
        first += len(block)
        norms = g[key + "l2"][channels]
        assert relative_l2(np.sqrt((block**2).sum(axis=(1, 2))), norms) <= tolerance + FLOAT32, f"block {i}"
        rms = float(np.linalg.norm(norms)) / np.sqrt(block.size)  # of the map: a mean may cancel to nothing
        assert max_abs(block.mean(axis=(1, 2)), g[key + "mean"][channels]) <= 10 * tolerance * rms, f"block {i}"
    assert first == len(g[key + "l2"])
    assert relative_l2(backend.features(model, waves(signal))[0], g[key + "features"]) <= tolerance
    # dense: 256 products of features up to 60, so 1e-6 of the features is up to 2e-5 of a logit
    assert max_abs(backend.logits(model, x)[0], g[key + "logits"]) <= {"oracle": 1e-9, "engine": 3e-5}[backend.kind]
    assert_scores(backend.scores(model, waves(signal))[0], g[key + "scores"], SCORES[backend.kind])
