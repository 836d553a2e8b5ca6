"""The outside of an export, alike in every format: sizes of the input, padding of waves, place of the document."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..model.document import Frontend, ModelDocument

METADATA_KEY = "fcntag"  # of the document in an ONNX file's metadata; PyTorch's extra file is called fcntag.json


def rows_and_frames(document: ModelDocument) -> tuple[int, int]:
    """(n_rows, n_frames) of the document's window, whatever its layout."""
    height, width = document.input_size()
    return document.frontend.rows_and_frames(height, width)


def padding(frontend: Frontend, n_samples: int) -> tuple[int, int]:
    """Samples of padding in front of and behind a segment of ``n_samples``, so that every frame is whole."""
    left = frontend.pad_left(n_samples)
    if frontend.framing == "center" and frontend.pad_mode == "reflect":
        return left, frontend.n_fft // 2
    frames = frontend.n_frames(n_samples)
    return left, max(0, (frames - 1) * frontend.hop_length + frontend.n_fft - left - n_samples)
