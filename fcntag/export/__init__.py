"""A model in other formats: an ONNX graph, or a PyTorch program, from the same document and tensors as the engine's.

An export takes ``log_mel`` [batch, n_rows, n_frames], the network's input *before* normalisation, in librosa's
orientation. It computes normalisation, blocks and head, and gives ``scores`` [batch, n_tags], float32. As in
``Engine.log_mel`` the name stands for the rows of any front end: the logarithm of the power of mel bands or STFT bins,
or for MFCC the coefficients, their deltas and their delta-deltas. With ``frontend`` it takes ``waves``
[batch, n_samples] at the model's rate instead and computes these rows itself, in float64. With ``blocks`` every block's
pooled output [batch, C, H, W] follows the scores, named ``block1``, ``block2``, ... The batch may be of any size; the
length is that of the document's window.

The losslessly reduced network is the engine's own business: an export holds every channel of the model. The document
(tags, licence, front end) travels in the file, for ``fcntag convert`` and for people.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .interface import rows_and_frames

if TYPE_CHECKING:
    from ..model.file import Model

__all__ = ["SUFFIXES", "export", "rows_and_frames"]

SUFFIXES = (".onnx", ".pt", ".pt2")


def export(model: Model, path: str | os.PathLike[str], *, frontend: bool = False, blocks: bool = False) -> None:
    """Write ``model`` to ``path``, in the format that its suffix names, atomically. No format needs fcntag to run.

    Parameters
    ----------
    path : ends in ``.onnx`` (opset 17), ``.pt`` (TorchScript, for ``torch.jit.load`` in Python or C++) or ``.pt2`` (an
        exported program, for ``torch.export.load``)
    frontend : take waves in place of the log-mel
    blocks : give every block's pooled output after the scores

    Raises
    ------
    ValueError : another suffix
    ImportError : onnx or torch is missing; the message names the extra
    ModelError : the model is too large for the format, or the file cannot be written
    """
    from ..model.file import write_atomically

    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{os.fspath(path)}: the format is told by the suffix; built: {', '.join(SUFFIXES)}")
    write_atomically(path, _writer(suffix)(model, frontend, blocks))


def _writer(suffix: str) -> Callable[[Model, bool, bool], bytes]:
    if suffix == ".onnx":
        from .onnx import model_bytes

        return lambda model, frontend, blocks: model_bytes(model, frontend=frontend, blocks=blocks)
    from . import torch

    write = torch.script_bytes if suffix == ".pt" else torch.program_bytes
    return lambda model, frontend, blocks: write(torch.Module(model, frontend=frontend, blocks=blocks))
