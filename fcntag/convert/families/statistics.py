"""Frozen batch-norm statistics, for released weights that have none of their own."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import ModelError
from ..batchnorm import Rule
from ..readers.keras import BatchNorm, KerasFile

_FILE = Path(__file__).resolve().parent / "frozen_statistics.json"


@dataclass(frozen=True)
class FrozenStatistics:
    """Mean and biased variance of each convolution's output, per channel, and how batch-norm used them."""

    rule: Rule
    epsilon: float
    means: list[np.ndarray]
    variances: list[np.ndarray]


def frozen_statistics(name: str, file: KerasFile) -> FrozenStatistics:
    """The statistics measured for catalogue model ``name``; raises ModelError if ``file`` holds other weights.

    Statistics have a meaning only with the weights that they were measured with, so the digest of these is compared.
    """
    recorded = json.loads(_FILE.read_text(encoding="utf-8"))["models"][name]
    if weights_digest(file) != recorded["weights_sha256"]:
        raise ModelError(
            f"the file has no batch-norm statistics of its own, and the frozen ones of {name} belong to other weights"
        )
    return FrozenStatistics(
        rule=recorded["rule"],
        epsilon=recorded["epsilon"],
        means=[np.array(block["mean"], dtype=np.float64) for block in recorded["blocks"]],
        variances=[np.array(block["variance"], dtype=np.float64) for block in recorded["blocks"]],
    )


def weights_digest(file: KerasFile) -> str:
    """sha256, in hex, of all parameters as float32 in file order, kernels as cross-correlations.

    The same weights stored under Theano and under TensorFlow have the same digest.
    """
    digest = hashlib.sha256()
    for layer in file.layers:
        if isinstance(layer, BatchNorm):
            arrays = [layer.gamma, layer.beta, layer.mean, layer.spread]
        else:
            arrays = [layer.weight, layer.bias]
        for array in arrays:
            digest.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
    return digest.hexdigest()
