"""DSD of every rate: one-bit samples whose decoded rate is far above that of any PCM."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest

pytest.importorskip("av")

from fcntag.audio import open_track
from fcntag.errors import AudioError

BLOCK = 4096  # bytes a channel in a DSF file
DELAY_BITS = 40.5  # of the filter with which FFmpeg makes samples of bits


def one_bit(signal: np.ndarray) -> np.ndarray:
    """A first-order modulator: ones and zeros whose running mean is ``signal`` (within +-1)."""
    return np.diff(np.floor(np.cumsum((signal + 1) / 2)), prepend=0).astype(np.uint8)


def dsf(channels: list[np.ndarray], rate: int) -> bytes:
    """A DSF file (Sony's specification 1.01)."""
    packed = [np.packbits(bits, bitorder="little") for bits in channels]
    n_blocks = -(-len(packed[0]) // BLOCK)
    padded = [np.pad(p, (0, n_blocks * BLOCK - len(p))).reshape(n_blocks, BLOCK) for p in packed]
    data = np.stack(padded, axis=1).tobytes()
    n = len(channels)
    fmt = b"fmt " + struct.pack("<QIIIIIIQII", 52, 1, 0, n, n, rate, 1, len(channels[0]), BLOCK, 0)
    body = fmt + b"data" + struct.pack("<Q", 12 + len(data)) + data
    return b"DSD " + struct.pack("<QQQ", 28, 28 + len(body), 0) + body


def dff(channels: list[np.ndarray], rate: int) -> bytes:
    """A DSDIFF file (Philips' specification 1.5)."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return name + struct.pack(">Q", len(body)) + body + bytes(len(body) % 2)

    names = (b"SLFT", b"SRGT")[: len(channels)] if len(channels) == 2 else (b"C000",)
    about = chunk(b"FS  ", struct.pack(">I", rate)) + chunk(b"CHNL", struct.pack(">H", len(names)) + b"".join(names))
    about += chunk(b"CMPR", b"DSD \x0enot compressed\0")
    data = np.stack([np.packbits(bits) for bits in channels], axis=1).tobytes()
    body = chunk(b"FVER", struct.pack(">I", 0x01050000)) + chunk(b"PROP", b"SND " + about) + chunk(b"DSD ", data)
    return b"FRM8" + struct.pack(">Q", 4 + len(body)) + b"DSD " + body


def sounds(rate: int, seconds: float) -> list[np.ndarray]:
    t = np.arange(int(rate * seconds)) / rate
    ultrasound = 0.1 * np.sin(2 * np.pi * 40_000 * t)  # must not come back as an alias
    return [one_bit(0.5 * np.sin(2 * np.pi * 440 * t) + ultrasound), one_bit(0.25 * np.sin(2 * np.pi * 1000 * t))]


@pytest.mark.parametrize("make", [dsf, dff])
@pytest.mark.parametrize(("times", "base"), [(64, 44100), (256, 44100), (256, 48000), (512, 44100)])
def test_dsd_is_resampled_right(make, times, base):
    rate = base * times
    with open_track(make(sounds(rate, 0.2), rate)) as track:
        assert track.sample_rate == rate // 8
        assert track.warnings == []
        for target in (12000, 16000):
            out = np.concatenate(list(track.blocks(target)))
            assert len(out) == pytest.approx(0.2 * target, abs=50)
            t = np.arange(len(out)) / target - DELAY_BITS / rate
            expected = 0.25 * np.sin(2 * np.pi * 440 * t) + 0.125 * np.sin(2 * np.pi * 1000 * t)
            inner = slice(target // 20, -target // 20)
            # The modulator's noise below 8 kHz falls with the rate; with these signals it stays below 0.04 / times.
            np.testing.assert_allclose(out[inner], expected[inner], atol=0.1 / times)


def test_windows_of_dsd_are_the_blocks(tmp_path):
    path = tmp_path / "x.dsf"
    path.write_bytes(dsf(sounds(256 * 44100, 0.2)[:1], 256 * 44100))
    with open_track(path) as track:
        full = np.concatenate(list(track.blocks(16000)))
        np.testing.assert_array_equal(next(track.windows(16000, [1000], 1000)), full[1000:2000])


def test_memory_does_not_grow_with_the_rate():
    rate = 1024 * 48000
    data = dsf([np.tile(np.array([0, 1], np.uint8), rate // 4)], rate)  # half a second, 3 million samples
    tracemalloc.start()
    try:
        with open_track(data) as track:
            assert track.sample_rate == 6_144_000
            n = sum(len(block) for block in track.blocks(12000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert n == pytest.approx(6000, abs=20)
    assert peak < 6e6  # of 12 MB at the file's own rate


def test_a_rate_that_no_dsd_has_is_refused():
    with pytest.raises(AudioError, match=r"sample rate 12288000 Hz is not supported; allowed: 1000 to 6144000 Hz"):
        open_track(dsf(sounds(64 * 44100, 0.01)[:1], 2048 * 48000))


def test_the_limit_of_pcm_stays(rng):
    with pytest.raises(AudioError, match="allowed: 1000 to 768000 Hz"):
        open_track(rng.standard_normal(1000).astype(np.float32), sample_rate=1_411_200)
