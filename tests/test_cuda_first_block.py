"""The first block on the emulator: it finishes a log-mel whose clip decides its values, and walks over many tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.make_models import block, make_model

from fcntag import oracle
from fcntag.engine.cuda import CudaEngine
from fcntag.model.document import Log
from fcntag.validate import tolerances

pytestmark = pytest.mark.usefixtures("cuda_core")

BELOW_MAXIMUM = Log(kind="db", amin=1e-10, ref="max", top_db=30.0)
FLOORED = Log(kind="db", amin=1e-10, top_db=30.0)
# What a clip decides, in both layouts and with every kind of scale.
FRONTENDS: dict[str, dict[str, Any]] = {
    "reference, floor": dict(log=BELOW_MAXIMUM, normalization="scalar"),
    "reference alone": dict(log=Log(kind="db", amin=1e-10, ref="max"), normalization="none"),
    "floor, each band": dict(log=FLOORED, normalization="per_mel"),
    "reference, each band, by time": dict(log=BELOW_MAXIMUM, normalization="per_mel", layout="time_mel"),
    "floor, each frame": dict(log=FLOORED, normalization="per_frame"),
    "standardised": dict(log=Log(kind="log10p1", gain=1e4), normalization="standardize"),
    "standardised above a floor, by time": dict(log=FLOORED, normalization="standardize", layout="time_mel"),
    "frames of 400": dict(n_fft=400, hop_length=200, log=BELOW_MAXIMUM, normalization="scalar"),
}


def loud_and_quiet(rng: np.random.Generator, batch: int, n_samples: int) -> np.ndarray:
    """Clips whose maxima, means and deviations differ by far: those of another clip would be seen."""
    waves = rng.standard_normal((batch, n_samples)) * np.linspace(0, 1, n_samples) ** 4
    return (waves * 10.0 ** -np.arange(batch)[:, None]).astype(np.float32)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
@pytest.mark.parametrize("frontend", FRONTENDS)
def test_the_network_finishes_the_log_mel_to_the_same_bits(rng, frontend, precision):
    """Scores of waves leave one kernel out, and are those of the log-mel that this kernel finishes."""
    model = make_model(rng, [block(12, window=(2, 3)), block(20, window=(2, 2))], **FRONTENDS[frontend])
    waves = loud_and_quiet(rng, 3, model.document.segments.n_samples)
    with CudaEngine(model, precision=precision, max_batch=4) as engine:
        scores = engine.scores(waves)
        np.testing.assert_array_equal(scores, engine.scores_of(engine.log_mel(waves)))
        np.testing.assert_array_equal(scores, engine.scores(waves))  # a replay finds its counters as they were
        np.testing.assert_array_equal(scores[1:2], engine.scores(waves[1:2]))
        assert not np.array_equal(scores[0], scores[1])
    expected = oracle.scores(model, waves)
    scale = max(1.0, float(np.abs(oracle.logits(model, oracle.network_input(model, waves))).max()))
    np.testing.assert_allclose(scores, expected, atol=scale * tolerances.SCORES[precision], rtol=0)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("window", "size", "channels"),
    [
        ((2, 4), (40, 230), 70),  # several runs of tiles, and channels of two CTAs
        ((3, 5), (31, 131), 12),
        ((4, 1), (64, 37), 33),
        ((1, 1), (20, 23), 8),
        ((24, 1), (24, 40), 8),  # one row of windows
        ((2, 40), (9, 40), 8),  # one column
        ((40, 60), (40, 60), 8),  # one window, more pixels than registers hold
    ],
)
def test_tiles_of_every_form(rng, window, size, channels, precision):
    """Maps that fill no tile, and windows from one pixel to more than a CTA keeps in registers."""
    height, width = size
    model = make_model(rng, [block(channels, window=window)], n_mels=height, n_samples=256 * (width - 1))
    x = rng.standard_normal((3, *model.document.input_size())).astype(np.float32)
    assert x.shape[1:] == size
    with CudaEngine(model, precision=precision, max_batch=4) as engine:
        (plan,) = engine.describe_plan(3)
        found = engine.blocks(x)[0]
        np.testing.assert_array_equal(found[2:], engine.blocks(x[2:])[0])
        assert plan["ctas"] <= 3 * 16  # of the emulated GPU: no more than it holds at a time
    expected = oracle.blocks(model, x)[0]
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error <= {"float32": 3e-6, "bfloat16": 1e-3}[precision]  # inputs and weights in float16, the map in float32


def test_pixels_behind_the_map_are_no_part_of_it(rng):
    """The last row of a patch reads beyond its window: what lies there is finite, and meets weights of zero."""
    model = make_model(rng, [block(8, window=(2, 2))], n_mels=12, n_samples=256 * 20)
    x = rng.standard_normal((1, *model.document.input_size())).astype(np.float32)
    with CudaEngine(model, precision="float16", max_batch=1) as engine:
        assert np.isfinite(engine.blocks(x)[0]).all()
