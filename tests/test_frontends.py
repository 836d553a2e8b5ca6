"""Front ends on every backend against SciPy's transforms, and the oracle against librosa itself."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import scipy.fft
import scipy.signal
from support.make_models import FRONTEND, block, make_model
from support.numerics import SCORES, assert_scores, max_abs, relative_l2
from support.reduction_checks import inputs

from fcntag import demo, oracle
from fcntag.engine import create_engine
from fcntag.errors import ModelError
from fcntag.model import paper
from fcntag.model.document import Frontend, Log
from fcntag.model.file import Model, read_model, write_model
from fcntag.model.filters import mel_filters
from fcntag.reduce import ranges, reduce_model

NO_MEL: dict[str, Any] = dict(n_mels=0, fmin=0.0, fmax=0.0, mel_scale="slaney", mel_norm="none")
STFT: dict[str, Any] = dict(kind="stft", n_bins=128, first_bin=1, merged_bins=1, **NO_MEL)
MFCC: dict[str, Any] = dict(kind="mfcc", n_mels=40, n_mfcc=13, log=Log(kind="db", amin=1e-10, top_db=80.0))
BELOW_MAXIMUM = Log(kind="db", amin=1e-10, ref="max", top_db=80.0)
POOL = block(3, window=(2, 3))

CASES: dict[str, tuple[int, dict[str, Any]]] = {  # n_samples, front end
    "stft, 128 of 256 points": (4001, dict(STFT, n_fft=256, log=BELOW_MAXIMUM, normalization="scalar")),
    "stft, every bin of 256 points": (3333, dict(STFT, n_fft=256, n_bins=129, first_bin=0, layout="time_mel")),
    "stft, pairs of 512 points": (4099, dict(STFT, merged_bins=2, normalization="per_mel")),
    "stft, the lowest bins": (2600, dict(STFT, n_bins=7, first_bin=0, log=Log(kind="log10p1", gain=100.0))),
    "stft, the highest bins, threes": (2817, dict(STFT, n_bins=5, first_bin=242, merged_bins=3)),
    "stft, zeros around": (3001, dict(STFT, n_fft=256, hop_length=99, pad_mode="constant", normalization="per_frame")),
    "stft, unpadded": (3001, dict(STFT, n_fft=256, framing="valid", normalization="standardize")),
    "stft, kapre's frames": (3001, dict(STFT, n_fft=256, framing="same_tensorflow", power_exponent=2)),
    "mfcc": (4001, dict(MFCC)),
    "mfcc of the paper": (25_111, dict(MFCC, n_mels=96, n_mfcc=30, normalization="per_mel")),
    "mfcc, nine frames": (2048 + 255, dict(MFCC, normalization="scalar")),
    "mfcc, all of three bands": (5000, dict(MFCC, n_mels=3, n_mfcc=3, normalization="per_frame")),
    "mfcc below the maximum": (9973, dict(MFCC, log=BELOW_MAXIMUM)),
    "mfcc of log10p1, other frames": (
        7001,
        dict(MFCC, log=Log(kind="log10p1", gain=1e4), hop_length=100, framing="valid", mel_scale="htk"),
    ),
    "mel, 400 points": (4100, dict(n_fft=400, hop_length=200, mel_scale="htk", mel_norm="none")),
    "mel, 2048 points": (9001, dict(n_fft=2048, hop_length=512, n_mels=64, normalization="scalar")),
    "mel, TensorFlow's": (
        4001,
        dict(
            n_fft=512,
            win_length=400,
            win_position="start",
            framing="valid",
            hop_length=160,
            spectrum="magnitude",
            mel_scale="tensorflow",
            mel_norm="none",
            fmin=80.0,
            log=Log(kind="ln", offset=1e-6),
            layout="time_mel",
        ),
    ),
    "mel, TensorFlow's end": (
        3001,
        dict(n_fft=1024, win_length=600, win_position="start", framing="pad_end", log=Log(kind="log1p", gain=1e3)),
    ),
    "mel, an odd length": (3087, dict(n_fft=441, hop_length=147, window="hann_symmetric", log=BELOW_MAXIMUM)),
    "mel, a prime length": (
        4001,
        dict(n_fft=1103, win_length=800, spectrum="magnitude", power_exponent=2, log=Log(kind="none")),
    ),
    "mel, unit sums": (
        3500,
        dict(n_fft=1000, hop_length=250, window="hamming", mel_norm="sum", log=Log(kind="log10", amin=1e-6)),
    ),
    "mel, 256 points": (
        2600,
        dict(n_fft=256, window="hamming_symmetric", n_mels=12, log=Log(kind="log10", amin=1e-8, offset=1e-3)),
    ),
    "mel, every band by itself": (
        3000,
        dict(n_fft=320, hop_length=160, log=Log(kind="db", amin=1e-10), normalization="standardize_per_mel"),
    ),
    "mel, gaps between frames": (4000, dict(n_fft=64, hop_length=100, n_mels=5, normalization="per_frame")),
    "mel, a short window at the start": (
        3000,
        dict(n_fft=768, win_length=90, win_position="start", log=Log(kind="log10p1", gain=1e4)),
    ),
    "stft, twice a prime": (
        2600,
        dict(STFT, n_fft=2 * 67, win_length=77, n_bins=30, hop_length=67, spectrum="magnitude", merged_bins=2),
    ),
    "stft, every band by itself below the maximum": (
        3001,
        dict(STFT, n_fft=300, n_bins=40, log=BELOW_MAXIMUM, normalization="standardize_per_mel", layout="time_mel"),
    ),
    "stft, the longest": (
        20_000,
        dict(STFT, n_fft=8192, hop_length=2048, n_bins=10, first_bin=20, framing="same_tensorflow"),
    ),
    "mfcc of 600 points": (4001, dict(MFCC, n_fft=600, hop_length=200, log=Log(kind="ln", amin=1e-9))),
}


def make(rng: np.random.Generator, case: str) -> Model:
    n_samples, fields = CASES[case]
    size = dataclasses.replace(FRONTEND, **fields)
    last = block(4, window=(1, 1))
    if fields.get("normalization") != "per_frame" and min(size.n_rows // 2, size.n_frames(n_samples) // 3) > 1:
        last = block(4, window=(2, 2))
    first = POOL if size.layout == "mel_time" else block(3, window=(3, 2))
    return make_model(rng, [first, last], n_samples=n_samples, flatten="max", **fields)


def audio(rng: np.random.Generator, batch: int, n_samples: int) -> np.ndarray:
    """Noise, a piece of music, and a tone that ends in silence."""
    noise = rng.uniform(-0.5, 0.5, n_samples)
    music = demo.synthesise(0).reshape(-1)[44100 : 44100 + n_samples]
    tone = 0.8 * np.sin(2 * np.pi * 440 / 16000 * np.arange(n_samples)) * (np.arange(n_samples) < n_samples // 2)
    return np.stack([noise, music, tone])[:batch].astype(np.float32)


def by_scipy(model: Model, wave: np.ndarray) -> np.ndarray:
    """[H, W] of one wave, from SciPy's FFT, DCT and Savitzky-Golay filter."""
    f, n = model.document.frontend, len(wave)
    left = {"center": f.n_fft // 2, "valid": 0, "pad_end": 0, "same_tensorflow": None}[f.framing]
    n_frames = f.n_frames(n)
    total = (n_frames - 1) * f.hop_length + f.n_fft - n
    left = max(total, 0) // 2 if left is None else left
    mode = "reflect" if f.framing == "center" and f.pad_mode == "reflect" else "constant"
    padded = np.pad(wave.astype(np.float64), (left, max(total - left, f.n_fft)), mode=mode)
    shape, _, kind = f.window.partition("_")
    length = f.win_length or f.n_fft
    taper = scipy.signal.get_window(shape, length, fftbins=kind != "symmetric")
    front = (f.n_fft - length) // 2 if f.win_position == "center" else 0
    taper = np.concatenate([np.zeros(front), taper, np.zeros(f.n_fft - length - front)])
    frames = np.stack([padded[t * f.hop_length :][: f.n_fft] * taper for t in range(n_frames)], axis=1)
    power = np.abs(scipy.fft.rfft(frames, axis=0)) ** (1 if f.spectrum == "magnitude" else 2)
    if f.kind == "stft":
        power = power[f.first_bin : f.first_bin + f.n_bins * f.merged_bins]
        power = power.reshape(f.n_bins, f.merged_bins, -1).sum(axis=1)
    else:
        power = (
            mel_filters(
                sample_rate=f.sample_rate,
                n_fft=f.n_fft,
                n_mels=f.n_mels,
                fmin=f.fmin,
                fmax=f.fmax,
                scale=f.mel_scale,
                norm=f.mel_norm,
            )
            @ power
        )
    power = power**f.power_exponent
    if f.log.kind == "log10p1":
        x = np.log10(f.log.gain * power + 1)
    elif f.log.kind != "db":
        above = np.maximum(power, f.log.amin) + f.log.offset
        x = {
            "log1p": lambda: np.log(f.log.gain * power + 1),
            "ln": lambda: np.log(above),
            "log10": lambda: np.log10(above),
            "none": lambda: power,
        }[f.log.kind]()
    else:
        x = 10 * np.log10(np.maximum(power, f.log.amin))
        x = x - x.max() if f.log.ref == "max" else x
        x = x if f.log.top_db is None else np.maximum(x, x.max() - f.log.top_db)
    if f.kind == "mfcc":
        c = scipy.fft.dct(x, type=2, norm="ortho", axis=0)[: f.n_mfcc]
        deltas = [
            scipy.signal.savgol_filter(c, 9, polyorder=k, deriv=k, axis=1, mode="interp", delta=1.0) for k in (1, 2)
        ]
        x = np.concatenate([c, *deltas])
    if f.normalization == "standardize":
        x = (x - x.mean()) / (x.std() + 1e-10)
    elif f.normalization == "standardize_per_mel":
        x = (x - x.mean(axis=1, keepdims=True)) / (x.std(axis=1, keepdims=True) + 1e-10)
    elif f.normalization != "none":
        shape = {"scalar": (1, 1), "per_mel": (-1, 1), "per_frame": (1, -1)}[f.normalization]
        scale, shift = (model.tensors[f"input.{name}"].astype(np.float64).reshape(shape) for name in ("scale", "shift"))
        x = scale * x + shift
    return x if f.layout == "mel_time" else x.T


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_front_ends_match_scipy(backend, rng, case, batch) -> None:
    model = make(rng, case)
    waves = audio(rng, batch, model.document.segments.n_samples)
    ours = backend.log_mel(model, waves)
    expected = np.stack([by_scipy(model, wave) for wave in waves])
    # In dB down to -100, times scales of about 1: float64 throughout (far bins of a tone, 140 dB below it, to 1e-9),
    # or the same rounded to float32 once. On a GPU the DCT sums float32: 40 to 96 values of up to 100.
    gpu = backend.name == "cuda" and model.document.frontend.kind == "mfcc"
    tolerance = 1e-8 if backend.kind == "oracle" else 4e-5 if not gpu else 4e-4
    assert max_abs(ours, expected) <= tolerance * max(1.0, np.abs(expected).max() / 100)
    assert relative_l2(ours, expected) <= (1e-10 if backend.kind == "oracle" else 1e-6)


@pytest.mark.parametrize("case", CASES)
def test_no_waves_give_no_rows(backend, rng, case) -> None:
    model = make(rng, case)
    waves = np.zeros((0, model.document.segments.n_samples), np.float32)
    assert backend.log_mel(model, waves).shape == (0, *model.document.input_size())
    assert backend.scores(model, waves).shape == (0, 7)


@pytest.mark.parametrize("case", CASES)
def test_scores_and_features_match_the_oracle(backend, rng, case) -> None:
    """Through the reduced, cropped network: rows and frames that pooling never sees are not computed everywhere."""
    model = make(rng, case)
    waves = audio(rng, 3, model.document.segments.n_samples)
    scale = max(1.0, float(np.abs(oracle.logits(model, oracle.network_input(model, waves))).max()))
    assert_scores(backend.scores(model, waves), oracle.scores(model, waves), SCORES[backend.kind] * scale, top=1)
    expected = oracle.features(model, oracle.network_input(model, waves))
    assert relative_l2(backend.features(model, waves), expected) <= 1e-5


@pytest.mark.parametrize("layout", ["mel_time", "time_mel"])
def test_a_band_that_never_changes_is_0(rng, layout) -> None:
    """Where ln(amin) is no round number, too: its rounding over 1e-10 would be 3e-5."""
    log = Log(kind="ln", amin=1e-8)
    fields = dict(n_fft=400, hop_length=190, log=log, normalization="standardize_per_mel", layout=layout)
    model = make_model(rng, [block(2)], flatten="max", **fields)
    waves = np.zeros((1, 4000), np.float32)
    assert not oracle.network_input(model, waves).any()
    with create_engine(model) as engine:
        assert not engine.log_mel(waves).any()


def test_a_clip_does_not_depend_on_its_batch(rng) -> None:
    for case in CASES:
        model = make(rng, case)
        waves = audio(rng, 3, model.document.segments.n_samples)
        with create_engine(model, threads=1) as one, create_engine(model, threads=3) as three:
            together = three.log_mel(waves)
            assert np.array_equal(together, one.log_mel(waves))
            for i in range(3):
                assert np.array_equal(together[i : i + 1], three.log_mel(waves[i : i + 1])), case


@pytest.mark.parametrize("case", CASES)
def test_values_lie_in_the_range_that_the_compiler_proves_with(rng, case) -> None:
    model = make(rng, case)
    waves = audio(rng, 3, model.document.segments.n_samples)
    low, high = ranges.input_range(model.document, model.tensors)
    for wave in (waves, 0 * waves, 1e4 * waves):
        x = oracle.network_input(model, wave)
        assert low <= x.min()
        assert x.max() <= high


def test_the_range_of_mfcc_is_tight() -> None:
    """Worked out by hand: one band, whose only coefficient is the value itself."""
    frontend = Frontend(**{**dataclasses.asdict(FRONTEND), **MFCC, "n_mels": 1, "n_mfcc": 1})
    low, high = ranges._mfcc_range(frontend, -80.0, 40.0)
    np.testing.assert_allclose(low[0], -80)
    np.testing.assert_allclose(high[0], 40)
    # A step from the one to the other: 60 (1 + 2 + 3 + 4) / 60 up, 4 x 60 (28 + 7) / 462 = 18.18 at the most.
    np.testing.assert_allclose(high[1], 120 * 10 / 60)
    np.testing.assert_allclose(high[2], 60 * (20 + 2 * (17 + 8 + 7 + 28)) / 462)


@pytest.mark.parametrize("case", ["stft, 128 of 256 points", "mfcc of the paper"])
def test_reduction_is_lossless(rng, case) -> None:
    model = make(rng, case)
    reduced, report = reduce_model(model)
    x = inputs(model, rng)
    assert max_abs(oracle.scores_of(reduced, x), oracle.scores_of(model, x)) <= 1e-9
    assert report.samples_after == report.samples_before  # a maximum, or deltas, need the whole segment


def test_model_files_keep_the_kind(rng, tmp_path) -> None:
    for case in CASES:
        model = make(rng, case)
        write_model(tmp_path / "x.safetensors", model.document, model.tensors)
        assert read_model(tmp_path / "x.safetensors").document == model.document


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("mfcc", {"n_mfcc": 41}, r"document\.frontend\.n_mfcc: 41 is out of range; allowed: 1 to 40"),
        ("mfcc", {"n_mfcc": 0}, r"document\.frontend\.n_mfcc: 0 is out of range"),
        ("mfcc", {"layout": "time_mel"}, r"document\.frontend\.layout: 'time_mel' is not built for kind 'mfcc'"),
        ("mfcc", {"normalization": "standardize"}, r"document\.frontend\.normalization: 'standardize' is not built"),
        (
            "mfcc",
            {"normalization": "standardize_per_mel"},
            r"document\.frontend\.normalization: 'standardize_per_mel' is",
        ),
        ("mel", {"n_fft": 63}, r"document\.frontend\.n_fft: 63 is out of range; allowed: 64 to 8192"),
        ("mfcc", {"n_fft": 8193}, r"document\.frontend\.n_fft: 8193 is out of range; allowed: 64 to 8192"),
        ("mel", {"hop_length": 65537}, r"document\.frontend\.hop_length: 65537 is out of range; allowed: 1 to 65536"),
        ("mel", {"win_length": 513}, r"document\.frontend\.win_length: 513 is out of range; allowed: 1 to 512"),
        ("mel", {"win_length": -1}, r"document\.frontend\.win_length: -1 is out of range; allowed: 1 to 512"),
        (
            "stft",
            {"win_length": 1, "window": "hann_symmetric"},
            r"document\.frontend\.win_length: 1 is out of range; allowed: 2 to 512",
        ),
        (
            "mel",
            {"window": "blackman"},
            r"document\.frontend\.window: 'blackman' is not one of hann, .*, hamming_symmetric",
        ),
        ("mel", {"mel_norm": "area"}, r"document\.frontend\.mel_norm: 'area' is not one of slaney, none, sum"),
        (
            "mel",
            {"log": Log(kind="ln")},
            r"document\.frontend\.log: amin and offset are 0, and silence has no logarithm",
        ),
        ("mel", {"log": Log(kind="log10", offset=-1.0)}, r"document\.frontend\.log\.offset: -1\.0 is out of range"),
        ("mel", {"log": Log(kind="log1p")}, r"document\.frontend\.log\.gain: 0\.0 is out of range"),
        (
            "mel",
            {"log": Log(kind="ln", amin=1e-5, top_db=80.0)},
            r"document\.frontend\.log\.top_db: has no meaning for kind 'ln'; it goes with db",
        ),
        (
            "stft",
            {"log": Log(kind="db", amin=1e-5, offset=1e-6)},
            r"document\.frontend\.log\.offset: has no meaning for kind 'db'; it goes with ln, log10",
        ),
        ("mfcc", {"n_bins": 3}, r"document\.frontend\.n_bins: has no meaning for kind 'mfcc'; it goes with stft"),
        ("stft", {"n_mels": 96}, r"document\.frontend\.n_mels: has no meaning for kind 'stft'; it goes with mel, mfcc"),
        ("stft", {"n_fft": 256, "n_bins": 129}, r"document\.frontend\.n_bins: 129 is out of range; allowed: 1 to 128"),
        ("stft", {"first_bin": 257}, r"document\.frontend\.first_bin: 257 is out of range; allowed: 0 to 256"),
        ("stft", {"merged_bins": 3}, r"document\.frontend\.n_bins: 128 is out of range; allowed: 1 to 85"),
        ("stft", {"merged_bins": 0}, r"document\.frontend\.merged_bins: 0 is out of range"),
        ("mel", {"n_mfcc": 3}, r"document\.frontend\.n_mfcc: has no meaning for kind 'mel'; it goes with mfcc"),
    ],
)
def test_a_wrong_field_is_named(rng, kind, change, message) -> None:
    fields = {"mel": {}, "stft": STFT, "mfcc": MFCC}[kind]
    with pytest.raises(ModelError, match=f"^{message}"):
        make_model(rng, [block(2)], flatten="max", **{**fields, **change})


def test_deltas_need_nine_frames(rng) -> None:
    message = r"document\.segments\.n_samples: 2047 are 8 frames; deltas need 9"
    with pytest.raises(ModelError, match=message):
        make_model(rng, [block(2)], flatten="max", n_samples=2047, **MFCC)
    with pytest.raises(ModelError, match=r"document\.segments\.min_samples: 1000 are 4 frames"):
        make_model(rng, [block(2)], flatten="max", n_samples=4000, min_samples=1000, **MFCC)


def test_a_missing_field_of_the_kind_is_named(rng) -> None:
    from fcntag.model.document import ModelDocument

    for fields, names in ((STFT, ("n_bins", "first_bin", "merged_bins")), (MFCC, ("n_mfcc", "n_mels", "mel_norm"))):
        text = make_model(rng, [block(2)], flatten="max", **fields).document.to_json()
        for name in names:
            tree = json.loads(text)
            del tree["frontend"][name]
            with pytest.raises(ModelError, match=rf"^document\.frontend\.{name}: missing"):
                ModelDocument.from_json(json.dumps(tree))


def test_segments_of_their_own_length(rng) -> None:
    """min_samples: frames, deltas and the end of the reflection follow the segment's own length."""
    for fields in (STFT, MFCC):
        model = make_model(rng, [block(3, window=(2, 3))], flatten="max", n_samples=6000, min_samples=3000, **fields)
        for n_samples in (3000, 4321, 6000):
            waves = audio(rng, 2, n_samples)
            with create_engine(model) as engine:
                scale = np.abs(oracle.logits(model, oracle.network_input(model, waves))).max()
                assert_scores(engine.scores(waves), oracle.scores(model, waves), 1e-5 * max(1.0, scale), top=1)


@pytest.mark.parametrize("name", ["fcn4-stft", "fcn4-mfcc"])
def test_the_paper_s_front_ends_are_librosa_s(rng, name) -> None:
    librosa = pytest.importorskip("librosa", reason="librosa is not installed")
    document = paper.document(name)
    frontend = dataclasses.replace(document.frontend, normalization="none")
    wave = audio(rng, 2, 40_001)[1].astype(np.float64)
    ours = oracle.log_mel(frontend, wave[None])[0]
    options = dict(n_fft=frontend.n_fft, hop_length=256, center=True, pad_mode="reflect")
    if name == "fcn4-stft":
        power = np.abs(librosa.stft(wave, **options)) ** 2
        theirs = librosa.power_to_db(power[1:], ref=np.max)
    else:
        power = librosa.feature.melspectrogram(y=wave, sr=12000, n_mels=96, **options)
        c = librosa.feature.mfcc(S=librosa.power_to_db(power), n_mfcc=30)
        theirs = np.concatenate([c, librosa.feature.delta(c), librosa.feature.delta(c, order=2)])
    assert ours.shape == theirs.shape == (document.frontend.n_rows, 157)
    # librosa keeps its mel filters in float32: 6e-8 of each, so 3e-7 dB
    assert max_abs(ours, theirs) <= (1e-9 if name == "fcn4-stft" else 1e-4)


def test_a_spec_of_convert_takes_every_setting_by_its_name(rng, tmp_path) -> None:
    from fcntag.convert import user_spec

    for case in CASES:
        document = make(rng, case).document
        tree = json.loads(document.to_json())
        spec = {"frontend": tree["frontend"], "segments": tree["segments"], "tags": list(document.tags)}
        (tmp_path / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
        user = user_spec.load("network.onnx", "0" * 64, spec=str(tmp_path / "spec.json"))
        assert user.template().frontend == document.frontend, case
