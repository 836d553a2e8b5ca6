"""mtt-vgg, msd-vgg and msd-vgg-as-shipped against the original musicnn code (TensorFlow 2.15, librosa 0.11)."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
from support.model_fixtures import one_block_errors
from support.numerics import (
    BLOCKS,
    MEL_POWER,
    ONE_BLOCK,
    assert_block,
    assert_rounds_to_float16,
    assert_scores,
    max_abs,
    max_relative,
)

from fcntag.pipeline.segments import plan_segments

PREFIX = {"mtt-vgg": "MTT_vgg", "msd-vgg": "MSD_vgg", "msd-vgg-as-shipped": "MSD_vgg_modelspy"}  # names in the goldens
CLIPS = ["ambient_singularity_nebula", "metal_muldjord_chaos_god", "orch_ardentryst_theme1", "rock_sectoid_feelings"]

# The distance of TensorFlow's own float32 convolutions from float64, from one and the same log-mel: 2.0e-6 on the
# sigmoid over 199 patches, 1.9e-5 on the logits (musicnn-vgg.md section 3), 5e-6 relative L2 on the last maps.
SCORES_FROM_MEL = {"oracle": 2e-6, "engine": 1e-5}
LOGITS_FROM_MEL = {"oracle": 2e-5, "engine": 4e-5}
TENSORFLOW_BLOCKS = 5e-6
# From the waveform: a last-bit difference of the original's float32 STFT moves about 1e-4 of the values by one
# float16 step when the mel power is rounded: 4.3e-6 on the sigmoid (section 3).
SCORES_FROM_WAVE = {"oracle": 5e-6, "engine": 1e-5}
FLOAT16_STEP_IN_LOG = np.log10(1 + 2.0**-10)  # 4.2e-4: one float16 step of the power, after the log
FLIPPED = 5e-4  # share of values that may differ by one step; measured 2.2e-4 at most


@functools.cache
def golden(folder: Path, clip: str) -> dict[str, np.ndarray]:
    with np.load(folder / "golden" / "musicnn" / f"golden_{clip}.npz") as file:
        return {name: file[name] for name in file.files}


def input_from(model, logmel: np.ndarray) -> np.ndarray:
    """The golden's log-mel [H, W], not normalised -> network input [1, H, W]."""
    scale, shift = (model.tensors[f"input.{name}"].astype(np.float64) for name in ("scale", "shift"))
    return (scale * logmel + shift)[None]


def as_nhwc(block: np.ndarray) -> np.ndarray:
    """[1, C, H, W] -> [H, W, C], TensorFlow's order."""
    return block[0].transpose(1, 2, 0)


@pytest.mark.parametrize("clip", CLIPS)
def test_mel_power(backend, models, shared, clip) -> None:
    g = golden(shared, clip)
    power = backend.mel_power(models("mtt-vgg"), g["wave"][None])[0].T
    # librosa computes in float32 with a spectrum of 1e-7 relative noise; every band is far above it here
    assert max_relative(power, g["mel_power"], floor=1e-12) <= MEL_POWER


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("name", PREFIX)
def test_log_mel(backend, models, shared, clip, name) -> None:
    model, g = models(name), golden(shared, clip)
    scale = float(model.tensors["input.scale"][0])
    error = np.abs(backend.log_mel(model, g["wave"][None]) - input_from(model, g["logmel"])) / scale
    assert error.max() <= FLOAT16_STEP_IN_LOG + 2e-6
    assert np.mean(error > 2e-6) <= FLIPPED  # 2e-6: float32 log and normalisation


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("name", PREFIX)
def test_blocks_from_the_mel(backend, models, shared, clip, name) -> None:
    model, g, prefix = models(name), golden(shared, clip), PREFIX[name]
    maps = [as_nhwc(block) for block in backend.blocks(model, input_from(model, g["logmel"]))]
    checked = 0
    for stored, i, step in (
        ("pool1_ch0_8_16", 0, 8),
        ("pool2_ch0_4_8", 1, 4),
        ("pool3", 2, 1),
        ("pool4", 3, 1),
        ("pool5", 4, 1),
    ):
        expected = g.get(f"{prefix}_{stored}")
        if expected is None:
            continue
        checked += 1
        if expected.dtype == np.float16:
            # TensorFlow's float32 error of one value is up to 9.3e-5 (section 3), the rms of a map 0.5 and up
            assert_rounds_to_float16(maps[i][:, :, ::step], expected, slack=2e-4, what=stored)
        else:
            assert_block(maps[i], expected, TENSORFLOW_BLOCKS + BLOCKS[backend.kind], what=stored)
    assert checked == (1 if name == "msd-vgg-as-shipped" else 5)


@pytest.mark.parametrize("name", ["mtt-vgg", "msd-vgg"])
def test_every_channel_of_every_block(backend, models, shared, name) -> None:
    model = models(name)
    full = golden(shared, "fullpools_metal_patch3")
    maps = backend.blocks(model, input_from(model, golden(shared, "metal_muldjord_chaos_god")["logmel"]))
    for i, block in enumerate(maps):
        expected = full[f"{PREFIX[name]}_pool{i + 1}"]
        if expected.dtype == np.float16:
            assert_rounds_to_float16(as_nhwc(block), expected, slack=2e-4, what=f"pool{i + 1}")
        else:
            assert_block(as_nhwc(block), expected, TENSORFLOW_BLOCKS + BLOCKS[backend.kind], what=f"pool{i + 1}")


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("name", PREFIX)
def test_logits_and_scores(backend, models, shared, clip, name) -> None:
    model, g, prefix = models(name), golden(shared, clip), PREFIX[name]
    patch = int(g["patch_index"])
    logits, scores = g[f"{prefix}_logits_all"][patch], g[f"{prefix}_sigmoid_all"][patch]
    x = input_from(model, g["logmel"])
    assert max_abs(backend.logits(model, x)[0], logits) <= LOGITS_FROM_MEL[backend.kind]
    assert_scores(backend.scores_of(model, x)[0], scores, SCORES_FROM_MEL[backend.kind])
    assert_scores(backend.scores(model, g["wave"][None])[0], scores, SCORES_FROM_WAVE[backend.kind])


@pytest.mark.parametrize("name", PREFIX)
def test_track_from_its_samples(backend, models, shared, name) -> None:
    """13 s of PCM: zeros in front of the first frame, four patches, the tail dropped, the mean of the sigmoids."""
    model, g, prefix = models(name), golden(shared, "e2e_metal_muldjord_chaos_god"), PREFIX[name]
    wave = (g["pcm16"] / 32768.0).astype(np.float32)
    plan = plan_segments(model.document.segments, model.document.frontend, len(wave))
    assert plan.starts == [187 * 256 * k - 256 for k in range(int(g["n_patches"]))]
    lead = -plan.starts[0]
    padded = np.concatenate([np.zeros(lead, np.float32), wave])
    waves = np.stack([padded[s + lead : s + lead + plan.n_samples] for s in plan.starts])

    rows = g["logmel_f32"][: 187 * 4].reshape(4, 187, 96)
    scale, shift = float(model.tensors["input.scale"][0]), float(model.tensors["input.shift"][0])
    error = np.abs((backend.log_mel(model, waves) - shift) / scale - rows)
    # this golden's log-mel was kept without the float16 rounding: half a step away, a whole one where it flipped
    assert error.max() <= FLOAT16_STEP_IN_LOG
    assert np.mean(error > FLOAT16_STEP_IN_LOG / 2 + 2e-6) <= FLIPPED

    scores = backend.scores(model, waves)
    assert_scores(scores, g[f"{prefix}_sigmoid"], SCORES_FROM_WAVE[backend.kind])
    assert_scores(scores.mean(axis=0), g[f"{prefix}_mean"], SCORES_FROM_WAVE[backend.kind])


@pytest.mark.parametrize("name", PREFIX)
def test_each_block_of_the_engine(models, shared, name) -> None:
    model = models(name)
    x = input_from(model, golden(shared, "metal_muldjord_chaos_god")["logmel"])
    for i, error in enumerate(one_block_errors(model, x)):
        assert error <= ONE_BLOCK, f"block {i}"


@pytest.mark.parametrize("name", PREFIX)
def test_only_frames_to_160_and_bands_to_93_are_seen(models, shared, name) -> None:
    """Floor pooling drops the rest (section 6): poison there changes nothing, poison one step inside comes through."""
    from fcntag import oracle

    model = models(name)
    x = input_from(model, golden(shared, "rock_sectoid_feelings")["logmel"])
    clean = oracle.logits(model, x)
    x[:, 161:, :] = np.nan
    x[:, :, 94:] = np.nan
    np.testing.assert_array_equal(oracle.logits(model, x), clean)
    for index in ((0, 160, 0), (0, 0, 93)):
        poisoned = x.copy()
        poisoned[index] = np.nan
        assert np.isnan(oracle.logits(model, poisoned)).any()
