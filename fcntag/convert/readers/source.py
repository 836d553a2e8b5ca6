"""Reading the file of an original checkpoint whole, with a limit on its size."""

from __future__ import annotations

from pathlib import Path

from ...errors import ModelError

_MAX_SOURCE_BYTES = 1 << 30  # 15 x the widest network of the paper


def read_source(source: Path) -> bytes:
    """The bytes of an original checkpoint; raises ModelError if it is missing, no regular file, or too large."""
    try:
        if not source.is_file():
            raise ModelError(f"{source}: {'is not a regular file' if source.exists() else 'no such file'}")
        size = source.stat().st_size
        if size > _MAX_SOURCE_BYTES:
            raise ModelError(f"{source}: {size} bytes; at most {_MAX_SOURCE_BYTES}")
        return source.read_bytes()
    except OSError as error:
        raise ModelError(f"{source}: cannot be read: {error.strerror or error}") from None
