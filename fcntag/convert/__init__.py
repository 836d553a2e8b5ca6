"""Original checkpoints to model files: ``convert(source)`` gives the document and tensors to hand to ``write_model``.

A checkpoint is untrusted input: no code of it is ever run, and everything it claims is checked. Each kind of file has a
module in ``readers``, each family of networks one in ``families``, and ``detect`` has the table of both. A
``ModelBuilder`` refuses tensors that do not fit the document. ``convert_stack`` takes ONNX files and state dicts of any
other stack of blocks.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ModelError

if TYPE_CHECKING:
    import numpy as np

    from ..model.document import ModelDocument
    from .custom import Converted, convert_stack

__all__ = ["Converted", "convert", "convert_stack"]


def __getattr__(name: str) -> Any:
    if name in ("Converted", "convert_stack"):  # pulls in the engine, to compare with
        from . import custom

        return getattr(custom, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def convert(
    source: str | os.PathLike[str],
    family: str | None = None,
    *,
    kernels: Literal["theano", "tensorflow"] | None = None,
    key: str | None = None,
    check: str | None = None,
) -> tuple[ModelDocument, dict[str, np.ndarray]]:
    """Convert an original checkpoint to a model document and its float32 tensors.

    A file that is none of the published ones is converted under the name ``{family}-unverified``.

    Parameters
    ----------
    source : a TensorFlow V2 checkpoint (its folder, prefix or ``.index``), the musicnn wheel, a Keras 1 or 2 HDF5 file,
        or a PyTorch state dict
    family : the catalogue model whose network, tags and constants it has. It is needed only where neither the file's
        sha256 nor its layers tell: for the three Won models, other musicnn checkpoints, and the wheel, which holds two.
    kernels : how a Keras file stores its kernels, where the file tells it wrongly
    key : which of several state dicts in a PyTorch checkpoint
    check : path of stored inputs and outputs of the original, to compare with: see :mod:`fcntag.convert.check`

    Returns
    -------
    the document, and the float32 tensors by its names

    Raises
    ------
    ModelError : the source is missing, damaged, of an unknown network, or not ``family``; the message begins with the
        path
    """
    from . import detect

    path = Path(source)
    if family is not None and family not in detect.families():
        raise ModelError(f"{family}: not a model that a checkpoint can be; allowed: {', '.join(detect.families())}")
    try:
        document, tensors = detect.convert_source(path, family, kernels, key)
    except ModelError as error:
        text = str(error)
        raise ModelError(text if text.startswith(str(source)) else f"{path}: {text}") from None
    if check is not None:
        from .check import check_stored  # pulls in the engine

        check_stored(check, document, tensors, normalises=True)
    return document, tensors
