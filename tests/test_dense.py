"""Dense evaluation against the oracle on the whole track, and against windows where those are the same thing."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from support.cli_runner import run
from support.emulated_cuda import installed
from support.make_models import block, make_model
from support.numerics import assert_scores, max_abs

from fcntag import Tagger, catalogue, oracle
from fcntag.engine import CpuEngine, create_engine, dense
from fcntag.engine.dense import dense_scores
from fcntag.errors import AudioError, DeviceError, ModelError
from fcntag.model import paper
from fcntag.model.document import Log, Segments
from fcntag.pipeline.dense_plan import dense_spans, plan_dense

CASES: dict[str, dict[str, Any]] = {
    "one column": dict(blocks=[block(5, window=(2, 2)), block(7, window=(10, 8))]),
    "four columns": dict(blocks=[block(5, window=(2, 2)), block(4, window=(3, 2), activation="elu", affine=True)]),
    "time by mel, channels fastest": dict(
        blocks=[block(5, window=(2, 2), affine=True), block(6, window=(2, 3))], layout="time_mel", flatten="hwc"
    ),
    "maximum": dict(blocks=[block(5, window=(2, 3)), block(33, kernel=1), block(6)], flatten="max"),
    "mean, hidden": dict(blocks=[block(6, window=(2, 3))], flatten="mean", hidden=[(9, "relu")]),
    "hidden": dict(blocks=[block(5, window=(4, 3))], flatten="hwc", hidden=[(8, "elu"), (4, "none")]),
    "overlapping and gapped pools": dict(
        blocks=[block(4, window=(2, 3), stride=(2, 2)), block(6, window=(2, 1), stride=(2, 2)), block(3)]
    ),
    "below the track's maximum": dict(
        blocks=[block(5, window=(2, 4))], log=Log(kind="db", amin=1e-10, ref="max", top_db=80.0)
    ),
    "standardised": dict(blocks=[block(5, window=(2, 4)), block(4)], normalization="standardize"),
    "mfcc": dict(blocks=[block(5, window=(3, 2))], kind="mfcc", n_mfcc=7, normalization="per_mel"),
    "unpadded": dict(blocks=[block(5, window=(2, 2))], framing="valid", normalization="scalar"),
}


def make(rng: np.random.Generator, name: str):
    return make_model(rng, **{"flatten": "chw", **CASES[name]})


@pytest.mark.parametrize("chunk", [4096, 1])  # frames of a part: all in one, or three windows and less
@pytest.mark.parametrize("name", CASES)
def test_matches_the_oracle_on_the_whole_track(rng, monkeypatch, name, chunk) -> None:
    monkeypatch.setattr(dense, "CHUNK_FRAMES", chunk)
    model = make(rng, name)
    for n_total in (4000, 4001, 4255, 29_999, 65_537):
        wave = rng.uniform(-0.5, 0.5, n_total).astype(np.float32)
        x = oracle.network_input(model, wave[None])
        expected = oracle.dense(model, x)
        with create_engine(model) as engine:
            scores = dense_scores(engine, wave)
        inner = np.clip(expected, 1e-9, 1 - 1e-9)
        scale = max(1.0, float(np.abs(np.log(inner) - np.log1p(-inner)).max()))  # the largest logit
        assert scores.dtype == np.float32
        assert_scores(scores, expected, 1e-5 * scale, top=1)
        plan = plan_dense(model.document, n_total)
        assert len(scores) == plan.n_positions == len(dense_spans(model.document, n_total)[0])


@pytest.mark.parametrize("name", [name for name in CASES if name != "maximum"])
def test_parts_that_are_cut_wrong_would_be_found(rng, monkeypatch, name) -> None:
    """Columns that an inner edge's zeros reach are dropped for a reason: kept, they are far off."""
    model = make(rng, name)
    monkeypatch.setattr(dense, "CHUNK_FRAMES", 1)
    wave = rng.uniform(-0.5, 0.5, 40_000).astype(np.float32)
    expected = oracle.dense(model, oracle.network_input(model, wave[None]))
    with create_engine(model) as engine:
        monkeypatch.setattr(dense, "_reached", lambda document, axis: 0)
        assert max_abs(dense_scores(engine, wave), expected) > 1e-4


@pytest.mark.parametrize("layout", ["mel_time", "time_mel"])
def test_equals_windows_where_nothing_pads(rng, layout) -> None:
    chain = [block(5, kernel=1, window=(2, 2)), block(4, kernel=1, window=(3, 3))]
    model = make_model(rng, chain, n_samples=512 + 256 * 29, framing="valid", layout=layout)
    plan = plan_dense(model.document, 30_000)
    assert plan.step_frames == 6
    wave = rng.uniform(-0.5, 0.5, 30_000).astype(np.float32)
    starts = [p * 6 * 256 for p in range(plan.n_positions)]
    assert starts[-1] + model.document.segments.n_samples <= 30_000 < starts[-1] + 6 * 256 + 512 + 256 * 29
    windows = np.stack([wave[s : s + model.document.segments.n_samples] for s in starts])
    with create_engine(model) as engine:
        assert_scores(dense_scores(engine, wave), engine.scores(windows), 1e-6, top=1)


def test_a_track_of_one_window_is_that_window(rng) -> None:
    for name in CASES:
        model = make(rng, name)
        wave = rng.uniform(-0.5, 0.5, 4000).astype(np.float32)
        with create_engine(model) as engine:
            assert_scores(dense_scores(engine, wave), engine.scores(wave[None]), 1e-5, top=1)


def test_zeros_that_belong_around_a_track(rng) -> None:
    """A hop rule's lead and trail are part of the track, and positions are told in the track's own time."""
    model = make_model(rng, [block(3, window=(2, 4))])
    segments = Segments(rule="hop", n_samples=4000, hop_samples=1000, lead=300, trail=500, short="zeros")
    model = dataclasses.replace(model, document=dataclasses.replace(model.document, segments=segments).validate())
    wave = rng.uniform(-0.5, 0.5, 9000).astype(np.float32)
    expected = oracle.dense(model, oracle.network_input(model, np.pad(wave, (300, 500))[None]))
    with create_engine(model) as engine:
        assert_scores(dense_scores(engine, wave), expected, 1e-5, top=1)
    starts, ends = dense_spans(model.document, 9000)
    assert len(starts) == len(expected) == 6
    assert starts[:2] == [0.0, (4 * 256 - 300) / 16000]
    assert ends[0] == 3700 / 16000
    assert max(ends) <= 9000 / 16000


def test_published_models(rng) -> None:
    """mtt-vgg at its own step, as near to its windows as borders allow."""
    model = catalogue.load_model("mtt-vgg")
    wave = rng.uniform(-0.5, 0.5, 16000 * 12).astype(np.float32)
    with create_engine(model) as engine:
        scores = dense_scores(engine, wave)
        starts, ends = dense_spans(model.document, len(wave))
        assert scores.shape == (len(starts), 50)
        assert np.isfinite(scores).all()
        assert ends[-1] <= 12.0
        middle = len(starts) // 2
        at = round(starts[middle] * 16000)
        window = wave[at : at + model.document.segments.n_samples]
        assert 1e-7 < max_abs(scores[middle], engine.scores(window[None])[0]) < 0.1


def test_results_do_not_depend_on_threads(rng) -> None:
    model = paper.paper_model("fcn3-narrow")
    wave = rng.uniform(-0.5, 0.5, 12000 * 95).astype(np.float32)
    with CpuEngine(model, threads=1) as one, CpuEngine(model, threads=3, max_batch=1) as three:
        scores = dense_scores(one, wave)
        assert len(scores) > 1
        assert np.array_equal(scores, dense_scores(three, wave))


def test_tagger(rng) -> None:
    model = make(rng, "four columns")
    pcm = rng.uniform(-0.5, 0.5, (44100, 2)).astype(np.float32)
    with Tagger(model) as tagger:
        result = tagger.tag(pcm, sample_rate=44100, segments="dense")
        assert result.segments.shape == (len(result.start_s), 7)
        assert len(result.start_s) == len(result.end_s) > 5
        assert result.start_s == sorted(result.start_s)
        assert result.duration_s == pytest.approx(1.0)
        assert max_abs(result.scores, result.segments.mean(axis=0)) <= 1e-6
        short, same, empty = tagger.tag_many(
            [pcm[:4410], pcm, pcm[:0]], sample_rate=44100, segments="dense", on_error="record"
        )
        assert short.error.startswith("<array>: 0.10 s; dense evaluation by random needs at least 0.25 s")
        assert np.array_equal(same.segments, result.segments)
        assert empty.error is not None
        with pytest.raises(ValueError, match=r"hop: 1\.0 has no meaning with segments='dense'"):
            tagger.tag(pcm, sample_rate=44100, segments="dense", hop=1.0)
        with pytest.raises(ValueError, match="'dense' gives scores, not features"):
            tagger.embed(pcm, sample_rate=44100, segments="dense")
    fixed = make_model(rng, [block(3)], normalization="per_frame")
    with Tagger(fixed) as tagger, pytest.raises(ModelError, match="per_frame"):
        tagger.tag(pcm, sample_rate=44100, segments="dense")


def test_command_line(capsys, folder) -> None:
    code, out, _ = run(capsys, "taggram", folder / "good.wav", "--segments", "dense", "-f", "json")
    assert code == 0
    (record,) = json.loads(out)
    starts = [segment["start_s"] for segment in record["segments"]]
    assert len(starts) > 2
    assert np.allclose(np.diff(starts[1:]), np.diff(starts[1:])[0])
    code, out, err = run(capsys, "tag", folder / "short.wav", folder / "good.wav", "--segments", "dense", "-f", "jsonl")
    assert code == 1
    assert "0.50 s; dense evaluation by mtt-vgg needs at least" in err
    assert [json.loads(line)["error"] is None for line in out.splitlines()] == [False, True]
    with pytest.raises(SystemExit):
        run(capsys, "embed", folder / "good.wav", "--segments", "dense")
    assert "invalid choice: 'dense'" in capsys.readouterr().err


def test_what_cannot_be_done_is_said(rng, emulated_core) -> None:
    fixed = make_model(rng, [block(3)], normalization="per_frame")
    wave = np.zeros(9000, np.float32)
    with create_engine(fixed) as engine, pytest.raises(ModelError, match=r"random: .* per_frame .* fixes 16 frames"):
        dense_scores(engine, wave)
    model = make_model(rng, [block(3)])
    with create_engine(model) as engine:
        with pytest.raises(AudioError, match=r"0\.25 s; dense evaluation by random needs at least 0\.25 s"):
            dense_scores(engine, wave[:3999])
        with pytest.raises(ValueError, match=r"wave has shape \(1, 9000\); it must be \[n_samples\]"):
            dense_scores(engine, wave[None])
        with pytest.raises(AudioError, match=r"takes at most 67108864 samples"):
            plan_dense(model.document, 1 << 27)
    message = r"built for the CPU; this model is on emulated:0"
    with installed(emulated_core), create_engine(model, device="cuda", max_batch=1) as engine:
        with pytest.raises(DeviceError, match=message):
            dense_scores(engine, wave)
        assert engine.scores(wave[None, :4000]).shape == (1, 7)
