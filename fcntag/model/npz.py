"""Arrays that somebody stored in an .npz file of NumPy, read without running code or filling memory."""

from __future__ import annotations

import zipfile

import numpy as np

from ..errors import ModelError


def read_npz(path: str, max_bytes: int) -> dict[str, np.ndarray]:
    """Every array of the file, by name.

    Raises
    ------
    ModelError : unreadable, damaged, holding Python objects, or more than ``max_bytes`` unpacked; the message does not
        begin with the path
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
            if size > max_bytes:
                raise ModelError(f"{size} bytes unpacked; at most {max_bytes}")
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except OSError as error:
        raise ModelError(str(error.strerror or error)) from None
    except (ValueError, zipfile.BadZipFile, EOFError, KeyError, NotImplementedError, RuntimeError) as error:
        raise ModelError(f"not an .npz file of NumPy, or damaged: {' '.join(str(error).split())[:120]}") from None
