"""Windows and mel filters: values worked out by hand, properties of any such filter, and a second, scalar program."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from support.make_models import FRONTEND

from fcntag.model.filters import (
    dct_matrix,
    delta_frames,
    delta_weights,
    frame_window,
    hz_to_mel,
    mel_filters,
    mel_to_hz,
    window,
)

# The settings of the models: (sample_rate, fmax, scale, norm)
BANKS = {
    "musicnn": {"sample_rate": 16000, "fmax": 8000, "scale": "slaney", "norm": "slaney"},
    "won2020": {"sample_rate": 16000, "fmax": 8000, "scale": "htk", "norm": "none"},
    "choi": {"sample_rate": 12000, "fmax": 6000, "scale": "slaney", "norm": "slaney"},
}
ODD = {
    "sample_rate": 22050,
    "fmax": 7000.5,
    "scale": "htk",
    "norm": "slaney",
}  # no model has it, the document allows it


def bank(*, fmin: float = 0.0, n_mels: int = 96, **options) -> np.ndarray:
    return mel_filters(n_fft=512, n_mels=n_mels, fmin=fmin, **options)


@pytest.mark.parametrize(
    ("scale", "hz", "mel"),
    [
        ("slaney", 0.0, 0.0),
        ("slaney", 200 / 3, 1.0),  # linear below 1 kHz
        ("slaney", 1000.0, 15.0),
        ("slaney", 6400.0, 42.0),  # 27 steps per factor of 6.4
        ("slaney", 1000.0 * 6.4 ** (1 / 27), 16.0),
        ("htk", 0.0, 0.0),
        ("htk", 700.0, 2595 * math.log10(2)),
        ("htk", 6300.0, 2595.0),
    ],
)
def test_scale_at_known_points(scale: str, hz: float, mel: float) -> None:
    assert float(hz_to_mel(hz, scale)) == pytest.approx(mel, rel=1e-14)
    assert float(mel_to_hz(mel, scale)) == pytest.approx(hz, rel=1e-14)


def test_slaney_frequencies_of_the_librosa_manual() -> None:
    """``librosa.mel_frequencies(n_mels=40)``, fmax 11025 Hz, as its documentation prints it (three decimals)."""
    printed = [
        *(0.0, 85.317, 170.635, 255.952, 341.269, 426.586, 511.904, 597.221, 682.538, 767.855, 853.173, 938.49),
        *(1024.856, 1119.114, 1222.042, 1334.436, 1457.167, 1591.187, 1737.532, 1897.337, 2071.84, 2262.393),
        *(2470.47, 2697.686, 2945.799, 3216.731, 3512.582, 3835.643, 4188.417, 4573.636, 4994.285, 5453.621),
        *(5955.205, 6502.92, 7101.009, 7754.107, 8467.272, 9246.028, 10096.408, 11025.0),
    ]
    hz = mel_to_hz(np.linspace(0.0, float(hz_to_mel(11025.0)), 40))
    np.testing.assert_allclose(hz, printed, rtol=0, atol=5.1e-4)


@pytest.mark.parametrize("scale", ["slaney", "htk"])
def test_scale_is_monotone_and_its_inverse_inverts(scale: str) -> None:
    hz = np.linspace(0.0, 24000.0, 10_001)
    mel = hz_to_mel(hz, scale)
    assert np.all(np.diff(mel) > 0)
    np.testing.assert_allclose(mel_to_hz(mel, scale), hz, rtol=1e-12, atol=1e-9)


def scalar_bank(sample_rate: int, fmax: float, scale: str, norm: str, fmin: float, n_mels: int) -> np.ndarray:
    """The filters once more, one number at a time, from the definitions."""

    def to_mel(f: float) -> float:
        if scale == "htk":
            return 1127.0 * math.log(1 + f / 700) * (2595 / 1127 / math.log(10))  # natural log, same curve
        return f * 3 / 200 if f < 1000 else 15 + 27 * math.log(f / 1000) / math.log(6.4)

    def edge(i: int) -> float:  # by bisection: shares no inverse formula with what it tests
        target = to_mel(fmin) + (to_mel(fmax) - to_mel(fmin)) * i / (n_mels + 1)
        low, high = fmin, fmax
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if to_mel(middle) < target else (low, middle)
        return (low + high) / 2

    edges = [edge(i) for i in range(n_mels + 2)]
    out = np.zeros((n_mels, 257))
    for m in range(n_mels):
        left, centre, right = edges[m : m + 3]
        height = 2 / (right - left) if norm == "slaney" else 1.0
        for k in range(257):
            f = k * sample_rate / 512
            if left < f <= centre:
                out[m, k] = height * (f - left) / (centre - left)
            elif centre < f < right:
                out[m, k] = height * (right - f) / (right - centre)
    return out


@pytest.mark.parametrize(
    ("options", "fmin", "n_mels"),
    [*((options, 0.0, 96) for options in BANKS.values()), (ODD, 55.5, 41), (BANKS["choi"], 0.0, 1)],
)
def test_filters_equal_a_scalar_program(options, fmin, n_mels) -> None:
    expected = scalar_bank(fmin=fmin, n_mels=n_mels, **options)
    np.testing.assert_allclose(bank(fmin=fmin, n_mels=n_mels, **options), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", BANKS.values(), ids=BANKS)
def test_filters_are_triangles(options) -> None:
    filters = bank(**options)
    assert filters.shape == (96, 257)
    assert filters.dtype == np.float64
    assert filters.min() == 0.0
    edges = mel_to_hz(np.linspace(0.0, float(hz_to_mel(options["fmax"], options["scale"])), 98), options["scale"])
    width = options["sample_rate"] / 512
    previous = -1
    for m, row in enumerate(filters):
        (support,) = np.nonzero(row)
        assert support.size, f"filter {m} is empty"
        assert np.all(np.diff(support) == 1)
        assert abs(row.argmax() * width - edges[m + 1]) <= width  # the peak lies within one bin of the centre
        assert np.all(np.diff(np.sign(np.diff(row[support[0] : support[-1] + 1]))) <= 0)  # up, then down
        assert row.argmax() >= previous
        previous = row.argmax()


def test_filters_without_norm_share_out_every_bin() -> None:
    """Neighbouring triangles of height 1 add up to 1 between the first and the last centre."""
    options = BANKS["won2020"]
    filters, hz = bank(**options), np.arange(257) * 16000 / 512
    centres = mel_to_hz(np.linspace(0.0, float(hz_to_mel(8000.0, "htk")), 98), "htk")[1:-1]
    inside = (hz >= centres[0]) & (hz <= centres[-1])
    assert inside.sum() > 200
    np.testing.assert_allclose(filters.sum(axis=0)[inside], 1.0, rtol=1e-12)
    assert filters.max() <= 1.0


@pytest.mark.parametrize("name", ["musicnn", "choi"])
def test_slaney_norm_gives_unit_area(name) -> None:
    """Each triangle has area 1 (height 2 / bandwidth); sampled at the bins, the wide ones come close to it."""
    options = BANKS[name]
    area = bank(**options).sum(axis=1) * options["sample_rate"] / 512
    np.testing.assert_allclose(area[60:], 1.0, atol=0.05)  # 5 bins and more each
    plain = bank(**{**options, "norm": "none"})
    edges = mel_to_hz(np.linspace(0.0, float(hz_to_mel(options["fmax"])), 98))
    np.testing.assert_allclose(bank(**options), plain * (2 / (edges[2:] - edges[:-2]))[:, None], rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "non_zeros", "most", "peak"),
    [("musicnn", 502, 15, 0.0320), ("won2020", 503, 14, 1.0)],  # counted in the originals' own banks
)
def test_size_of_the_originals_banks(name, non_zeros, most, peak) -> None:
    filters = bank(**BANKS[name])
    filters[filters < 1e-12] = 0.0  # fmax there and back through the scale may end an ulp above the last bin
    taps = np.count_nonzero(filters, axis=1)
    assert taps.sum() == non_zeros
    assert (taps.min(), taps.max()) == (1, most)
    assert not filters[:, [0, 256]].any()
    assert filters.max() == pytest.approx(peak, abs=0.01 * peak)


def test_windows() -> None:
    hann = window("hann", 512)
    assert hann.dtype == np.float64
    assert (hann[0], hann[256]) == (0.0, 1.0)
    assert hann[128] == pytest.approx(0.5, abs=1e-15)
    np.testing.assert_allclose(hann[1:], hann[:0:-1], atol=1e-15)  # periodic: symmetric about 256, w[512] left out
    np.testing.assert_allclose(hann[:256] + hann[256:], 1.0, atol=1e-15)  # half overlap adds up to 1
    np.testing.assert_array_equal(window("hann_reversed", 512), hann[::-1])
    assert np.abs(window("hann_reversed", 512) - hann).max() > 6e-3  # one sample of shift: not the same window
    with pytest.raises(ValueError, match=r"window 'blackman' is not built; built: hann, hann_reversed, hann_symmetric"):
        window("blackman", 512)


def test_windows_by_hand() -> None:
    np.testing.assert_allclose(window("hann", 4), [0, 0.5, 1, 0.5], atol=1e-16)
    np.testing.assert_allclose(window("hann_symmetric", 5), [0, 0.5, 1, 0.5, 0], atol=1e-16)
    np.testing.assert_allclose(window("hamming", 4), [0.08, 0.54, 1, 0.54], atol=1e-15)
    np.testing.assert_allclose(window("hamming_symmetric", 3), [0.08, 1, 0.08], atol=1e-15)
    np.testing.assert_array_equal(window("hann", 1), [1.0])


@pytest.mark.parametrize("length", [2, 3, 400, 441, 2048])
def test_windows_are_torch_s(length) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    for ours, function, periodic in (
        ("hann", torch.hann_window, True),
        ("hann_symmetric", torch.hann_window, False),
        ("hamming", torch.hamming_window, True),
        ("hamming_symmetric", torch.hamming_window, False),
    ):
        theirs = function(length, periodic=periodic, dtype=torch.float64).numpy()
        np.testing.assert_allclose(window(ours, length), theirs, rtol=0, atol=1e-15, err_msg=ours)


@pytest.mark.parametrize("position", ["center", "start"])
@pytest.mark.parametrize(("n_fft", "win_length"), [(512, 400), (512, 0), (1024, 1), (441, 440), (441, 100)])
def test_a_short_window_lies_in_its_frame(n_fft, win_length, position) -> None:
    frontend = dataclasses.replace(FRONTEND, n_fft=n_fft, win_length=win_length, win_position=position)
    taper = window("hann", win_length or n_fft)
    if position == "center":  # librosa.util.pad_center, and torch.stft
        left = (n_fft - len(taper)) // 2
        expected = [*[0.0] * left, *taper, *[0.0] * (n_fft - len(taper) - left)]
    else:  # tf.signal: rfft(frames * window, fft_length) appends zeros
        expected = [*taper, *[0.0] * (n_fft - len(taper))]
    np.testing.assert_array_equal(frame_window(frontend), expected)


@pytest.mark.filterwarnings("ignore:Empty filters")
@pytest.mark.parametrize("norm", ["slaney", "none", "sum"])
@pytest.mark.parametrize("scale", ["slaney", "htk"])
@pytest.mark.parametrize("n_fft", [64, 400, 441, 1103, 2048, 8192])
def test_filters_are_librosa_s(n_fft, scale, norm) -> None:
    librosa = pytest.importorskip("librosa", reason="librosa is not installed")
    options = {"n_fft": n_fft, "n_mels": 40, "fmin": 20.0, "fmax": 7000.0}
    theirs = librosa.filters.mel(
        sr=16000,
        htk=scale == "htk",
        norm={"slaney": "slaney", "none": None, "sum": 1}[norm],
        dtype=np.float64,
        **options,
    )
    ours = mel_filters(sample_rate=16000, scale=scale, norm=norm, **options)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
    sums = ours.sum(axis=1)
    if norm == "sum":
        np.testing.assert_allclose(sums[sums > 0], 1.0, rtol=1e-13)
    assert (n_fft > 64) == (sums > 0).all()  # a filter between two bins is empty, and not a division by 0


@pytest.mark.parametrize(
    ("n_mels", "n_fft", "rate", "low", "high"),
    [(20, 256, 8000, 125.0, 3800.0), (80, 1024, 16000, 80.0, 7600.0), (64, 400, 22050, 0.0, 11025.0)],
)
def test_tensorflow_s_filters_by_their_formula(n_mels, n_fft, rate, low, high) -> None:
    """tf.signal.linear_to_mel_weight_matrix, a number at a time: lines in mel, and a bin 0 that is left out."""

    def mel(hz: float) -> float:
        return 1127.0 * math.log1p(hz / 700.0)

    step = (mel(high) - mel(low)) / (n_mels + 1)
    ours = mel_filters(
        sample_rate=rate, n_fft=n_fft, n_mels=n_mels, fmin=low, fmax=high, scale="tensorflow", norm="none"
    )
    assert ours.shape == (n_mels, n_fft // 2 + 1)
    expected = np.zeros_like(ours)
    for m in range(n_mels):
        left, centre, right = (mel(low) + (m + i) * step for i in range(3))
        for k in range(1, n_fft // 2 + 1):
            at = mel(k * rate / n_fft)
            expected[m, k] = max(0.0, min((at - left) / (centre - left), (right - at) / (right - centre)))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-11)
    straight_in_hz = mel_filters(
        sample_rate=rate, n_fft=n_fft, n_mels=n_mels, fmin=low, fmax=high, scale="htk", norm="none"
    )
    assert np.abs(ours - straight_in_hz).max() > 1e-3


def test_a_norm_that_nobody_built_is_an_error() -> None:
    with pytest.raises(ValueError, match="mel norm 'area' is not built; built: slaney, sum, none"):
        bank(sample_rate=16000, fmax=8000.0, scale="htk", norm="area")


def test_dct_is_orthonormal_and_scipy_s(rng) -> None:
    import scipy.fft

    whole = dct_matrix(40, 40)
    np.testing.assert_allclose(whole @ whole.T, np.eye(40), atol=1e-14)
    x = rng.standard_normal((40, 5))
    np.testing.assert_allclose(dct_matrix(40, 13) @ x, scipy.fft.dct(x, norm="ortho", axis=0)[:13], atol=1e-13)


def test_deltas_are_derivatives() -> None:
    """Worked out by hand: sums over -4 .. 4 of t^2 are 60, of (t^2 - 20/3)^2 are 308."""
    slope, curve = delta_weights()
    t = np.arange(-4, 5)
    np.testing.assert_allclose(slope, t / 60, atol=1e-17)
    np.testing.assert_allclose(curve, 2 * (t**2 - 20 / 3) / 308, atol=1e-17)
    np.testing.assert_allclose([slope @ (5 + 3 * t), curve @ (5 + 3 * t), curve @ (7 * t**2)], [3, 0, 14], atol=1e-13)
    np.testing.assert_array_equal(delta_frames(9), np.tile(np.arange(9), (9, 1)))
    frames = delta_frames(12)
    assert frames.dtype == np.int64
    np.testing.assert_array_equal(frames[:, 0], [0, 0, 0, 0, 0, 1, 2, 3, 3, 3, 3, 3])
    np.testing.assert_array_equal(frames - frames[:, :1], np.tile(np.arange(9), (12, 1)))
