"""TensorFlow V2 checkpoints without TensorFlow: an ``.index`` file that names tensors, and ``.data`` shards.

The index is a LevelDB-style sorted table whose values are small protocol-buffer messages
(``tensorflow/core/protobuf/tensor_bundle.proto``, ``tensorflow/core/lib/io/table``). Every block and every tensor
carries a CRC-32C, and each is checked before its bytes are used.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ...errors import ModelError

_TABLE_MAGIC = 0xDB4775248B80FB57
_FOOTER_BYTES = 48
_CRC_MASK_DELTA = 0xA282EAD8
_DT_FLOAT = 1
_MAX_ELEMENTS = 1 << 28  # one tensor of 1 GiB
_MAX_INDEX_BYTES = 16 << 20
_MAX_KEY_BYTES = 4096


@dataclass(frozen=True)
class _Tensor:
    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc32c: int
    sliced: bool


class Checkpoint:
    """The tensors of one checkpoint: ``names()``, ``read(name)``. Raises ModelError on anything damaged."""

    def __init__(self, read_file: Callable[[str], bytes]) -> None:
        """``read_file`` takes ``".index"`` or ``".data-00000-of-00001"`` and gives that file's bytes."""
        self._read_file = read_file
        self._shards: dict[int, bytes] = {}
        entries = dict(_table_entries(read_file(".index")))
        if b"" not in entries:
            raise ModelError(".index: no header entry: not a TensorFlow V2 checkpoint")
        header = _message(entries.pop(b""))
        self._n_shards = _integer(header, 1, 1)
        if _integer(header, 2, 0) != 0:
            raise ModelError(".index: big-endian checkpoints are not supported")
        if not 1 <= self._n_shards <= 1024:
            raise ModelError(f".index: {self._n_shards} shards; allowed: 1 to 1024")
        self._tensors = {_text(key): _tensor(value) for key, value in entries.items()}

    def names(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor, optimizer state included."""
        return {name: tensor.shape for name, tensor in self._tensors.items()}

    def read(self, name: str) -> np.ndarray:
        """Tensor ``name`` as float32, its CRC checked."""
        if name not in self._tensors:
            raise ModelError(f"{name}: not in the checkpoint, which holds: {', '.join(sorted(self._tensors))[:400]}")
        tensor = self._tensors[name]
        if tensor.dtype != _DT_FLOAT or tensor.sliced:
            raise ModelError(f"{name}: dtype {tensor.dtype}, sliced={tensor.sliced}; only whole float32 is supported")
        if not 0 <= tensor.shard < self._n_shards:
            raise ModelError(f"{name}: shard {tensor.shard} of {self._n_shards}")
        if tensor.shard not in self._shards:
            self._shards[tensor.shard] = self._read_file(f".data-{tensor.shard:05d}-of-{self._n_shards:05d}")
        n_elements = 1
        for length in tensor.shape:
            n_elements *= length
        if n_elements > _MAX_ELEMENTS or tensor.size != 4 * n_elements:
            raise ModelError(f"{name}: {tensor.size} bytes for shape {list(tensor.shape)}")
        data = self._shards[tensor.shard][tensor.offset : tensor.offset + tensor.size]
        if len(data) != tensor.size:
            raise ModelError(f"{name}: shard {tensor.shard} ends before the tensor does: truncated")
        if _masked(crc32c(data)) != tensor.crc32c:
            raise ModelError(f"{name}: CRC-32C does not match: the checkpoint is damaged")
        return np.frombuffer(data, dtype="<f4").reshape(tensor.shape)


# ---- CRC-32C ----


@functools.cache
def _crc_table() -> np.ndarray:
    table: np.ndarray = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> 1) ^ np.where(table & 1, np.uint32(0x82F63B78), np.uint32(0))  # Castagnoli, reflected
    return table


def _apply(matrix: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Multiply 32-bit vectors over GF(2) by a matrix that is given as the images [32] of the single bits."""
    result = np.zeros_like(values)
    for bit in range(32):
        result ^= np.where((values >> np.uint32(bit)) & 1, matrix[bit], np.uint32(0))
    return result


def _zero_bytes(count: int) -> np.ndarray:
    """The matrix that passes ``count`` zero bytes through the CRC register."""
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    power = _crc_table()[bits & 0xFF] ^ (bits >> 8)
    result = bits  # identity
    while count:
        if count & 1:
            result = _apply(power, result)
        power = _apply(power, power)
        count >>= 1
    return result


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of ``data``.

    The register is linear in its input, so equal lanes of the data are run side by side in NumPy and their registers
    joined afterwards, each pair by the matrix of as many zero bytes as the right one is long.
    """
    n_lanes = 1024 if len(data) >= 1 << 14 else 1
    rows = -(-len(data) // n_lanes)
    # Zeros in front leave a register of zero unchanged, so they may fill the first lanes.
    padded = np.zeros(n_lanes * rows, dtype=np.uint8)
    padded[n_lanes * rows - len(data) :] = np.frombuffer(data, dtype=np.uint8)
    table = _crc_table()
    register = np.zeros(n_lanes, dtype=np.uint32)
    for column in np.ascontiguousarray(padded.reshape(n_lanes, rows).T):
        register = table[(register ^ column) & 0xFF] ^ (register >> 8)
    shift = _zero_bytes(rows)
    while len(register) > 1:
        register = _apply(shift, register[0::2]) ^ register[1::2]
        shift = _apply(shift, shift)
    start = _apply(_zero_bytes(len(data)), np.array([0xFFFFFFFF], dtype=np.uint32))
    return int(register[0] ^ start[0]) ^ 0xFFFFFFFF


def _masked(crc: int) -> int:
    return (((crc >> 15) | (crc << 17)) + _CRC_MASK_DELTA) & 0xFFFFFFFF


# ---- the sorted table ----


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ModelError(".index: a number does not end: damaged")


def _handle(handle: bytes) -> tuple[int, int]:
    """(offset, size) of the block that a handle points to."""
    offset, at = _varint(handle, 0)
    size, _ = _varint(handle, at)
    return offset, size


def _block(data: bytes, offset: int, size: int) -> bytes:
    """The block at ``offset``, its CRC checked."""
    end = offset + size
    if end + 5 > len(data):
        raise ModelError(".index: a block lies outside the file: truncated or damaged")
    if struct.unpack_from("<I", data, end + 1)[0] != _masked(crc32c(data[offset : end + 1])):
        raise ModelError(".index: CRC-32C of a block does not match: damaged")
    if data[end] != 0:
        raise ModelError(".index: compressed blocks are not supported")
    return data[offset:end]


def _block_entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block; a key shares its first bytes with the one before it."""
    if len(block) < 4:
        raise ModelError(".index: a block is too short")
    end = len(block) - 4 - 4 * struct.unpack_from("<I", block, len(block) - 4)[0]
    if end < 0:
        raise ModelError(".index: a block's restart list is longer than the block")
    at = 0
    key = b""
    while at < end:
        shared, at = _varint(block, at)
        unshared, at = _varint(block, at)
        size, at = _varint(block, at)
        # The limit on keys keeps shared prefixes from growing a small file into much memory.
        if shared > len(key) or at + unshared + size > end or shared + unshared > _MAX_KEY_BYTES:
            raise ModelError(".index: an entry is longer than its block: damaged")
        key = key[:shared] + block[at : at + unshared]
        at += unshared
        yield key, block[at : at + size]
        at += size


def _table_entries(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    if not _FOOTER_BYTES <= len(data) <= _MAX_INDEX_BYTES:
        raise ModelError(f".index: {len(data)} bytes; allowed: {_FOOTER_BYTES} to {_MAX_INDEX_BYTES}")
    footer = data[-_FOOTER_BYTES:]
    if struct.unpack_from("<Q", footer, 40)[0] != _TABLE_MAGIC:
        raise ModelError(".index: wrong magic number: not a TensorFlow V2 checkpoint, or truncated")
    _, at = _varint(footer, 0)  # the handle of the meta index, which checkpoints leave empty
    _, at = _varint(footer, at)
    index = _block(data, *_handle(footer[at:]))
    previous_end = 0
    for _, value in _block_entries(index):
        offset, size = _handle(value)
        if offset < previous_end:  # else a small index could name one block again and again
            raise ModelError(".index: blocks overlap: damaged")
        previous_end = offset + size
        yield from _block_entries(_block(data, offset, size))


# ---- protocol buffers ----


def _message(data: bytes) -> dict[int, list[int | bytes]]:
    """The fields of one message: number -> values, in order."""
    fields: dict[int, list[int | bytes]] = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        value: int | bytes
        if kind == 0:
            value, at = _varint(data, at)
        elif kind in (1, 5):
            width = 8 if kind == 1 else 4
            value = int.from_bytes(data[at : at + width], "little")
            at += width
        elif kind == 2:
            size, at = _varint(data, at)
            value = data[at : at + size]
            at += size
        else:
            raise ModelError(f".index: wire type {kind} in an entry: damaged")
        if at > len(data):
            raise ModelError(".index: an entry does not end: damaged")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _integer(fields: dict[int, list[int | bytes]], number: int, default: int) -> int:
    value = fields.get(number, [default])[-1]
    if not isinstance(value, int):
        raise ModelError(f".index: field {number} of an entry is not a number: damaged")
    return value


def _submessages(fields: dict[int, list[int | bytes]], number: int) -> list[dict[int, list[int | bytes]]]:
    values = fields.get(number, [])
    if not all(isinstance(value, bytes) for value in values):
        raise ModelError(f".index: field {number} of an entry is not a message: damaged")
    return [_message(value) for value in values if isinstance(value, bytes)]


def _text(key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise ModelError(f".index: tensor name {key[:40]!r} is not UTF-8: damaged") from None


def _tensor(value: bytes) -> _Tensor:
    # BundleEntryProto: 1 dtype, 2 shape {2 dim {1 size}}, 3 shard, 4 offset, 5 size, 6 masked crc32c, 7 slices.
    entry = _message(value)
    shape = _submessages(entry, 2)
    dims = _submessages(shape[-1], 2) if shape else []
    return _Tensor(
        dtype=_integer(entry, 1, 0),
        shape=tuple(_integer(dim, 1, 0) for dim in dims),
        shard=_integer(entry, 3, 0),
        offset=_integer(entry, 4, 0),
        size=_integer(entry, 5, 0),
        crc32c=_integer(entry, 6, 0),
        sliced=7 in entry,
    )
