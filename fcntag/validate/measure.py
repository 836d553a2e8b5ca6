"""One stage of the engine beside the reference's: the measures, the tolerance, and one line about a fault."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from . import tolerances

if TYPE_CHECKING:
    from ..engine import Engine

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The comparison of one stage.

    Attributes
    ----------
    name : "mel", "block 1", ..., "hidden 1", ..., "head" or "scores"
    measure : the one that ``allowed`` bounds, "relative_l2" or "max_abs"
    max_abs : largest absolute difference; NaN where the engine's values are not finite
    relative_l2 : ||engine - reference|| / ||reference||
    allowed : see ``fcntag.validate.tolerances``
    top : of scores, how many of the best ``n_top`` tags stand in the same place, in the worst segment
    n_top : 0 for other stages
    problem : one line about a value beyond tolerance, or None
    """

    name: str
    measure: str
    max_abs: float
    relative_l2: float
    allowed: float
    top: int = 0
    n_top: int = 0
    problem: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, where NaN and infinity are null."""
        out = dataclasses.asdict(self)
        for name in ("max_abs", "relative_l2"):
            out[name] = out[name] if np.isfinite(out[name]) else None
        return out


def compare(name: str, actual: ArrayLike, expected: ArrayLike, allowed: float, one_value: float) -> Stage:
    """Compare a map: relative L2 within ``allowed``, no value further off than ``one_value`` x the rms of ``expected``.

    Where ``expected`` is all zero the rms counts as 1.
    """
    a, e, problem = _pair(actual, expected)
    if problem is not None:
        return Stage(
            name=name, measure="relative_l2", max_abs=np.nan, relative_l2=np.nan, allowed=allowed, problem=problem
        )
    rms = float(np.sqrt(np.mean(e * e))) or 1.0
    worst = float(np.abs(a - e).max())
    relative = float(np.sqrt(np.mean((a - e) ** 2))) / rms
    if not relative <= allowed:
        problem = f"relative L2 {relative:.1e}, allowed {allowed:.0e}"
    elif not worst <= one_value * rms:
        problem = f"one value off by {worst:.1e}, allowed {one_value * rms:.0e} (the rms is {rms:.1e})"
    return Stage(
        name=name, measure="relative_l2", max_abs=worst, relative_l2=relative, allowed=allowed, problem=problem
    )


def compare_scores(
    actual: ArrayLike, expected: ArrayLike, allowed: float, tags: tuple[str, ...], n_top: int = 5
) -> Stage:
    """Compare scores [B, n_tags]: every one within ``allowed``, and the ``n_top`` best in the same order.

    Two tags may change places where the reference puts them within twice ``allowed``: there both may be right.
    """
    a, e, problem = _pair(actual, expected)
    if problem is not None:
        return Stage(
            name="scores", measure="max_abs", max_abs=np.nan, relative_l2=np.nan, allowed=allowed, problem=problem
        )
    n_top = min(n_top, e.shape[1])
    worst = float(np.abs(a - e).max())
    relative = float(np.linalg.norm(a - e)) / (float(np.linalg.norm(e)) or 1.0)
    if not worst <= allowed:
        problem = f"max abs {worst:.1e}, allowed {allowed:.0e}"
    agree = n_top
    for mine, theirs in zip(a, e, strict=True):
        order, right = (np.argsort(-s, kind="stable")[:n_top] for s in (mine, theirs))
        agree = min(agree, int((order == right).sum()))
        for rank, (i, j) in enumerate(zip(order, right, strict=True), start=1):
            gap = abs(theirs[i] - theirs[j])
            if problem is None and gap > 2 * allowed:
                problem = f"rank {rank} is {tags[i]!r}, not {tags[j]!r}: {gap:.1e} apart, allowed {2 * allowed:.0e}"
    return Stage(
        name="scores",
        measure="max_abs",
        max_abs=worst,
        relative_l2=relative,
        allowed=allowed,
        top=agree,
        n_top=n_top,
        problem=problem,
    )


def mel_stage(actual: ArrayLike, expected: ArrayLike, engine: Engine) -> Stage:
    """Compare the network's input, with the tolerance of the front end on the engine's device and precision."""
    allowed, one_value = tolerances.MEL, tolerances.MEL_ONE_VALUE
    if engine.document.frontend.rounding == "float16":
        allowed = tolerances.MEL_FLOAT16
    if engine.device != "cpu" and engine.precision != "float32":
        allowed, one_value = tolerances.MEL_FLOAT32_FFT, np.inf
    return compare("mel", actual, expected, allowed, one_value)


def _pair(actual: ArrayLike, expected: ArrayLike) -> tuple[Array, Array, str | None]:
    a, e = np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    if a.shape != e.shape:  # broadcasting would pair values that do not belong together
        return a, e, f"shape {list(a.shape)}, the reference's is {list(e.shape)}"
    for name, array in (("the engine", a), ("the reference", e)):
        bad = int(np.count_nonzero(~np.isfinite(array)))
        if bad:
            return a, e, f"{bad} of {array.size} values of {name} are not finite"
    return a, e, None
