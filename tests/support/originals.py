"""The original checkpoints read as they are, unfolded, for the tests: independent of ``fcntag.convert`` on purpose."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

FCN5_POOLS = ((2, 4), (2, 4), (2, 4), (3, 5), (4, 4))
COMPACT_POOLS = ((2, 4), (3, 4), (2, 5), (2, 4), (4, 4))


@dataclass(frozen=True)
class Norm:
    """A batch-norm as stored. ``spread``: running_std (Keras 1) or moving_variance (Keras 2), uninterpreted."""

    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray
    spread: np.ndarray


@dataclass(frozen=True)
class KerasFile:
    """``weights`` [O, C, 3, 3] in the order of the layers, as cross-correlations; ``head_weight`` [C, n_tags]."""

    weights: list[np.ndarray]
    biases: list[np.ndarray]
    norms: list[Norm]
    input_norm: Norm | None
    head_weight: np.ndarray | None  # None: the file has no dense layer (Choi 2017, TensorFlow)
    head_bias: np.ndarray | None


def read_keras(path: Path) -> KerasFile:
    """A Keras 1 or 2 HDF5 file of Choi's. Kernels of Theano files are rotated by 180 degrees, Keras 2's are HWIO."""
    arrays: dict[str, np.ndarray] = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and not name.startswith("optimizer") and "melgram" not in name:
            arrays[name.removesuffix(":0")] = item[()]  # TensorFlow names its variables so

    with h5py.File(path, "r") as file:
        file.visititems(visit)

    def all_of(pattern: str, ndim: int) -> list[np.ndarray]:
        def layer(name: str) -> int:  # as a number: convolution2d_10 comes after convolution2d_9; R4's output has none
            return int((re.findall(r"\d+", name) or ["0"])[-1])

        found = [name for name in arrays if re.search(pattern, name) and arrays[name].ndim == ndim]
        return [arrays[name] for name in sorted(found, key=layer)]

    weights = all_of(r"(_W|kernel)$", 4)
    if path.name.startswith("K2"):
        weights = [w.transpose(3, 2, 0, 1) for w in weights]
    elif "tensorflow" not in path.name:
        weights = [w[:, :, ::-1, ::-1] for w in weights]
    parts = [all_of(pattern, 1) for pattern in ("gamma", "beta", "_mean", "running_std|moving_variance")]
    norms = [Norm(*arrays_of_one) for arrays_of_one in zip(*parts, strict=True)]
    input_norm = norms.pop(0) if len(norms) > len(weights) else None
    head = all_of(r"(_W|kernel)$", 2), all_of(r"(dense|output).*(_b|bias)$", 1)
    head_weight, head_bias = (found[0] if found else None for found in head)
    return KerasFile(weights, all_of(r"conv.*(_b|bias)$", 1), norms, input_norm, head_weight, head_bias)
