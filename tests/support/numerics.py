"""How two computations are compared: measures that fail on NaN and wrong shapes, and tolerances with their reasons.

Where a golden was computed or stored in less than float64, the test that reads it states so beside its own number.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fcntag.validate import tolerances

# Computation against the oracle or a float64 golden of the original code, on real or realistic audio.
SCORES = {
    "oracle": 1e-6,  # tensors are float32 (folded from float64): half an ulp of every weight, measured 3e-8 to 3e-7
    "engine": tolerances.SCORES["float32"],  # float32 arithmetic throughout, on any device
}
ONE_BLOCK = tolerances.BLOCK["float32"]  # relative L2 of one block, from the input that it really had
BLOCKS = {  # relative L2 of a block's pooled output, from the same network input
    "oracle": 1e-6,  # float32 tensors again
    "engine": 3e-6,  # five blocks of ONE_BLOCK each, independent: 2.2e-6; and the float32 of input and tensors
}
MEL_POWER = 1e-5  # docs/numerics.md: relative, before the log, on bins above the floor
FLOAT16_ULP = 2.0**-10  # relative spacing of normal float16 numbers


def _pair(actual: ArrayLike, expected: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, e = np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    if a.shape != e.shape:  # broadcasting would compare what was never meant to be compared
        raise AssertionError(f"shape {a.shape}, expected {e.shape}")
    if not a.size:
        raise AssertionError(f"nothing to compare: shape {a.shape}")
    for name, array in (("actual", a), ("expected", e)):
        bad = np.count_nonzero(~np.isfinite(array))
        if bad:
            raise AssertionError(f"{name}: {bad} of {array.size} values are not finite")
    return a, e


def max_abs(actual: ArrayLike, expected: ArrayLike) -> float:
    """Largest absolute difference. Shapes must be equal, values finite."""
    a, e = _pair(actual, expected)
    return float(np.abs(a - e).max())


def relative_l2(actual: ArrayLike, expected: ArrayLike) -> float:
    """||actual - expected|| / ||expected||; infinite where only ``expected`` is all zero."""
    a, e = _pair(actual, expected)
    error, norm = float(np.linalg.norm(a - e)), float(np.linalg.norm(e))
    return error / norm if norm else (0.0 if error == 0.0 else float("inf"))


def max_relative(actual: ArrayLike, expected: ArrayLike, floor: float) -> float:
    """Largest relative difference over the values of ``expected`` above ``floor`` (> 0); there must be some."""
    a, e = _pair(actual, expected)
    above = e > floor
    if not above.any():
        raise AssertionError(f"no value above the floor {floor}")
    return float((np.abs(a - e)[above] / e[above]).max())


def assert_scores(actual: ArrayLike, expected: ArrayLike, tolerance: float, top: int = 5) -> None:
    """Scores [n_tags] or [B, n_tags] agree within ``tolerance``, and so does the order of the ``top`` best."""
    worst = max_abs(actual, expected)
    assert worst <= tolerance, f"scores differ by {worst:.3g}, tolerance {tolerance:g}"
    for a, e in zip(np.atleast_2d(actual), np.atleast_2d(expected), strict=True):
        assert_same_top(a, e, top, tolerance)


def assert_same_top(actual: ArrayLike, expected: ArrayLike, top: int, tolerance: float) -> None:
    """The ``top`` best of two score vectors are the same tags in the same order.

    Two tags may change places only where ``expected`` puts them within ``tolerance`` of each other: then both
    computations may be right and the order means nothing.
    """
    a, e = _pair(actual, expected)
    for rank, (i, j) in enumerate(
        zip(np.argsort(-a, kind="stable")[:top], np.argsort(-e, kind="stable")[:top], strict=True)
    ):
        gap = abs(e[i] - e[j])
        assert i == j or gap <= tolerance, f"rank {rank}: tag {i}, expected tag {j}, {gap:.3g} apart"


def assert_block(actual: ArrayLike, expected: ArrayLike, tolerance: float, what: str = "block") -> None:
    """Relative L2 of a map within ``tolerance``, and no single value off by more than 100 x tolerance x rms.

    The second bound catches one wrong element in a large map, which the norm forgives.
    """
    error = relative_l2(actual, expected)
    assert error <= tolerance, f"{what}: relative L2 {error:.3g}, tolerance {tolerance:g}"
    a, e = _pair(actual, expected)
    worst, rms = float(np.abs(a - e).max()), float(np.sqrt(np.mean(e * e)))
    assert worst <= 100 * tolerance * rms, f"{what}: one value is off by {worst:.3g}, the map's rms is {rms:.3g}"


def assert_rounds_to_float16(actual: ArrayLike, stored: NDArray[np.float16], slack: float, what: str = "block") -> None:
    """``stored`` is ``actual`` rounded to float16: nothing further off than half a spacing plus ``slack`` x rms."""
    a, e = _pair(actual, stored)
    rms = float(np.sqrt(np.mean(e * e)))
    allowed = FLOAT16_ULP / 2 * np.maximum(np.abs(e), np.finfo(np.float16).smallest_normal) * (1 + 2 * FLOAT16_ULP)
    excess = float((np.abs(a - e) - allowed).max())
    assert excess <= slack * rms, f"{what}: {excess:.3g} beyond float16 rounding, rms {rms:.3g}"


def poisoned(shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
    """An array of NaN: for memory that must be written completely, or must never be read."""
    return np.full(shape, np.nan, dtype=dtype)


def assert_unpoisoned(array: ArrayLike, what: str = "array") -> None:
    """No NaN is left, or has come through."""
    bad = int(np.count_nonzero(np.isnan(np.asarray(array))))
    assert bad == 0, f"{what}: {bad} of {np.size(array)} values are poison"
