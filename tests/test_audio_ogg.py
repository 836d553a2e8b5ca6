"""Ogg files whose pages lie, lack or are followed by another file: the loss is told of, or another decoder asked."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from support.audio_cases import decoded, encode, music_like, whole

from fcntag.audio import ogg, open_track
from fcntag.audio.source import open_source
from fcntag.errors import AudioError

RATE = 48000
SOUND = music_like(np.random.default_rng(3), 3 * RATE, 2, RATE)
FOLLOWS = "another Ogg stream follows the first; only the first is used"


def crc(page: bytes) -> int:
    """The checksum of a page (RFC 3533): polynomial 0x04c11db7, most significant bit first."""
    value = 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value & 0x80000000 else 0)) & 0xFFFFFFFF
    return value


def pages_of(data: bytes) -> list[bytearray]:
    """The pages of a file, each with its header."""
    return [bytearray(data[page.offset : page.body + page.size]) for page in ogg.pages(open_source(data))]


def joined(pages: list[bytearray]) -> bytes:
    """The file of the pages, with checksums made true."""
    for page in pages:
        page[22:26] = bytes(4)
        page[22:26] = struct.pack("<I", crc(page))
    return b"".join(pages)


def with_position(data: bytes, changed: list[int], position: int) -> bytes:
    """The file with another position in the pages ``changed``."""
    pages = pages_of(data)
    for k in changed:
        pages[k][6:14] = struct.pack("<q", position)
    return joined(pages)


def as_ogg_flac(data: bytes, serial: int) -> bytes:
    """A FLAC file of one metadata block in Ogg pages of its own frames (RFC 9639, 10.1)."""
    packets = [b"\x7fFLAC\x01\x00\x00\x00" + data[:42], data[42:]]
    pages, n = [], 0
    for k, packet in enumerate(packets):
        for at in range(0, len(packet), 255 * 255):
            part = packet[at : at + 255 * 255]
            lacing = bytes([255] * (len(part) // 255)) + (bytes([len(part) % 255]) if len(part) < 255 * 255 else b"")
            is_last = k == 1 and at + 255 * 255 >= len(packet)
            flags = 2 * (n == 0) | 4 * is_last | (at > 0)
            head = struct.pack("<4sBBqIIIB", b"OggS", 0, flags, 0, serial, n, 0, len(lacing))
            pages.append(bytearray(head + lacing + part))
            n += 1
    return joined(pages)


@pytest.mark.parametrize("kind", ["ogg", "opus"])
def test_a_file_of_the_same_serial_number_behind_the_first(kind):
    data = encode(SOUND, RATE, kind)
    for both in (data + data, data * 3):
        out, _, said = decoded(both)
        np.testing.assert_array_equal(out, whole(data, RATE))
        assert said == [FOLLOWS]


def test_ogg_flac_of_the_same_serial_number_behind_the_first():
    data = encode(SOUND, RATE, "flac")
    start = 4
    while not data[start] & 0x80:
        start += 4 + int.from_bytes(data[start + 1 : start + 4], "big")
    start += 4 + int.from_bytes(data[start + 1 : start + 4], "big")
    plain = data[:4] + b"\x80" + data[5:42] + data[start:]
    one = as_ogg_flac(plain, 7)
    alone, _, said = decoded(one)
    np.testing.assert_array_equal(alone, whole(data, RATE))
    assert said == []
    for other in (one, as_ogg_flac(plain, 8)):
        out, _, said = decoded(one + other)
        np.testing.assert_array_equal(out, alone)
        assert said == [FOLLOWS]


def test_missing_pages_are_told_of():
    data = encode(SOUND, RATE, "ogg")
    pages = pages_of(data)
    lacking = joined(pages[:5] + pages[6:])
    out, _, said = decoded(lacking)
    np.testing.assert_array_equal(out, whole(lacking, RATE))
    assert said == ["pages of the Ogg stream are missing"]


def test_a_last_position_that_cuts_the_sound_is_told_of():
    data = encode(SOUND, RATE, "ogg")
    largest = ogg_position(data, -2)
    out, _, said = decoded(with_position(data, [-1], 1000))
    assert len(out) == 1000
    assert said == [f"the Ogg stream ends with position 1000, after {largest}; sound may be lost"]


@pytest.mark.parametrize("kind", ["ogg", "opus"])
@pytest.mark.parametrize("position", [1 << 33, 1 << 40, 1 << 61])
def test_a_last_position_beyond_anything_the_file_could_hold(kind, position):
    """No window is planned behind the sound; there may be a year of them."""
    data = encode(SOUND, RATE, kind)
    truth = whole(data, RATE)
    with open_track(with_position(data, [-1], position)) as track:
        assert track.n_frames is None
        assert len(truth) <= track.length(RATE) <= len(truth) + 8192  # the last block is not cut
        out = np.concatenate(list(track.blocks(RATE)))
    np.testing.assert_array_equal(out[: len(truth)], truth)


def ogg_position(data: bytes, k: int) -> int:
    return struct.unpack("<q", pages_of(data)[k][6:14])[0]


def test_positions_that_are_all_0():
    """libsndfile finds no samples; PyAV goes by the packets."""
    data = encode(SOUND, RATE, "ogg")
    lying = with_position(data, list(range(2, len(pages_of(data)))), 0)
    pytest.importorskip("av")
    out, _, said = decoded(lying)
    truth = whole(data, RATE)
    assert len(truth) <= len(out) <= len(truth) + 2048  # the last block is not cut
    np.testing.assert_allclose(out[: len(truth)], truth, atol=1e-6)
    assert any("read with PyAV, because libsndfile finds no samples" in text for text in said)


def test_an_empty_file_stays_empty():
    with pytest.raises(AudioError, match="no audio samples"):
        open_track(encode(SOUND[:0], RATE, "ogg"))
