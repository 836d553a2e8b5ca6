"""Writes small FLAC files frame by frame (RFC 9639), so that a test can set any field of any header.

The samples are stored as they are (verbatim subframes), which every decoder takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

RATES = (88200, 176400, 192000, 8000, 16000, 22050, 24000, 32000, 44100, 48000, 96000)
RATE_CODES = {rate: code for code, rate in enumerate(RATES, start=1)}
BIT_CODES = {8: 1, 12: 2, 16: 4, 20: 5, 24: 6}
MAGIC = b"fLaC"
# name -> first and last bit (excluded) in the STREAMINFO block
FIELDS = {
    "min block": (0, 16),
    "max block": (16, 32),
    "blocks": (0, 32),
    "min frame": (32, 56),
    "max frame": (56, 80),
    "rate": (80, 100),
    "channels": (100, 103),
    "bits": (103, 108),
    "total": (108, 144),
    "md5": (144, 272),
}


def _crc(data: bytes, width: int, polynomial: int) -> int:
    crc, top = 0, 1 << (width - 1)
    for byte in data:
        crc ^= byte << (width - 8)
        for _ in range(8):
            crc = (crc << 1 ^ polynomial if crc & top else crc << 1) & (1 << width) - 1
    return crc


def _coded_number(number: int) -> bytes:
    if number < 0x80:
        return bytes([number])
    rest: list[int] = []
    while number >= 1 << (6 - len(rest)):
        rest.insert(0, 0x80 | number & 0x3F)
        number >>= 6
    return bytes([(0xFF << (7 - len(rest))) & 0xFF | number, *rest])


def frame(samples: np.ndarray, number: int, rate: int, bits: int, variable: bool, name_all: bool = True) -> bytes:
    """One frame of integers [n, channels]; without ``name_all`` it leaves rate and bits to STREAMINFO."""
    n_samples, n_channels = samples.shape
    rate_code = RATE_CODES.get(rate, 13) if name_all else 0
    bit_code = BIT_CODES[bits] if name_all else 0
    head = bytes([0xFF, 0xF8 | variable, 0x70 | rate_code, (n_channels - 1) << 4 | bit_code << 1])
    head += _coded_number(number) + (n_samples - 1).to_bytes(2, "big")
    if rate_code == 13:
        head += rate.to_bytes(2, "big")
    head += bytes([_crc(head, 8, 0x07)])
    digits = "".join(
        "00000010" + "".join(format(int(value) & (1 << bits) - 1, f"0{bits}b") for value in samples[:, channel])
        for channel in range(n_channels)
    )
    digits += "0" * (-len(digits) % 8)
    body = head + int(digits, 2).to_bytes(len(digits) // 8, "big")
    return body + _crc(body, 16, 0x8005).to_bytes(2, "big")


def stream_info(rate: int, n_channels: int, bits: int, total: int, smallest: int, largest: int) -> bytes:
    packed = rate << 44 | (n_channels - 1) << 41 | (bits - 1) << 36 | total
    return smallest.to_bytes(2, "big") + largest.to_bytes(2, "big") + bytes(6) + packed.to_bytes(8, "big") + bytes(16)


def block(kind: int, body: bytes, last: bool = False, size: int | None = None) -> bytes:
    """A metadata block; ``size`` is a length that lies."""
    return bytes([kind | 0x80 * last]) + ((len(body) if size is None else size) & 0xFFFFFF).to_bytes(3, "big") + body


def frames(
    samples: np.ndarray, rate: int, bits: int, blocks: Sequence[int], variable: bool = False, name_all: bool = True
) -> list[bytes]:
    """Integers [n, channels] as frames of ``blocks`` samples, whose sum is n."""
    starts = [0, *accumulate(blocks)]
    return [
        frame(samples[start : start + n], start if variable else k, rate, bits, variable, name_all)
        for k, (start, n) in enumerate(zip(starts, blocks, strict=False))
    ]


def flac(
    samples: np.ndarray,
    rate: int,
    bits: int,
    blocks: Sequence[int],
    variable: bool = False,
    name_all: bool = True,
    metadata: bytes = b"",
) -> bytes:
    """A whole file; ``metadata`` are blocks between STREAMINFO and the sound, the last of them marked as such."""
    sizes = list(blocks)[:-1] or list(blocks)
    info = stream_info(rate, samples.shape[1], bits, len(samples), max(16, min(sizes)), max(16, max(sizes)))
    sound = b"".join(frames(samples, rate, bits, blocks, variable, name_all))
    return MAGIC + block(0, info, last=not metadata) + metadata + sound


def with_field(data: bytes, name: str, value: int, at: int = 8) -> bytes:
    """The file with one field of its STREAMINFO block, which is at ``at``, set to ``value``."""
    first, end = FIELDS[name]
    shift = 272 - end
    mask = (1 << (end - first)) - 1
    packed = int.from_bytes(data[at : at + 34], "big") & ~(mask << shift) | (value & mask) << shift
    return data[:at] + packed.to_bytes(34, "big") + data[at + 34 :]
