"""The oracle against a second, independent computation: np.fft, index arithmetic and einsum, on random inputs."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections.abc import Iterable

import numpy as np
import pytest
from support.numerics import assert_unpoisoned, poisoned

from fcntag import oracle
from fcntag.model.document import Block, Dense, Frontend, Head, Log, ModelDocument, Pool, Segments, Source
from fcntag.model.file import Model
from fcntag.model.filters import mel_filters

MUSICNN = Frontend(
    kind="mel",
    sample_rate=16000,
    n_fft=512,
    hop_length=256,
    framing="valid",
    pad_mode="constant",
    window="hann",
    n_mels=96,
    fmin=0.0,
    fmax=8000.0,
    mel_scale="slaney",
    mel_norm="slaney",
    power_exponent=1,
    rounding="float16",
    log=Log(kind="log10p1", gain=10000.0),
    normalization="scalar",
    layout="time_mel",
)
PLAIN = dataclasses.replace(
    MUSICNN, rounding="none", log=Log(kind="db", amin=1e-10), normalization="none", layout="mel_time"
)


# ---- front end ----


def naive_frames(wave: np.ndarray, frontend: Frontend) -> np.ndarray:
    """Frames [n_frames, n_fft] of one wave, sample by sample, from the document's words."""
    n, hop = len(wave), frontend.hop_length
    if frontend.framing == "center":
        count, left = 1 + n // hop, 256
    elif frontend.framing == "valid":
        count, left = 1 + (n - 512) // hop, 0
    else:
        count = math.ceil(n / hop)
        left = 256 if frontend.framing == "same_theano" else max((count - 1) * hop + 512 - n, 0) // 2
    reflect = frontend.framing == "center" and frontend.pad_mode == "reflect"
    out = np.zeros((count, 512))
    for t in range(count):
        for k in range(512):
            i = t * hop - left + k
            if reflect:
                i = -i if i < 0 else 2 * (n - 1) - i if i >= n else i
            if 0 <= i < n:
                out[t, k] = wave[i]
    return out


def naive_power(wave: np.ndarray, frontend: Frontend) -> np.ndarray:
    taper = np.array([math.sin(math.pi * k / 512) ** 2 for k in range(512)])  # = 0.5 - 0.5 cos(2 pi k / 512)
    if frontend.window == "hann_reversed":
        taper = taper[::-1]
    spectrum = np.abs(np.fft.rfft(naive_frames(wave, frontend) * taper)) ** 2
    filters = mel_filters(
        sample_rate=frontend.sample_rate,
        n_fft=512,
        n_mels=frontend.n_mels,
        fmin=frontend.fmin,
        fmax=frontend.fmax,
        scale=frontend.mel_scale,
        norm=frontend.mel_norm,
    )
    return np.einsum("mk,tk->mt", filters, spectrum)


FRAMINGS: Iterable[tuple[dict, int]] = [  # (fields, n_samples): what is special
    ({"framing": "center", "pad_mode": "constant"}, 3000),
    ({"framing": "center", "pad_mode": "reflect"}, 3001),
    ({"framing": "center", "pad_mode": "reflect"}, 512),  # the shortest window: both edges reflected in one frame
    ({"framing": "valid"}, 512),  # one frame
    ({"framing": "valid"}, 1279),  # 255 samples never used
    ({"framing": "valid", "hop_length": 100}, 1111),
    ({"framing": "same_theano", "window": "hann_reversed"}, 2048),
    ({"framing": "same_theano"}, 2049),
    ({"framing": "same_tensorflow"}, 2048),
    ({"framing": "same_tensorflow", "pad_mode": "reflect"}, 2300),  # pad_mode is center's only: zeros here
    ({"framing": "same_tensorflow", "hop_length": 512}, 1024),  # nothing to pad
    ({"framing": "center", "mel_scale": "htk", "mel_norm": "none", "n_mels": 17, "fmin": 100.0, "fmax": 5000.0}, 1500),
]


@pytest.mark.parametrize("case", FRAMINGS, ids=str)
def test_mel_power(case, rng) -> None:
    fields, n_samples = case
    frontend = dataclasses.replace(PLAIN, **fields)
    waves = rng.uniform(-1, 1, (2, n_samples))
    power = oracle.mel_power(frontend, waves)
    assert power.shape == (2, frontend.n_mels, frontend.n_frames(n_samples))
    for mine, wave in zip(power, waves, strict=True):
        np.testing.assert_allclose(mine, naive_power(wave, frontend), rtol=1e-11)


def test_a_tone_peaks_in_its_own_band(rng) -> None:
    frontend = dataclasses.replace(PLAIN, framing="center")
    for hz in (440.0, 1000.0, 3500.0):
        wave = 0.5 * np.sin(2 * np.pi * hz * np.arange(4096) / 16000)
        band = oracle.mel_power(frontend, wave[None])[0, :, 8].argmax()
        filters = mel_filters(sample_rate=16000, n_fft=512, n_mels=96, fmin=0, fmax=8000, scale="slaney", norm="slaney")
        nearest = filters[:, round(hz * 512 / 16000)].argmax()
        assert abs(int(band) - int(nearest)) <= 1


def test_dynamic_range_is_that_of_float64() -> None:
    """A tone on a bin leaves its far bins at rounding level, so a floor 200 dB down is the signal's, not the DFT's."""
    wave = np.sin(2 * np.pi * 100 / 512 * np.arange(512 * 8))
    power = oracle.mel_power(dataclasses.replace(PLAIN, mel_scale="htk", mel_norm="none"), wave[None])[0]
    assert power[:10].max() < 1e-20 * power.max()


def test_log_rules_on_numbers_worked_by_hand() -> None:
    power = np.array([[[1.0, 100.0, 0.0, 1e-12]]])
    db = {"kind": "db", "amin": 1e-10}
    cases = [
        (Log(**db), [0.0, 20.0, -100.0, -100.0]),
        (Log(**db, ref="max"), [-20.0, 0.0, -120.0, -120.0]),
        (Log(**db, top_db=80.0), [0.0, 20.0, -60.0, -60.0]),
        (Log(**db, ref="max", top_db=80.0), [-20.0, 0.0, -80.0, -80.0]),
        (Log(kind="log10p1", gain=99.0), [2.0, math.log10(9901), 0.0, math.log10(1 + 99e-12)]),
    ]
    for log, expected in cases:
        np.testing.assert_allclose(oracle.log_compress(log, power), [[expected]], rtol=1e-12, atol=1e-25)


def test_peak_and_floor_belong_to_each_segment(rng) -> None:
    frontend = dataclasses.replace(PLAIN, framing="center", log=Log(kind="db", amin=1e-10, ref="max", top_db=60.0))
    waves = rng.uniform(-1, 1, (2, 2000)) * np.array([[1.0], [1e-3]])
    both = oracle.log_mel(frontend, waves)
    np.testing.assert_array_equal(both[1], oracle.log_mel(frontend, waves[1:])[0])
    np.testing.assert_array_equal(both.max(axis=(1, 2)), [0.0, 0.0])


def test_power_exponent_is_inside_the_log(rng) -> None:
    waves = rng.uniform(-1, 1, (1, 2000))
    once = dataclasses.replace(PLAIN, framing="center", log=Log(kind="db", amin=1e-30))
    squared = dataclasses.replace(once, power_exponent=2)
    np.testing.assert_allclose(oracle.log_mel(squared, waves), 2 * oracle.log_mel(once, waves), rtol=1e-12)


def test_float16_rounding(rng) -> None:
    """To nearest even with subnormals kept: 10 bits of mantissa, and 2**-24 steps at the bottom."""
    waves = rng.uniform(-1, 1, (1, 4096)) * np.geomspace(1.0, 1e-4, 4096)
    log = Log(kind="log10p1", gain=1.0)
    frontend = dataclasses.replace(PLAIN, framing="valid", rounding="float16", log=log)
    rounded = 10.0 ** oracle.log_mel(frontend, waves)[0] - 1.0
    power = oracle.mel_power(frontend, waves)[0]
    step = 2.0 ** np.maximum(np.floor(np.log2(power)) - 10, -24)
    expected = np.rint(power / step) * step  # np.rint goes to even
    np.testing.assert_allclose(rounded, expected, rtol=0, atol=1e-15 * max(1.0, power.max()))
    assert power.min() < 2.0**-14 < power.max()  # both kinds were there
    assert np.count_nonzero(rounded != power) > 0.9 * power.size


def test_float16_saturates_where_the_original_overflowed() -> None:
    wave = 1e4 * np.sin(2 * np.pi * 1000 / 16000 * np.arange(2048))
    frontend = dataclasses.replace(PLAIN, framing="valid", rounding="float16")
    assert oracle.mel_power(frontend, wave[None]).max() > 1e6
    assert oracle.log_mel(frontend, wave[None]).max() == 10 * np.log10(65504.0)


@pytest.mark.parametrize("layout", ["mel_time", "time_mel"])
@pytest.mark.parametrize("normalization", ["none", "scalar", "per_mel", "per_frame", "standardize"])
def test_normalization_and_layout(rng, normalization, layout) -> None:
    frontend = dataclasses.replace(PLAIN, framing="center", normalization=normalization, layout=layout, n_mels=20)
    waves = rng.uniform(-1, 1, (2, 1300))
    plain = oracle.log_mel(dataclasses.replace(frontend, normalization="none", layout="mel_time"), waves)
    n_frames = frontend.n_frames(1300)
    scale = shift = None
    if normalization == "standardize":
        expected = np.stack([(x - np.mean(x)) / (math.sqrt(np.mean((x - np.mean(x)) ** 2)) + 1e-10) for x in plain])
    elif normalization == "none":
        expected = plain
    else:
        length = {"scalar": 1, "per_mel": 20, "per_frame": n_frames}[normalization]
        scale, shift = rng.standard_normal((2, length))
        expected = np.empty_like(plain)
        for m in range(20):
            for t in range(n_frames):
                i = {"scalar": 0, "per_mel": m, "per_frame": t}[normalization]
                expected[:, m, t] = plain[:, m, t] * scale[i] + shift[i]
    if layout == "time_mel":
        expected = np.swapaxes(expected, 1, 2)
    actual = oracle.log_mel(frontend, waves, scale, shift)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_front_end_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="n_samples=511 gives no frame"):
        oracle.mel_power(PLAIN, np.zeros((1, 511)))
    scaled = dataclasses.replace(PLAIN, framing="center", normalization="per_frame")
    with pytest.raises(ValueError, match=r"needs input\.scale"):
        oracle.log_mel(scaled, np.zeros((1, 1000)))
    with pytest.raises(ValueError, match="reshape"):
        oracle.log_mel(scaled, np.zeros((1, 1000)), np.ones(7), np.ones(7))


# ---- network ----


def make_model(rng, blocks: list[Block], flatten: str, height: int = 13, n_samples: int = 512 + 256 * 18) -> Model:
    """A model with random tensors whose input is [height, 19]."""
    frontend = dataclasses.replace(PLAIN, n_mels=height)
    document = ModelDocument(
        format=1,
        name="random",
        description="",
        tags=("a", "b", "c"),
        licence="CC0-1.0",
        licence_notice="",
        training_data="",
        source=Source(url="", sha256="0" * 64, file="", authors=""),
        metrics=(),
        notes=(),
        frontend=frontend,
        segments=Segments(rule="first", n_samples=n_samples, short="zeros"),
        blocks=tuple(blocks),
        head=Head(flatten=flatten, in_features=1),  # type: ignore[arg-type]
    )
    head = dataclasses.replace(document.head, in_features=document.n_features())
    document = dataclasses.replace(document, head=head).validate()
    tensors = {name: rng.standard_normal(s).astype(np.float32) for name, s in document.tensor_shapes().items()}
    return Model(document, tensors, "", "")


def naive_block(x: np.ndarray, block: Block, tensors: dict[str, np.ndarray], i: int) -> np.ndarray:
    k, (ph, pw), (sh, sw) = block.kernel, block.pool.window, block.pool.stride
    padded = np.pad(x, ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    patches = np.lib.stride_tricks.sliding_window_view(padded, (k, k), axis=(2, 3))
    y = np.einsum("bchwuv,ocuv->bohw", patches, tensors[f"blocks.{i}.weight"].astype(np.float64))
    y += tensors[f"blocks.{i}.bias"][None, :, None, None]
    if block.activation == "relu":
        y[y < 0] = 0
    elif block.activation == "elu":
        y[y < 0] = np.exp(y[y < 0]) - 1
    if block.post_affine:
        y = np.einsum("bohw,o->bohw", y, tensors[f"blocks.{i}.scale"].astype(np.float64))
        y += tensors[f"blocks.{i}.shift"][None, :, None, None]
    windows = np.lib.stride_tricks.sliding_window_view(y, (ph, pw), axis=(2, 3))
    return windows[:, :, ::sh, ::sw].max(axis=(4, 5))


def block(inp: int, out: int, act: str, window: tuple[int, int], stride: tuple[int, int], **more) -> Block:
    options = {"kernel": 3, **more}
    return Block(in_channels=inp, out_channels=out, activation=act, pool=Pool(window=window, stride=stride), **options)  # type: ignore[arg-type]


NETWORKS = {  # input [13, 19]
    "musicnn's first pool: window is not stride": [
        block(1, 5, "relu", (4, 1), (2, 2), post_affine=True),
        block(5, 3, "relu", (2, 2), (2, 2), post_affine=True),
    ],
    "stride above window skips rows": [block(1, 2, "none", (2, 1), (3, 2)), block(2, 2, "elu", (1, 3), (1, 1))],
    "elu, remainders dropped": [block(1, 4, "elu", (2, 4), (2, 4)), block(4, 6, "elu", (3, 2), (3, 2))],
    "1x1 and no pool": [
        block(1, 3, "relu", (1, 1), (1, 1), kernel=1),
        block(3, 4, "none", (1, 1), (1, 1), kernel=1, post_affine=True),
    ],
    "down to 1 x 1": [block(1, 2, "relu", (13, 19), (13, 19))],
}


@pytest.mark.parametrize("flatten", ["chw", "hwc", "max", "mean"])
@pytest.mark.parametrize("name", NETWORKS)
def test_network(rng, name, flatten) -> None:
    model = make_model(rng, NETWORKS[name], flatten)
    x = rng.standard_normal((3, 13, 19))
    maps, expected = oracle.blocks(model, x), x[:, None]
    for i, (spec, actual) in enumerate(zip(model.document.blocks, maps, strict=True)):
        expected = naive_block(expected, spec, model.tensors, i)
        assert actual.shape[2:] == model.document.map_sizes()[i + 1]
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)
    b, c, h, w = expected.shape
    if flatten in ("max", "mean"):
        features = np.array([[getattr(expected[n, o], flatten)() for o in range(c)] for n in range(b)])
    else:
        features = np.empty((b, c * h * w))
        for o in range(c):
            for i in range(h):
                for j in range(w):
                    at = (o * h + i) * w + j if flatten == "chw" else (i * w + j) * c + o
                    features[:, at] = expected[:, o, i, j]
    np.testing.assert_allclose(oracle.features(model, x), features, rtol=1e-12, atol=1e-12)
    z = np.array([[f @ row for row in model.tensors["head.weight"].astype(np.float64)] for f in features])
    z += model.tensors["head.bias"]
    np.testing.assert_allclose(oracle.logits(model, x), z, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(oracle.scores_of(model, x), 1 / (1 + np.exp(-z)), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("flatten", ["chw", "mean"])
def test_hidden_layers(rng, flatten) -> None:
    plain = make_model(rng, NETWORKS["elu, remainders dropped"], flatten)
    hidden = tuple(Dense(out_features=n, activation=a) for n, a in ((9, "relu"), (4, "none"), (5, "elu")))  # type: ignore[arg-type]
    document = dataclasses.replace(plain.document, head=dataclasses.replace(plain.document.head, hidden=hidden))
    tensors = {name: rng.standard_normal(s).astype(np.float32) for name, s in document.tensor_shapes().items()}
    model = Model(document.validate(), tensors, "", "")
    x = rng.standard_normal((3, 13, 19))
    y = oracle.flatten(oracle.blocks(model, x)[-1], flatten)
    for i, layer in enumerate(hidden):
        weight, bias = (tensors[f"head.hidden.{i}.{n}"].astype(np.float64) for n in ("weight", "bias"))
        y = np.array([[sum(w * v for w, v in zip(row, values, strict=True)) for row in weight] for values in y]) + bias
        if layer.activation == "relu":
            y[y < 0] = 0
        elif layer.activation == "elu":
            y[y < 0] = np.exp(y[y < 0]) - 1
        np.testing.assert_allclose(
            oracle.hidden_layers(model, oracle.flatten(oracle.blocks(model, x)[-1], flatten))[i],
            y,
            rtol=1e-11,
            atol=1e-12,
        )
    np.testing.assert_allclose(oracle.features(model, x), y, rtol=1e-11, atol=1e-12)
    z = y @ tensors["head.weight"].astype(np.float64).T + tensors["head.bias"]
    np.testing.assert_allclose(oracle.logits(model, x), z, rtol=1e-11, atol=1e-11)
    assert oracle.features(model, x[:0]).shape == (0, 5)


def test_block_features_are_means_in_block_order(rng) -> None:
    model = make_model(rng, NETWORKS["elu, remainders dropped"], "chw")
    x = rng.standard_normal((2, 13, 19))
    first, second = oracle.blocks(model, x)
    expected = np.concatenate([first.mean(axis=(2, 3)), second.mean(axis=(2, 3))], axis=1)
    np.testing.assert_allclose(oracle.features(model, x, "blocks"), expected)
    assert expected.shape == (2, 10)


def test_scores_are_the_front_end_then_the_network(rng) -> None:
    model = make_model(rng, NETWORKS["down to 1 x 1"], "chw")
    waves = rng.uniform(-1, 1, (2, model.document.segments.n_samples))
    x = oracle.network_input(model, waves)
    assert x.shape == (2, 13, 19)
    np.testing.assert_array_equal(oracle.scores(model, waves), oracle.scores_of(model, x))


@pytest.mark.parametrize("flatten", ["chw", "hwc", "max", "mean"])
def test_empty_batch(rng, flatten) -> None:
    model = make_model(rng, NETWORKS["musicnn's first pool: window is not stride"], flatten)
    waves = np.zeros((0, model.document.segments.n_samples))
    assert oracle.network_input(model, waves).shape == (0, 13, 19)
    assert [m.shape[0] for m in oracle.blocks(model, np.zeros((0, 13, 19)))] == [0, 0]
    assert oracle.features(model, np.zeros((0, 13, 19))).shape == (0, model.document.head.in_features)
    assert oracle.features(model, np.zeros((0, 13, 19)), "blocks").shape == (0, 8)
    assert oracle.scores(model, waves).shape == (0, 3)


def test_batch_does_not_matter(rng) -> None:
    model = make_model(rng, NETWORKS["elu, remainders dropped"], "chw")
    waves = rng.uniform(-1, 1, (3, model.document.segments.n_samples))
    x = oracle.network_input(model, waves)
    maps = oracle.blocks(model, x)
    for i in range(3):
        np.testing.assert_array_equal(oracle.network_input(model, waves[i : i + 1])[0], x[i])
        for together, alone in zip(maps, oracle.blocks(model, x[i : i + 1]), strict=True):
            np.testing.assert_array_equal(together[i], alone[0])


def test_poison_reaches_what_it_touches_and_nothing_else(rng) -> None:
    model = make_model(rng, [block(1, 2, "relu", (2, 4), (2, 4), post_affine=True)], "chw")
    x = rng.standard_normal((2, 13, 19))
    x[0] = poisoned((13, 19), np.float64)
    (y,) = oracle.blocks(model, x)
    assert np.isnan(y[0]).all()  # a comparison that loses NaN would give -inf or 0 here
    assert_unpoisoned(y[1])
    x = rng.standard_normal((1, 13, 19))
    x[0, :, 17:] = np.nan  # 19 columns, 4 x 4 used; column 16 is the last one that a used output sees
    assert_unpoisoned(oracle.blocks(model, x)[0])
    x[0, 5, 16] = np.nan
    assert np.isnan(oracle.blocks(model, x)[0]).any()


def test_sigmoid_does_not_overflow() -> None:
    z = np.array([-1000.0, -40.0, 0.0, 40.0, 1000.0])
    with np.errstate(all="raise", under="ignore"):
        np.testing.assert_allclose(oracle.sigmoid(z), [0.0, math.exp(-40), 0.5, 1.0, 1.0], rtol=1e-12)


# ---- batch statistics ----


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("std", 4.01), ("k105", math.sqrt(4.01) + 0.01), ("k107", 2.01), ("k11", math.sqrt(4.01))],
)
def test_denominators(rule, expected) -> None:
    assert float(oracle.denominator(4.0, 0.01, rule)) == pytest.approx(expected, rel=1e-15)


def test_batch_statistics_normalise_the_batch_and_freezing_them_changes_nothing(rng) -> None:
    raw = oracle.RawBlock(
        weight=rng.standard_normal((4, 1, 3, 3)),
        bias=rng.standard_normal(4),
        gamma=np.ones(4),
        beta=np.zeros(4),
        pool=(1, 1),
    )
    head = rng.standard_normal((4 * 3 * 5, 2)), rng.standard_normal(2)
    x = rng.standard_normal((6, 3, 5))
    batch = oracle.batch_statistics_scores([raw], *head, x, eps=1e-3, rule="k11")
    y = np.where(batch.maps[0] > 0, batch.maps[0], np.log1p(batch.maps[0]))  # undo ELU
    (mean, var) = batch.stats[0]
    np.testing.assert_allclose(y.mean(axis=(0, 2, 3)), 0.0, atol=1e-12)
    np.testing.assert_allclose(y.var(axis=(0, 2, 3)), var / (var + 1e-3), rtol=1e-10)
    frozen = dataclasses.replace(raw, mean=mean, var=var)
    alone = [oracle.batch_statistics_scores([frozen], *head, x[i : i + 1], eps=1e-3, rule="k11") for i in range(6)]
    np.testing.assert_allclose(np.concatenate([r.scores for r in alone]), batch.scores, rtol=1e-12)
    other = oracle.batch_statistics_scores([raw], *head, x[:1], eps=1e-3, rule="k11")
    assert np.abs(other.scores - batch.scores[:1]).max() > 1e-3  # the batch does matter here


def test_batch_statistics_agree_with_a_folded_block(rng) -> None:
    """Folding as a converter does it, against the unfolded path: two ways to the same number."""
    model = make_model(rng, [block(1, 3, "elu", (2, 4), (2, 4)), block(3, 4, "elu", (3, 2), (3, 2))], "chw")
    raw, tensors = [], dict(model.tensors)
    for i, spec in enumerate(model.document.blocks):
        gamma, beta, mean = rng.standard_normal((3, spec.out_channels))
        var = rng.uniform(0.1, 2.0, spec.out_channels)
        weight, bias = (tensors[f"blocks.{i}.{n}"].astype(np.float64) for n in ("weight", "bias"))
        raw.append(
            oracle.RawBlock(weight=weight, bias=bias, gamma=gamma, beta=beta, mean=mean, var=var, pool=spec.pool.window)
        )
        gain = gamma / (np.sqrt(var + 1e-6) + 1e-6)
        tensors[f"blocks.{i}.weight"] = weight * gain[:, None, None, None]
        tensors[f"blocks.{i}.bias"] = (bias - mean) * gain + beta
    x = rng.standard_normal((2, 13, 19))
    head = tensors["head.weight"].T, tensors["head.bias"]
    unfolded = oracle.batch_statistics_scores(raw, *head, x, eps=1e-6, rule="k105").scores
    np.testing.assert_allclose(oracle.scores_of(dataclasses.replace(model, tensors=tensors), x), unfolded, rtol=1e-10)


# ---- the module ----


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)


def test_without_numba_one_line_says_what_to_install() -> None:
    done = run_python("import sys; sys.modules['numba'] = None\nimport fcntag.oracle")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        'ImportError: the oracle needs numba, which is not installed: pip install "fcntag[validate]"'
    )


def test_imports_nothing_of_the_engine() -> None:
    code = "import sys, fcntag.oracle; print(sorted(m for m in sys.modules if m.startswith('fcntag.')))"
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    loaded = done.stdout
    assert "fcntag.oracle" in loaded
    assert "_C" not in loaded
    assert "engine" not in loaded
