"""Mutated files never do anything but decode or raise AudioError, quickly and with consistent lengths."""

from __future__ import annotations

import time
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.audio_cases import encode, music_like

from fcntag.audio import open_track
from fcntag.audio.mp3 import parse_header, scan
from fcntag.audio.source import open_source
from fcntag.errors import AudioError

KINDS = ("mp3", "mp3_bare", "flac", "oggflac", "ogg", "opus", "wav")
RATE = 16000
LIMIT_S = 5.0


@lru_cache
def original(kind: str) -> bytes:
    """A file of 1.5 s; mp3_bare has no Info header, oggflac is FLAC in pages of a few hundred bytes."""
    sample_rate = 48000 if kind == "opus" else 22050
    samples = music_like(np.random.default_rng(1), int(1.5 * sample_rate), 2, sample_rate)
    base = {"mp3_bare": "mp3", "oggflac": "flac"}.get(kind, kind)
    data = encode(samples, sample_rate, base)
    if kind == "mp3_bare":
        at = data.index(b"Info" if b"Info" in data[:400] else b"Xing")
        return data[data.index(b"\xff\xf3", at) :]
    return in_ogg(data) if kind == "oggflac" else data


def in_ogg(flac: bytes) -> bytes:
    """Wrap a native FLAC file into Ogg pages (RFC 9639, 10.1); their checksums, which nothing reads, are left 0."""
    packets = [b"\x7fFLAC\x01\x00\x00\x01" + flac[:42]] + [flac[at : at + 300] for at in range(42, len(flac), 300)]
    out = b""
    for number, packet in enumerate(packets):
        lacing = bytes([255] * (len(packet) // 255) + [len(packet) % 255])
        flags = 2 if number == 0 else 4 * (number == len(packets) - 1)
        fields = (number * 100).to_bytes(8, "little") + b"\x01\0\0\0" + number.to_bytes(4, "little") + bytes(4)
        out += b"OggS\0" + bytes([flags]) + fields + bytes([len(lacing)]) + lacing + packet
    return out


def decode(data: bytes) -> None:
    start = time.perf_counter()
    message = "<bytes>: decoded"
    try:
        with open_track(data) as track:
            promised = track.length(RATE)
            n_samples = 0
            for block in track.blocks(RATE):
                assert block.dtype == np.float32
                assert np.isfinite(block).all()
                n_samples += len(block)
            assert n_samples == track.length(RATE)
            assert track.length_changed or n_samples == promised
            (window,) = track.windows(RATE, [n_samples - 1000], 2000)
            assert not window[1000:].any()
            assert all("\n" not in text for text in track.warnings)
    except AudioError as error:
        message = str(error)
    assert message.startswith("<bytes>: ")
    assert "\n" not in message
    assert time.perf_counter() - start < LIMIT_S


positions = st.floats(0, 1, exclude_max=True)
edits = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), positions, st.integers(1, 255)),
        st.tuples(st.just("noise"), positions, st.binary(min_size=1, max_size=600)),
        st.tuples(st.just("insert"), positions, st.binary(min_size=1, max_size=600)),
        st.tuples(st.just("delete"), positions, st.integers(1, 3000)),
        st.tuples(st.just("repeat"), positions, st.integers(1, 3000)),
        st.tuples(st.just("cut"), positions, st.just(0)),
        st.tuples(st.just("zero"), positions, st.integers(1, 3000)),
    ),
    min_size=1,
    max_size=4,
)


def mutate(data: bytes, changes: list[tuple[str, float, int | bytes]]) -> bytes:
    out = bytearray(data)
    for name, where, value in changes:
        at = int(where * len(out))
        if not out:
            break
        if name == "flip":
            out[at] ^= value
        elif name == "noise":
            out[at : at + len(value)] = value
        elif name == "insert":
            out[at:at] = value
        elif name == "delete":
            del out[at : at + value]
        elif name == "repeat":
            out[at:at] = out[at : at + value]
        elif name == "cut":
            del out[at:]
        elif name == "zero":
            out[at : at + value] = bytes(len(out[at : at + value]))
    return bytes(out)


@pytest.mark.parametrize("kind", KINDS)
def test_the_originals_decode(kind: str):
    with open_track(original(kind)) as track:
        n_samples = sum(len(block) for block in track.blocks(RATE))
        assert 1.45 * RATE < n_samples < 1.65 * RATE
        assert track.warnings == []


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(changes=edits)
def test_mutated_files(kind: str, changes: list):
    decode(mutate(original(kind), changes))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(where=st.floats(0, 0.02), value=st.binary(min_size=1, max_size=8))
def test_mutated_headers(kind: str, where: float, value: bytes):
    decode(mutate(original(kind), [("noise", where, value)]))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    head=st.sampled_from(
        [b"", b"ID3\x04\0\0\0\0\0\x05", b"fLaC", b"OggS", b"RIFF", b"\xff\xfb\x90\x64", b"FORM", b"\0" * 50, b"TAG"]
    ),
    body=st.binary(max_size=3000),
    tail=st.sampled_from([b"", b"TAG" + bytes(125), b"APETAGEX" + bytes(24), b"000000LYRICS200", b"3DI" + bytes(7)]),
)
def test_arbitrary_bytes(head: bytes, body: bytes, tail: bytes):
    decode(head + body + tail)


def test_an_mp3_frame_with_the_reserved_emphasis_is_decoded() -> None:
    """The scan accepts it, and the frames before it need the bit reservoir of frames that were cut off."""
    rng = np.random.default_rng(0)
    loudness = np.repeat(rng.uniform(0, 1, 40) ** 3, 2205)  # bursts, for which an encoder fills its reservoir
    data = encode((0.3 * loudness * rng.standard_normal(88200)).astype(np.float32), 22050, "mp3")
    frames = scan(open_source(data), 0)
    assert frames is not None
    for first in range(2, len(frames.offsets) - 8):
        cut = bytearray(data[frames.offsets[first] :])
        header = frames.offsets[first + 3] - frames.offsets[first]
        cut[header + 3] = cut[header + 3] & ~3 | 2
        assert parse_header(bytes(cut[header : header + 4])) is not None
        decode(bytes(cut))
