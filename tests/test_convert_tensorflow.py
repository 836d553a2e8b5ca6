"""The checkpoint reader against a writer of the tests' own, and against everything a damaged file can do."""

from __future__ import annotations

import contextlib
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import checkpoint_writer
from support.checkpoint_writer import checkpoint

from fcntag.convert.readers.tensorflow_checkpoint import Checkpoint, crc32c
from fcntag.errors import ModelError


def test_crc32c_of_known_vectors() -> None:
    # RFC 3720, appendix B.4.
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"") == 0


@pytest.mark.parametrize("size", [1, 1000, (1 << 14) - 1, 1 << 14, (1 << 14) + 1, 40_000])
def test_crc32c_equals_the_bitwise_one(size: int, rng: np.random.Generator) -> None:
    data = rng.bytes(size)
    assert crc32c(data) == checkpoint_writer.crc32c(data)


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    shapes = {
        "1CNN/kernel": (3, 3, 1, 4),
        "1CNN/bias": (4,),
        "1CNN/kernel/Adam": (3, 3, 1, 4),
        "scalar": (),
        "z": (0, 2),
    }
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()} | {
        "step": np.array(7, np.int64)
    }


@pytest.mark.parametrize("per_block", [1, 2, 100])
def test_reads_what_was_written(tensors: dict[str, np.ndarray], per_block: int) -> None:
    read = Checkpoint(checkpoint(tensors, per_block=per_block).__getitem__)
    assert read.names() == {name: array.shape for name, array in tensors.items()}
    for name, array in tensors.items():
        if array.dtype == np.float32:
            np.testing.assert_array_equal(read.read(name), array)


def test_other_dtypes_and_names_are_refused(tensors: dict[str, np.ndarray]) -> None:
    read = Checkpoint(checkpoint(tensors).__getitem__)
    with pytest.raises(ModelError, match="step: dtype 9, sliced=False; only whole float32"):
        read.read("step")
    with pytest.raises(ModelError, match="2CNN/kernel: not in the checkpoint, which holds: 1CNN/bias"):
        read.read("2CNN/kernel")


def test_a_changed_weight_is_found_by_its_crc(tensors: dict[str, np.ndarray]) -> None:
    files = checkpoint(tensors)
    data = bytearray(files[".data-00000-of-00001"])
    data[5] ^= 1
    read = Checkpoint({**files, ".data-00000-of-00001": bytes(data)}.__getitem__)
    with pytest.raises(ModelError, match="1CNN/bias: CRC-32C does not match"):
        read.read("1CNN/bias")
    read.read("1CNN/kernel")


def test_a_short_shard_is_truncated(tensors: dict[str, np.ndarray]) -> None:
    files = checkpoint(tensors)
    read = Checkpoint({**files, ".data-00000-of-00001": files[".data-00000-of-00001"][:20]}.__getitem__)
    with pytest.raises(ModelError, match="1CNN/kernel: shard 0 ends before the tensor does"):
        read.read("1CNN/kernel")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (b"", "0 bytes; allowed: 48 to"),
        (b"x" * 100, "wrong magic number"),
        (bytes(40) + struct.pack("<Q", checkpoint_writer.MAGIC), "outside the file|too short|CRC-32C"),
        (b"\xff" * 40 + struct.pack("<Q", checkpoint_writer.MAGIC), "a number does not end"),
    ],
    ids=["empty", "other", "zeros", "ones"],
)
def test_what_is_no_index_is_refused(index: bytes, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Checkpoint({".index": index}.__getitem__)


def test_compressed_blocks_are_refused(tensors: dict[str, np.ndarray]) -> None:
    with pytest.raises(ModelError, match="compressed blocks are not supported"):
        Checkpoint(checkpoint(tensors, compression=1).__getitem__)


def test_an_index_may_not_name_a_block_twice(tensors: dict[str, np.ndarray]) -> None:
    """Else a small file could make the reader parse one block without end."""
    with pytest.raises(ModelError, match="blocks overlap: damaged"):
        Checkpoint(checkpoint(tensors, per_block=100, repeats=2).__getitem__)


def read_all(files: dict[str, bytes]) -> None:
    read = Checkpoint(lambda suffix: files.get(suffix, b""))
    for name in read.names():
        read.read(name)


@settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_damage_is_a_model_error(tensors: dict[str, np.ndarray], data: st.DataObject) -> None:
    """With the block's CRC made right again, so that what is behind it is reached."""
    floats = {name: array for name, array in tensors.items() if array.dtype == np.float32}
    files = checkpoint(floats, per_block=100)
    index = bytearray(files[".index"])
    end = index.index(struct.pack("<II", 0, 1)) + 8  # of the first block: its restart list
    for _ in range(data.draw(st.integers(1, 3), "changes")):
        index[data.draw(st.integers(0, end - 1), "at")] = data.draw(st.integers(0, 255), "byte")
    crc = checkpoint_writer.masked(checkpoint_writer.crc32c(bytes(index[: end + 1])))
    index[end + 1 : end + 5] = struct.pack("<I", crc)
    with contextlib.suppress(ModelError):  # nothing else may come out
        read_all({**files, ".index": bytes(index)})


@settings(max_examples=100, deadline=None, derandomize=True)
@given(noise=st.binary(max_size=300))
def test_noise_is_a_model_error(noise: bytes) -> None:
    footer = noise[-40:].ljust(40, b"\0") + struct.pack("<Q", checkpoint_writer.MAGIC)
    with pytest.raises(ModelError):
        Checkpoint({".index": noise[:-40] + footer}.__getitem__)
