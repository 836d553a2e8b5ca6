"""PyTorch state dicts, read with ``weights_only``: no code of the file is ever run."""

from __future__ import annotations

import os
import warnings

import numpy as np

from ...errors import ModelError

_MAX_TENSORS = 4096
_MAX_ELEMENTS = 1 << 26


def read_state(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The tensors of a ``.pth`` state dict by name, floats as float64, integers as int64.

    Raises ModelError if torch is missing, or if the file is not a plain dict of dense tensors.
    """
    try:
        import torch
    except ImportError:
        raise ModelError(
            f'{path}: reading .pth files needs torch; install it with: pip install "fcntag[validate]"'
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a TorchScript archive, which is refused in our own words
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        # torch raises many types for a damaged or malicious file, from EOFError to IndexError. Its texts are long,
        # coloured, and tell how to run the file's code.
        raise ModelError(f"{path}: not a PyTorch state dict, or damaged") from None
    if not isinstance(state, dict) or len(state) > _MAX_TENSORS:
        raise ModelError(f"{path}: not a PyTorch state dict")
    arrays = {}
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise ModelError(f"{path}: {str(name)[:80]}: is {type(tensor).__name__}; must be a tensor")
        # A strided view can claim far more elements than the file has bytes.
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.numel() > _MAX_ELEMENTS:
            raise ModelError(f"{path}: {name}: must be a dense tensor of at most {_MAX_ELEMENTS} elements")
        if not (tensor.dtype.is_floating_point or tensor.dtype == torch.int64):
            raise ModelError(f"{path}: {name}: dtype is {tensor.dtype}; must be floating point or int64")
        arrays[name] = tensor.detach().to(torch.float64 if tensor.dtype.is_floating_point else torch.int64).numpy()
    return arrays
