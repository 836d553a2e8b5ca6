"""Front ends in exports equal the oracle, from the waveform and from the rows before normalisation."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from support.cli_runner import run
from support.make_models import block, make_model
from support.numerics import max_abs, relative_l2
from test_frontends import CASES, audio, make

from fcntag import oracle
from fcntag.export import check, export, rows_and_frames
from fcntag.model.document import Log
from fcntag.model.file import Model, write_model
from fcntag.validate import references

FORMATS = (".onnx", ".pt", ".pt2")
WRITTEN = (
    "stft, 128 of 256 points",
    "stft, every bin of 256 points",
    "mfcc",
    "mfcc, nine frames",
    "mel, every band by itself",
)


def signals(rng: np.random.Generator, n_samples: int) -> np.ndarray:
    """Noise, music, a tone that ends in silence, a chirp over all frequencies, silence, and a click at the end."""
    t = np.arange(n_samples)
    chirp = 0.5 * np.sin(np.pi * t * t / (2 * n_samples))
    click = np.where(t == n_samples - 1, 0.9, 0.0)
    return np.concatenate([audio(rng, 3, n_samples), np.stack([chirp, 0.0 * t, click]).astype(np.float32)])


def rows_of(model: Model, waves: np.ndarray) -> np.ndarray:
    """The oracle's rows [B, n_rows, n_frames], not normalised."""
    frontend = dataclasses.replace(model.document.frontend, normalization="none", layout="mel_time")
    return oracle.log_mel(frontend, waves)


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
@pytest.mark.parametrize("case", CASES)
def test_front_ends_equal_the_oracle(rng, case, runtime) -> None:
    model = make(rng, case)
    waves = signals(rng, model.document.segments.n_samples)
    expected = oracle.network_input(model, waves)
    actual = references.make(runtime, model).mel(waves)
    # In dB down to -100. PyTorch: float64 throughout, where the far bins of a tone, 140 dB below it, agree to 1e-8.
    # ONNX: rounded to float32 before it is normalised in float32, three roundings of 6e-8 at most.
    tolerance, relative = (1e-8, 1e-11) if runtime == "torch" else (4e-5, 2e-7)
    assert max_abs(actual, expected) <= tolerance * max(1.0, np.abs(expected).max() / 100)
    assert relative_l2(actual, expected) <= relative


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_a_band_that_never_changes_is_0(rng, runtime) -> None:
    fields = dict(n_fft=400, hop_length=190, log=Log(kind="ln", amin=1e-8), normalization="standardize_per_mel")
    model = make_model(rng, [block(2)], flatten="max", **fields)
    assert not references.make(runtime, model).mel(np.zeros((1, 4000), np.float32)).any()
    constant = np.full((1, *rows_and_frames(model.document)), np.log(1e-8), np.float32)
    assert not check.normalised(model, constant).any()


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("case", WRITTEN)
def test_files_take_waves_or_rows(rng, tmp_path, case, suffix) -> None:
    """Scores of a written file, and that its input without --frontend is what comes before the normalisation."""
    model = make(rng, case)
    waves = signals(rng, model.document.segments.n_samples)
    expected, path = oracle.scores(model, waves), str(tmp_path / f"model{suffix}")
    scale = max(1.0, float(np.abs(oracle.logits(model, oracle.network_input(model, waves))).max()))
    rows = rows_of(model, waves).astype(np.float32)
    assert rows.shape[1:] == rows_and_frames(model.document)
    np.testing.assert_allclose(check.normalised(model, rows), oracle.network_input(model, waves), rtol=1e-5, atol=1e-4)
    for x, frontend in ((waves, True), (rows, False)):
        export(model, path, frontend=frontend)
        (scores,) = check.run_file(path, x)
        assert max_abs(scores, expected) <= 2e-6 * scale  # two small blocks in float32
        assert max_abs(check.run_file(path, x[1:2])[0], scores[1:2]) <= 1e-6 * scale


@pytest.mark.parametrize("n_frames", [9, 10, 40])
def test_deltas_of_polynomials(rng, n_frames) -> None:
    """Exact to the very ends: the slope of a line, the second derivative of a parabola."""
    from fcntag.export.torch import Mfcc, torch

    model = make(rng, "mfcc")
    frontend = dataclasses.replace(model.document.frontend, n_mels=3, n_mfcc=1, framing="valid")
    n_samples = (n_frames - 1) * frontend.hop_length + frontend.n_fft
    segments = dataclasses.replace(model.document.segments, n_samples=n_samples)
    document = dataclasses.replace(model.document, frontend=frontend, segments=segments)
    t = np.arange(n_frames)
    bands = np.stack([np.broadcast_to(values, (3, n_frames)) for values in (3.0 * t - 5.0, 0.25 * t * t)])
    line, parabola = Mfcc(Model(document, {}, "", ""))(torch.from_numpy(bands)).numpy() / np.sqrt(3.0)
    # float64 of values up to 400
    np.testing.assert_allclose(line, [3.0 * t - 5.0, np.full(n_frames, 3.0), np.zeros(n_frames)], atol=1e-11)
    np.testing.assert_allclose(parabola[2], np.full(n_frames, 0.5), atol=1e-11)
    centre = np.clip(t, 4, n_frames - 5)  # the best line of a parabola has its slope in the middle of the nine frames
    np.testing.assert_allclose(parabola[1], 0.5 * centre, atol=1e-11)


@pytest.mark.parametrize("case", ["stft, pairs of 512 points", "mfcc", "mel, every band by itself"])
def test_command_line(capsys, rng, tmp_path, case) -> None:
    model = make(rng, case)
    write_model(tmp_path / "model.safetensors", model.document, model.tensors)
    shape = "{}, {}".format(*rows_and_frames(model.document))
    waves = f"waves [batch, {model.document.segments.n_samples}] at 16000 Hz -> scores"
    for option, told in ((["--frontend"], waves), ([], f"log_mel [batch, {shape}] -> scores")):
        target = tmp_path / "model.onnx"
        code, out, err = run(capsys, "export", tmp_path / "model.safetensors", "--to", target, *option)
        assert (code, out) == (0, "")
        assert told in err
        assert "compared with the engine on random input" in err
