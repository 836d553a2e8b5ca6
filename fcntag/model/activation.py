"""The activations of a model: of its layers, and of the head, which turns logits into scores."""

from __future__ import annotations

import numpy as np


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-logits)), in the type of ``logits``; large negative values do not overflow."""
    return np.exp(-np.logaddexp(0.0, -logits))


def activate(x: np.ndarray, activation: str) -> np.ndarray:
    """``x`` through "relu", "elu" (alpha 1) or "none"."""
    if activation == "relu":
        return np.maximum(x, 0.0)
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0.0))) if activation == "elu" else x
