"""Choi's taggers against the original code: published predictions, real Keras on Theano, and a float64 reference.

The goldens' scores are float64 from unfolded tensors, so the oracle's unfolded path must give them to rounding; models
of the catalogue (folded in float64, stored as float32) to ``numerics.SCORES``.
"""

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
    SCORES,
    assert_block,
    assert_scores,
    max_abs,
    relative_l2,
)
from support.originals import COMPACT_POOLS, FCN5_POOLS, KerasFile, Norm, read_keras

R1 = "choi2016-fcn5-narrow"
R4 = "choi2016-fcn5-narrow-v2"
COMPACT = "choi2017-compact"
KERAS2 = "choi2017-compact-keras2"
UNFOLDED = 1e-12  # float64 against float64: only the order of the sums differs
STORED_FLOAT32 = 2.0**-24  # goldens of maps and mels that were rounded to float32: half an ulp
# float32 results of real Keras on Theano, away from float64: choi.md section 2
REAL_KERAS = {"1.0.5": 3.2e-7, "1.0.6": 5.8e-7, "1.0.7": 7.4e-7, "1.0.8": 4.0e-7, "1.2.2": 6e-7}
# Keras release -> (rule of the running_std of the input's batch-norm, rule inside the blocks, epsilon)
RULES = {
    "1.0.5": ("std", "k105", 1e-6),
    "1.0.6": ("std", "k105", 1e-6),
    "1.0.7": ("k107", "k107", 1e-6),
    "1.0.8": ("k11", "k11", 1e-5),
}


@functools.cache
def golden(shared: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(shared / "golden" / "choi" / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


@functools.cache
def original(shared: Path, file: str) -> KerasFile:
    return read_keras(shared / "weights" / file)


def r1(shared: Path) -> KerasFile:
    return original(shared, "choi2016/R1_weights_best.hdf5")


def compact(shared: Path) -> KerasFile:
    return original(shared, "choi2017/C_weights_theano.hdf5")


def frozen(g: dict[str, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(g[f"frozen_mean{i}"], g[f"frozen_var{i}"]) for i in range(1, 6)]


def normalise_frames(x: np.ndarray, norm: Norm, rule: str, eps: float) -> np.ndarray:
    """The input batch-norm of FCN-5: over time, [B, 96, 1366], before any padding."""
    from fcntag import oracle

    gamma, beta, mean = (a.astype(np.float64) for a in (norm.gamma, norm.beta, norm.mean))
    return gamma * (x - mean) / oracle.denominator(norm.spread, eps, rule) + beta  # type: ignore[arg-type]


def unfolded(file: KerasFile, pools, x, *, eps, rule, stats=None):
    """Through the original tensors; ``stats``: (mean, var) of each block, None: those of the batch."""
    from fcntag import oracle

    stats = stats or [(None, None)] * len(pools)
    raw = [
        oracle.RawBlock(weight=w, bias=b, gamma=n.gamma, beta=n.beta, pool=pool, mean=mean, var=var)
        for w, b, n, pool, (mean, var) in zip(file.weights, file.biases, file.norms, pools, stats, strict=True)
    ]
    return oracle.batch_statistics_scores(raw, file.head_weight, file.head_bias, x, eps=eps, rule=rule)


@functools.cache
def published_batch(shared: Path):
    """The four published tracks in one batch, as Keras 1.0.5 ran them."""
    mels = golden(shared, "golden_mels_bensound")["mels"]
    return unfolded(
        r1(shared), FCN5_POOLS, normalise_frames(mels, r1(shared).input_norm, "std", 1e-6), eps=1e-6, rule="k105"
    )


def check_blocks(maps, g, tolerance, track=0) -> None:
    """Each block [B, C, H, W] against what a golden stores of it: some channels whole, mean and L2 of all."""
    for i, block in enumerate(maps, start=1):
        block = np.asarray(block[track], dtype=np.float64)
        assert block.shape == tuple(g[f"block{i}_shape"])
        every = int(g.get(f"block{i}_every", 1))
        rounding = STORED_FLOAT32 if g[f"block{i}"].dtype == np.float32 else 0.0
        assert_block(block[::every], g[f"block{i}"], tolerance + rounding, what=f"block {i}")
        assert relative_l2(np.sqrt((block**2).sum(axis=(1, 2))), g[f"block{i}_chan_l2"]) <= tolerance
        # a mean is a sum with cancellation: its error is measured against the map's rms, not against itself
        rms = np.sqrt(np.mean(block**2))
        assert max_abs(block.mean(axis=(1, 2)), g[f"block{i}_chan_mean"]) <= 10 * tolerance * rms


# ---- front ends, on the licence-free synthetic signal ----


def synth(shared: Path, n_samples: int) -> np.ndarray:
    return (golden(shared, "synth_wave")["pcm16"][None, :n_samples] / 32768.0).astype(np.float32)


def test_synthetic_signal_is_the_one_of_the_goldens(shared) -> None:
    import hashlib

    g, pcm = golden(shared, "golden_frontend"), golden(shared, "synth_wave")["pcm16"]
    assert hashlib.sha256(pcm.tobytes()).hexdigest() == str(g["synth_sha256"])
    np.testing.assert_array_equal(pcm[:64], g["synth_first64"])


FRONT_ENDS = {R1: "mel_fcn_synth", COMPACT: "mel_kapre_theano_synth", KERAS2: "mel_kapre_tensorflow_synth"}


def in_decibels(model, x: np.ndarray) -> np.ndarray:
    """Undo the model's per-frame normalisation of [B, 96, n_frames], in float64."""
    if model.document.frontend.normalization != "per_frame":
        return np.asarray(x, dtype=np.float64)
    return (x - model.tensors["input.shift"].astype(np.float64)) / model.tensors["input.scale"].astype(np.float64)


@pytest.mark.parametrize("name", [R1, COMPACT])
def test_log_mel(backend, models, shared, name) -> None:
    model = models(name)
    db = in_decibels(model, backend.log_mel(model, synth(shared, model.document.segments.n_samples)))
    # golden: float64, stored as float32 (4e-6 dB); engine: float32 dB, or float32 after an affine of up to 13 per dB
    assert (
        max_abs(db[0], golden(shared, "golden_frontend")[FRONT_ENDS[name]])
        <= {"oracle": 5e-6, "engine": 2e-5}[backend.kind]
    )


def test_log_mel_standardised_over_the_track(backend, models, shared) -> None:
    model = models(KERAS2)
    db = golden(shared, "golden_frontend")[FRONT_ENDS[KERAS2]].astype(np.float64)
    expected = (db - db.mean()) / (db.std() + 1e-10)
    x = backend.log_mel(model, synth(shared, model.document.segments.n_samples))[0]
    assert max_abs(x, expected) <= {"oracle": 5e-7, "engine": 2e-6}[backend.kind]  # 5e-6 and 2e-5 dB, by a std of 15 dB


@pytest.mark.parametrize("name", [R1, COMPACT, KERAS2])
def test_mel_power(backend, models, shared, name) -> None:
    """Before log, floor and reference: only the bins that the golden's 80 dB keep can be compared."""
    model = models(name)
    frontend, db = model.document.frontend, golden(shared, "golden_frontend")[FRONT_ENDS[name]].astype(np.float64)
    power = backend.mel_power(model, synth(shared, model.document.segments.n_samples))[0]
    expected = 10.0 ** (db / 10.0 / frontend.power_exponent)
    if frontend.log.ref == "max":
        expected *= power.max()
    above = db > db.min() + 1e-3
    assert above.mean() > 0.1
    # the golden is float32 dB: 2e-6 dB at most, 4e-7 of the power
    assert np.max(np.abs(power - expected)[above] / expected[above]) <= MEL_POWER


def test_mel_filters_are_the_originals(shared) -> None:
    from fcntag.model.filters import mel_filters

    filters = mel_filters(sample_rate=12000, n_fft=512, n_mels=96, fmin=0, fmax=6000, scale="slaney", norm="slaney")
    stored = golden(shared, "golden_frontend")["melbank"]
    assert max_abs(filters, stored) <= STORED_FLOAT32 * float(stored.max())


# ---- the published system (R1): true batch statistics, in the oracle only ----


def test_published_predictions_from_batch_statistics(shared) -> None:
    g, result = golden(shared, "golden_fcn5_R1"), published_batch(shared)
    assert max_abs(result.scores, g["y_batch4_k105"]) <= UNFOLDED
    assert_scores(result.scores, g["real_keras1.0.5_theano_batch4"], 1e-6)
    for i, (mean, var) in enumerate(result.stats, start=1):
        assert relative_l2(mean, g[f"frozen_mean{i}"]) <= UNFOLDED
        # the golden's variance came out of one pass, E[x^2] - E[x]^2, which cancels
        assert relative_l2(var, g[f"frozen_var{i}"]) <= 1e-10
    track = list(golden(shared, "golden_mels_bensound")["tracks"]).index(str(g["block_track"]))
    check_blocks(result.maps, g, UNFOLDED, track)


@pytest.mark.parametrize("version", RULES)
@pytest.mark.parametrize("batch", [4, 1])
def test_each_keras_release_by_its_own_rule(shared, version, batch) -> None:
    first, rule, eps = RULES[version]
    mels = golden(shared, "golden_mels_bensound")["mels"]
    x = normalise_frames(mels, r1(shared).input_norm, first, eps)
    g = golden(shared, "golden_fcn5_R1")
    y = np.concatenate(
        [unfolded(r1(shared), FCN5_POOLS, x[i : i + batch], eps=eps, rule=rule).scores for i in range(0, 4, batch)]
    )
    assert_scores(y, g[f"real_keras{version}_theano_batch{batch}"], REAL_KERAS[version])
    if (version, batch) == ("1.0.5", 1):
        assert max_abs(y, g["y_instance_k105"]) <= UNFOLDED


def test_running_std_as_a_variance(shared) -> None:
    mels = golden(shared, "golden_mels_bensound")["mels"]
    x = normalise_frames(mels, r1(shared).input_norm, "k11", 1e-6)
    y = unfolded(r1(shared), FCN5_POOLS, x, eps=1e-6, rule="k11").scores
    assert max_abs(y, golden(shared, "golden_fcn5_R1")["y_batch4_k11var"]) <= UNFOLDED


def test_tensorflow_file_is_the_theano_file_rotated(shared) -> None:
    other = original(shared, "choi2016/R1tf_cnn_weights_tensorflow.hdf5")
    for mine, theirs in zip(r1(shared).weights, other.weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("statistics", ["frozen4", "instance"])
def test_r1_on_the_synthetic_signal_unfolded(shared, statistics) -> None:
    g = golden(shared, "golden_fcn5_R1")
    x = normalise_frames(golden(shared, "golden_frontend")["mel_fcn_synth"][None], r1(shared).input_norm, "std", 1e-6)
    stats = frozen(g) if statistics == "frozen4" else None
    y = unfolded(r1(shared), FCN5_POOLS, x, eps=1e-6, rule="k105", stats=stats).scores[0]
    assert max_abs(y, g[f"y_{statistics}_synth"]) <= UNFOLDED


# ---- the published system, frozen: one track at a time, oracle and engine ----


def per_frame(model, mels: np.ndarray) -> np.ndarray:
    """Golden dB mels [B, 96, 1366] -> network input by the model's tensors, float64."""
    return mels * model.tensors["input.scale"].astype(np.float64) + model.tensors["input.shift"].astype(np.float64)


@pytest.mark.parametrize("track", range(4))
def test_published_predictions_one_track_at_a_time(backend, models, shared, track) -> None:
    model, g = models(R1), golden(shared, "golden_fcn5_R1")
    x = per_frame(model, golden(shared, "golden_mels_bensound")["mels"][track : track + 1])
    assert_scores(backend.scores_of(model, x)[0], g["y_batch4_k105"][track], SCORES[backend.kind])


def test_r1_frozen_blocks(backend, models, shared) -> None:
    model, g = models(R1), golden(shared, "golden_fcn5_R1")
    track = list(golden(shared, "golden_mels_bensound")["tracks"]).index(str(g["block_track"]))
    x = per_frame(model, golden(shared, "golden_mels_bensound")["mels"][track : track + 1])
    check_blocks(backend.blocks(model, x), g, BLOCKS[backend.kind])


def test_r1_from_the_waveform(backend, models, shared) -> None:
    model = models(R1)
    y = backend.scores(model, synth(shared, 349440))[0]
    assert_scores(y, golden(shared, "golden_fcn5_R1")["y_frozen4_synth"], SCORES[backend.kind])


# ---- R4: stored running statistics, standardised input ----


def test_r4_scores_and_blocks(backend, models, shared) -> None:
    model, g = models(R4), golden(shared, "golden_fcn5_R4")
    mels = golden(shared, "golden_mels_bensound")
    x = per_frame(model, mels["mels"])
    assert_scores(backend.scores_of(model, x), g["y_std_input_running"], SCORES[backend.kind])
    assert_scores(backend.scores_of(model, x), g["real_keras1.0.6_theano_std_input_batch1"], SCORES[backend.kind])
    track = list(mels["tracks"]).index(str(g["block_track"]))
    check_blocks(backend.blocks(model, x[track : track + 1]), g, BLOCKS[backend.kind])


def test_r4_from_the_waveform(backend, models, shared) -> None:
    model = models(R4)
    y = backend.scores(model, synth(shared, 349440))[0]
    assert_scores(y, golden(shared, "golden_fcn5_R4")["y_std_input_running_synth"], SCORES[backend.kind])


def test_r4_unfolded(shared) -> None:
    file, g = original(shared, "choi2016/R4_music_tagger_cnn_weights_theano.h5"), golden(shared, "golden_fcn5_R4")
    mean, deviation = g["mu_sd"].astype(np.float32)
    # the golden standardised its float32 mels in float32; in float64 the scores move by 1e-8
    standardised = (golden(shared, "golden_mels_bensound")["mels"] - mean) / deviation
    x = normalise_frames(standardised, file.input_norm, "std", 1e-6)
    stats = [(norm.mean, norm.spread) for norm in file.norms]
    result = unfolded(file, FCN5_POOLS, x, eps=1e-6, rule="std", stats=stats)
    assert max_abs(result.scores, g["y_std_input_running"]) <= UNFOLDED
    check_blocks(
        result.maps, g, UNFOLDED, list(golden(shared, "golden_mels_bensound")["tracks"]).index(str(g["block_track"]))
    )


# ---- compact (C) and its 160 features ----


def features160(result) -> np.ndarray:
    return np.concatenate([block.mean(axis=(2, 3)) for block in result.maps], axis=1)


def test_compact_by_instance_statistics(shared) -> None:
    """Batch of 1 with its own statistics: how the original's main.py calls it."""
    g = golden(shared, "golden_compact")
    track = list(g["tracks"]).index(str(g["block_track"]))
    result = unfolded(compact(shared), COMPACT_POOLS, g["mel"][None], eps=1e-3, rule="k11")
    assert max_abs(result.scores[0], g["y_instance"][track]) <= UNFOLDED
    assert max_abs(features160(result)[0], g["feat160_instance"][track]) <= UNFOLDED
    assert max_abs(result.scores[0], g["real_keras122_theano_y_batch1"][track]) <= REAL_KERAS["1.2.2"]
    assert (
        max_abs(features160(result)[0], g["real_keras122_theano_feat160_batch1"][track]) <= 1.6e-6
    )  # choi.md section 7
    check_blocks(result.maps, g, UNFOLDED)


@pytest.mark.parametrize("statistics", ["frozen4", "instance"])
def test_compact_on_the_synthetic_signal_unfolded(shared, statistics) -> None:
    g = golden(shared, "golden_compact")
    mel = golden(shared, "golden_frontend")["mel_kapre_theano_synth"][None]
    stats = frozen(g) if statistics == "frozen4" else None
    result = unfolded(compact(shared), COMPACT_POOLS, mel, eps=1e-3, rule="k11", stats=stats)
    assert max_abs(result.scores[0], g[f"y_{statistics}_synth"]) <= UNFOLDED
    if statistics == "instance":
        # this golden was made from the float64 mel, whose float32 copy is 2e-6 dB off
        assert max_abs(features160(result)[0], g["feat160_instance_synth"]) <= 1e-6


def test_compact_frozen(backend, models, shared) -> None:
    """One track by frozen statistics gives what the batch of four gave: scores, features, and blocks of the oracle."""
    model, g = models(COMPACT), golden(shared, "golden_compact")
    track = list(g["tracks"]).index(str(g["block_track"]))
    x = g["mel"][None].astype(np.float64)
    assert_scores(backend.scores_of(model, x)[0], g["y_batch4_trackref"][track], SCORES[backend.kind])
    maps = backend.blocks(model, x)
    reference = unfolded(compact(shared), COMPACT_POOLS, x, eps=1e-3, rule="k11", stats=frozen(g)).maps
    for i, (block, expected) in enumerate(zip(maps, reference, strict=True)):
        assert_block(block, expected, BLOCKS[backend.kind], what=f"block {i}")
    means = np.concatenate([np.asarray(block, np.float64).mean(axis=(2, 3)) for block in maps], axis=1)
    assert relative_l2(means[0], g["feat160_batch4"][track]) <= BLOCKS[backend.kind]


def test_compact_from_the_waveform(backend, models, shared) -> None:
    model, g = models(COMPACT), golden(shared, "golden_compact")
    waves = synth(shared, 348000)
    assert_scores(backend.scores(model, waves)[0], g["y_frozen4_synth"], SCORES[backend.kind])
    mel = golden(shared, "golden_frontend")["mel_kapre_theano_synth"][None]
    expected = features160(unfolded(compact(shared), COMPACT_POOLS, mel, eps=1e-3, rule="k11", stats=frozen(g)))
    features = backend.features(model, waves, "blocks")
    assert features.shape == (1, 160)
    assert relative_l2(features, expected) <= 2 * BLOCKS[backend.kind]  # the mel's float32 adds its own share


# ---- compact, Keras 2: stored statistics, standardised per track ----


def test_keras2_scores_and_blocks(backend, models, shared) -> None:
    model, g = models(KERAS2), golden(shared, "golden_keras2compact")
    track = list(g["tracks"]).index(str(g["block_track"]))
    mel = g["mel"][None].astype(np.float64)
    x = (mel - mel.mean()) / (mel.std() + 1e-10)
    assert_scores(backend.scores_of(model, x)[0], g["y"][track], SCORES[backend.kind])
    check_blocks(backend.blocks(model, x), g, BLOCKS[backend.kind])


def test_keras2_from_the_waveform(backend, models, shared) -> None:
    model = models(KERAS2)
    y = backend.scores(model, synth(shared, 348000))[0]
    assert_scores(y, golden(shared, "golden_keras2compact")["y_synth"], SCORES[backend.kind])


def test_keras2_unfolded(shared) -> None:
    file, g = original(shared, "choi2017/K2_model_best.hdf5"), golden(shared, "golden_keras2compact")
    mel = g["mel"][None].astype(np.float64)
    x = (mel - mel.mean()) / (mel.std() + 1e-10)
    stats = [(norm.mean, norm.spread) for norm in file.norms]
    result = unfolded(file, COMPACT_POOLS, x, eps=1e-3, rule="k11", stats=stats)
    assert max_abs(result.scores[0], g["y"][list(g["tracks"]).index(str(g["block_track"]))]) <= UNFOLDED
    check_blocks(result.maps, g, UNFOLDED)


def golden_input(model, shared: Path) -> np.ndarray:
    """Network input [1, H, W] of a real track, from its golden mel."""
    if model.document.frontend.normalization == "per_frame":
        return per_frame(model, golden(shared, "golden_mels_bensound")["mels"][-1:])
    mel = golden(shared, "golden_compact")["mel"][None].astype(np.float64)
    standardized = model.document.frontend.normalization == "standardize"
    return (mel - mel.mean()) / mel.std() if standardized else mel


@pytest.mark.parametrize("name", [R1, R4, COMPACT, KERAS2])
def test_each_block_of_the_engine(models, shared, name) -> None:
    model = models(name)
    x = golden_input(model, shared)
    for i, error in enumerate(one_block_errors(model, x)):
        assert error <= ONE_BLOCK, f"block {i}"
