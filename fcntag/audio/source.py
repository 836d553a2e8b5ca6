"""The caller's source (path, bytes, file object) as one seekable binary file with a printable name."""

from __future__ import annotations

import io
import os
import shutil
import stat
import tempfile
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, BinaryIO

from ..errors import AudioError

READ_AHEAD = 1 << 16
SPOOL_BYTES = 16 << 20  # a pipe up to this size stays in memory, a longer one goes to a temporary file


class DecoderIOError(Exception):
    """The operating system failed to deliver bytes while a decoder was asking for them."""


def display_name(name: str | bytes | os.PathLike[Any]) -> str:
    """``name`` as one printable line: undecodable bytes and control characters become ``\\xNN``."""
    text = os.fsdecode(name)
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class Source:
    """A seekable binary file of known size.

    ``base`` is the position where the data starts: a file object is read from its current position on. ``descriptor``
    is that of a file on disk that a C library may use directly, else None.
    """

    def __init__(self, name: str, file: BinaryIO, *, owned: bool, plain_file: bool = False) -> None:
        self.name = name
        self.file = file
        self.owned = owned
        self.descriptor = file.fileno() if plain_file and hasattr(os, "pread") else None
        self.base = 0 if plain_file else file.tell()
        self.size = file.seek(0, os.SEEK_END) - self.base

    def read_at(self, offset: int, n_bytes: int) -> bytes:
        """Up to ``n_bytes`` bytes from ``offset`` (fewer at the end of the file)."""
        if offset >= self.size or n_bytes <= 0:
            return b""
        if self.descriptor is None:
            self.file.seek(self.base + offset)
            return self.file.read(n_bytes)
        # The descriptor's own position belongs to the C library that may be reading from it.
        data = os.pread(self.descriptor, n_bytes, offset)
        while 0 < len(data) < n_bytes and (more := os.pread(self.descriptor, n_bytes - len(data), offset + len(data))):
            data += more
        return data

    def close(self) -> None:
        if self.owned:
            self.file.close()


class Stream(io.RawIOBase):
    """A read-only file made of pieces: bytes, or (offset, n_bytes) of a :class:`Source`. Nothing is copied ahead.

    Decoders call it from C, where an exception cannot pass. It is kept in ``error``, and the decoder sees the end of
    the file. ``pretended_size`` is told to a decoder that asks for the size. Reads end at the true size, except that
    the last 128 bytes of the pretended size read as zeros, because libmpg123 looks there for an ID3v1 tag.
    """

    def __init__(
        self, source: Source, pieces: Sequence[bytes | tuple[int, int]], *, pretended_size: int | None = None
    ) -> None:
        super().__init__()
        self._source = source
        self._pieces = [p for p in pieces if (len(p) if isinstance(p, bytes) else p[1]) > 0]
        self._starts: list[int] = []
        size = 0
        for piece in self._pieces:
            self._starts.append(size)
            size += len(piece) if isinstance(piece, bytes) else piece[1]
        self.size = size
        self._told_size = max(size, pretended_size or 0)
        self._at = 0
        self._ahead, self._ahead_at = b"", 0
        self.error: Exception | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence != os.SEEK_SET:
            offset += self._at if whence == os.SEEK_CUR else self._told_size
        self._at = max(0, offset)
        return self._at

    def _next(self, limit: int) -> bytes:
        """The bytes at the current position, within one piece; empty at the end."""
        at = self._at
        if at >= self.size:
            if self._told_size > self.size and at >= self._told_size - 128:
                return bytes(min(limit, self._told_size - at))
            return b""
        k = bisect_right(self._starts, at) - 1
        piece = self._pieces[k]
        inside = at - self._starts[k]
        if isinstance(piece, bytes):
            return piece[inside : inside + limit]
        return self._source.read_at(piece[0] + inside, min(limit, piece[1] - inside))

    def read(self, n_bytes: int | None = -1) -> bytes:
        if n_bytes is None or n_bytes < 0:
            n_bytes = max(0, self.size - self._at)
        parts: list[bytes] = []
        try:
            while n_bytes > 0:
                part = self._next(n_bytes)
                if not part:
                    break
                self._at += len(part)
                n_bytes -= len(part)
                parts.append(part)
        except Exception as error:
            self.error = error
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def readinto(self, buffer: Any) -> int:
        n_bytes = len(buffer)
        inside = self._at - self._ahead_at
        if not 0 <= inside <= len(self._ahead) - n_bytes:
            # Decoders ask for a few bytes at a time, often the same ones twice.
            at = self._at
            self._ahead, self._ahead_at, inside = self.read(max(n_bytes, READ_AHEAD)), at, 0
            self._at = at
        data = self._ahead[inside : inside + n_bytes]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def check(self) -> None:
        """Raise the failure that a read inside a decoder met, if any."""
        if self.error is not None:
            error, self.error = self.error, None
            raise DecoderIOError(f"reading failed: {error}") from error


def source_name(source: Any) -> str:
    """The name of a source in messages: its path or file name, or its kind in angle brackets. Not for arrays."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "<bytes>"
    if isinstance(source, (str, os.PathLike)):
        return display_name(source)
    if not callable(getattr(source, "read", None)):
        return f"<{type(source).__name__}>"
    given = getattr(source, "name", None)
    return display_name(given) if isinstance(given, (str, bytes)) and given else "<stream>"


def check_kind(source: Any, name: str) -> None:
    """Raise :class:`AudioError` unless ``source`` is of a type that :func:`open_source` takes."""
    if isinstance(source, (bytes, bytearray, memoryview, str, os.PathLike)) or callable(getattr(source, "read", None)):
        return
    kind = type(source).__name__
    given = "None" if source is None else f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"
    raise AudioError(f"{name}: got {given}; a source is a path, bytes, a binary file object or a NumPy array")


def open_source(source: Any, name: str | None = None) -> Source:
    """Open a path (``str`` or ``os.PathLike``), ``bytes`` with a file's content, or a binary file object.

    File objects are read from their current position and never closed; one that cannot seek (a pipe, a socket's file)
    is copied to memory or, above 16 MiB, to a temporary file. Raises :class:`AudioError` that starts with the name.
    """
    name = name or source_name(source)
    check_kind(source, name)
    if isinstance(source, (bytes, bytearray, memoryview)):
        if len(source) == 0:
            raise AudioError(f"{name}: empty (0 bytes)")
        return Source(name, io.BytesIO(source), owned=True)
    if isinstance(source, (str, os.PathLike)):
        return _open_path(os.fspath(source), name)
    return _open_file_object(source, name)


def _open_path(path: str | bytes, name: str) -> Source:
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise AudioError(f"{name}: is a directory, not a sound file")
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
            raise AudioError(f"{name}: is a device or socket, not a sound file")
        file = open(path, "rb", buffering=0)  # noqa: SIM115 - the Source owns it
        if stat.S_ISFIFO(mode):
            with file:
                return _spool(file, name)
    except FileNotFoundError:
        if os.path.islink(path):
            target = display_name(os.readlink(os.fsdecode(path)))
            raise AudioError(f"{name}: no such file (a link to {target}, which does not exist)") from None
        raise AudioError(f"{name}: no such file") from None
    except PermissionError:
        raise AudioError(f"{name}: permission denied") from None
    except OSError as error:
        raise AudioError(f"{name}: cannot be opened ({error.strerror or error})") from None
    except ValueError as error:  # a NUL character in the path
        if isinstance(error, AudioError):
            raise
        raise AudioError(f"{name}: not a usable path ({error})") from None
    opened = Source(name, file, owned=True, plain_file=True)
    if opened.size == 0:
        opened.close()
        raise AudioError(f"{name}: empty file (0 bytes)")
    return opened


def _open_file_object(file: Any, name: str) -> Source:
    try:
        if isinstance(file.read(0), str):
            raise AudioError(f"{name}: the file object is in text mode; open it with mode 'rb'")
        try:
            seekable = bool(file.seekable())
        except AttributeError:
            seekable = callable(getattr(file, "seek", None)) and callable(getattr(file, "tell", None))
        if not seekable:
            return _spool(file, name)
        opened = Source(name, file, owned=False)
    except (OSError, io.UnsupportedOperation) as error:
        raise AudioError(f"{name}: cannot be read ({error})") from None
    except ValueError as error:  # "I/O operation on closed file"
        if isinstance(error, AudioError):
            raise
        raise AudioError(f"{name}: cannot be read ({error})") from None
    if opened.size <= 0:
        where = " (the file object stands at its end; seek(0) first)" if opened.base > 0 else " (0 bytes)"
        raise AudioError(f"{name}: empty{where}")
    return opened


def _spool(file: Any, name: str) -> Source:
    spool: Any = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115 - the Source owns it
    try:
        shutil.copyfileobj(file, spool, 1 << 20)
        spool.seek(0)
        opened = Source(name, spool, owned=True)
    except OSError as error:
        spool.close()
        raise AudioError(f"{name}: cannot be read ({error})") from None
    if opened.size == 0:
        opened.close()
        raise AudioError(f"{name}: empty (0 bytes)")
    return opened
