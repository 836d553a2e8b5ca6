"""Batch-norm as an affine map, and its folding into the convolution before it; all in float64.

BN(x) = gamma * (x - mean) / denominator + beta. The denominator depends on the software that trained the network, and a
wrong choice still gives plausible tags:

========================== ==================== =======================================================
rule                       denominator          used by
========================== ==================== =======================================================
``standard``               sqrt(var + eps)      Keras >= 1.0.8, TensorFlow, PyTorch
``keras105``               sqrt(var + eps) + eps  Keras <= 1.0.5, and 1.0.6 on Theano, from a variance
``keras105_running_std``   std + eps            the same versions, from their stored ``running_std`` (a std)
========================== ==================== =======================================================
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..errors import ModelError

Rule = Literal["standard", "keras105", "keras105_running_std"]


def scale_shift(
    gamma: np.ndarray, beta: np.ndarray, mean: np.ndarray, spread: np.ndarray, *, rule: Rule, epsilon: float
) -> tuple[np.ndarray, np.ndarray]:
    """(scale, shift) in float64, so that BN(x) = scale * x + shift; all of one shape [C].

    ``spread`` is the variance, or for ``keras105_running_std`` the standard deviation. Raises ModelError if it is
    negative, because the square root would make every score NaN.
    """
    gamma, beta, mean, spread = (np.asarray(a, dtype=np.float64) for a in (gamma, beta, mean, spread))
    if (spread < 0).any():
        raise ModelError(f"batch-norm: a variance is negative ({spread.min():g})")
    if rule == "standard":
        denominator = np.sqrt(spread + epsilon)
    elif rule == "keras105":
        denominator = np.sqrt(spread + epsilon) + epsilon
    elif rule == "keras105_running_std":
        denominator = spread + epsilon
    else:
        raise ModelError(f"batch-norm: rule {rule!r} is unknown")
    scale = gamma / denominator
    return scale, beta - mean * scale


def fold(weight: np.ndarray, bias: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Convolution [O, I, K, K] + bias [O] followed by scale, shift [O], as one convolution; float64.

    This is right only for a batch-norm directly after the convolution. One after the activation cannot be folded, nor
    one before a zero-padded convolution: the padding is zero after the batch-norm, not before it.
    """
    weight = np.asarray(weight, dtype=np.float64) * np.asarray(scale, dtype=np.float64)[:, None, None, None]
    return weight, np.asarray(bias, dtype=np.float64) * scale + shift


def fold_into_dense(
    weight: np.ndarray, bias: np.ndarray, scale: np.ndarray, shift: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """scale, shift [F], then a dense layer [O, F] + bias [O], as one dense layer; float64.

    A dense layer pads nothing, so that a batch-norm in front of one can be folded, where one in front of a convolution
    cannot.
    """
    weight = np.asarray(weight, dtype=np.float64)
    bias = np.asarray(bias, dtype=np.float64) + weight @ np.asarray(shift, dtype=np.float64)
    return weight * np.asarray(scale, dtype=np.float64), bias
