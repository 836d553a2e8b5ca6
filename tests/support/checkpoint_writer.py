"""A minimal writer of TensorFlow V2 checkpoints, plain and slow, to test the reader against another hand's format."""

from __future__ import annotations

import struct

import numpy as np

MAGIC = 0xDB4775248B80FB57


def crc32c(data: bytes) -> int:
    """CRC-32C, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def block(entries: list[tuple[bytes, bytes]]) -> bytes:
    """A sorted-table block with one restart, keys sharing their common prefix."""
    out, last = b"", b""
    for key, value in entries:
        shared = 0
        while shared < min(len(key), len(last)) and key[shared] == last[shared]:
            shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    return out + struct.pack("<II", 0, 1)


def checkpoint(
    tensors: dict[str, np.ndarray],
    *,
    per_block: int = 5,
    tensor_crcs: dict[str, int] | None = None,
    compression: int = 0,
    repeats: int = 1,
) -> dict[str, bytes]:
    """``{".index": bytes, ".data-00000-of-00001": bytes}`` of float32 and int64 tensors.

    ``per_block``: entries to a table block. ``tensor_crcs``: known CRCs, for big tensors. ``compression``: what the
    blocks claim to be compressed with. ``repeats``: how often the index names each block.
    """
    data = b""
    entries = [(b"", field(1, 1))]  # BundleHeaderProto: one shard
    for name in sorted(tensors):
        raw = tensors[name].tobytes()
        dtype = {"float32": 1, "int64": 9}[tensors[name].dtype.name]
        shape = b"".join(field(2, field(1, n)) for n in tensors[name].shape)
        crc = (tensor_crcs or {}).get(name)
        value = field(1, dtype) + field(2, shape) + field(4, len(data)) + field(5, len(raw))
        value += varint(6 << 3 | 5) + struct.pack("<I", masked(crc32c(raw) if crc is None else crc))
        entries.append((name.encode(), value))
        data += raw
    index = b""
    handles = []

    def add(content: bytes) -> bytes:
        nonlocal index
        handle = varint(len(index)) + varint(len(content))
        content += bytes([compression])
        index += content + struct.pack("<I", masked(crc32c(content)))
        return handle

    for start in range(0, len(entries), per_block):
        part = entries[start : start + per_block]
        handles.append((part[-1][0] + b"~", add(block(part))))
    meta = add(block([]))
    footer = (meta + add(block(handles * repeats))).ljust(40, b"\0") + struct.pack("<Q", MAGIC)
    return {".index": index + footer, ".data-00000-of-00001": data}
