"""The two checksums of FLAC frames (RFC 9639, 9.1.8 and 9.3)."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@lru_cache(maxsize=1)
def _crc8_table() -> tuple[int, ...]:
    """Of x^8 + x^2 + x + 1, from the top bit down."""
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = crc << 1 ^ (0x107 if crc & 0x80 else 0)
        table.append(crc)
    return tuple(table)


@lru_cache(maxsize=1)
def crc16_table() -> np.ndarray:
    """Of x^16 + x^15 + x^2 + 1, from the top bit down: uint16 [256]."""
    import numpy as np

    table = []
    for value in range(256):
        crc = value << 8
        for _ in range(8):
            crc = crc << 1 ^ (0x18005 if crc & 0x8000 else 0)
        table.append(crc)
    return np.array(table, np.uint16)


def crc8(data: bytes) -> int:
    table = _crc8_table()
    crc = 0
    for byte in data:
        crc = table[crc ^ byte]
    return crc


def crc16(data: bytes) -> int:
    """The checksum of ``data``; 0 for a whole frame with its checksum at its end."""
    table = crc16_table().tolist()
    crc = 0
    for byte in data:
        crc = (crc << 8 & 0xFFFF) ^ table[crc >> 8 ^ byte]
    return crc
