"""The activation of a model's head, which turns logits into scores."""

from __future__ import annotations

import numpy as np


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-logits)), in the type of ``logits``; large negative values do not overflow."""
    return np.exp(-np.logaddexp(0.0, -logits))
