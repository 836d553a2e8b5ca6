"""Shared by the tests of the lossless compiler: how a reduced model is compared with its original."""

from __future__ import annotations

from typing import Any

import numpy as np

from fcntag import oracle
from fcntag.model.document import Log
from fcntag.model.file import Model, check_tensors
from fcntag.reduce import reduce_model
from fcntag.reduce.channels import TOLERANCE, reduce_channels
from fcntag.reduce.ranges import input_range
from support.numerics import max_abs

EXACT = 1e-12  # float64 throughout, carrier weights unrounded
ROUNDED = 1e-9  # published models: float64 arithmetic on the float32 tensors that an engine gets
# Random models with planted constants as large as the signal: the carrier's weights are rounded to 6e-8 of themselves.
LARGE_ROUNDED = 1e-7


FRONTENDS: dict[str, dict[str, Any]] = {
    "db": {},
    "db, power squared": {"power_exponent": 2},
    "db below the maximum": {"log": Log(kind="db", amin=1e-10, ref="max")},
    "db below the maximum, floored": {"log": Log(kind="db", amin=1e-10, ref="max", top_db=80.0)},
    "db, floored": {"log": Log(kind="db", amin=1e-10, top_db=80.0)},
    "log10p1 in float16": {"log": Log(kind="log10p1", gain=10000.0), "rounding": "float16"},
    "log10p1": {"log": Log(kind="log10p1", gain=10000.0)},
    "scalar": {"normalization": "scalar"},
    "per_mel": {"normalization": "per_mel", "layout": "time_mel"},
    "per_frame": {"normalization": "per_frame"},
    "standardize": {"normalization": "standardize"},
}


def inputs(model: Model, rng: np.random.Generator, batch: int = 2) -> np.ndarray:
    """Network inputs [B, H, W] of the size of a normalised log-mel, all of them inside what the front end can give."""
    return np.clip(
        rng.standard_normal((batch, *model.document.input_size())), *input_range(model.document, model.tensors)
    )


def check(
    model: Model, x: np.ndarray, tolerance: float = TOLERANCE, *, rounded: float = LARGE_ROUNDED
) -> tuple[Model, Any]:
    """Reduce; compare scores, head features and kept maps with the original's. The reduced model and its report."""
    reduced, report = reduce_model(model, tolerance=tolerance)
    exact, _ = reduce_channels(model, tolerance=tolerance, exact=True)
    assert report.score_bound <= tolerance
    check_tensors(reduced.document, reduced.tensors)
    want = oracle.scores_of(model, x)
    assert max_abs(oracle.scores_of(exact, x), want) <= EXACT
    assert max_abs(oracle.scores_of(reduced, x), want) <= rounded
    features = oracle.features(model, x)
    restored = report.restore_features(oracle.features(exact, x))
    assert max_abs(restored, features) <= EXACT * (1.0 + np.abs(features).max())
    for small, full, part in zip(oracle.blocks(exact, x), oracle.blocks(model, x), report.blocks, strict=True):
        kept = len(part.kept)
        assert small.shape[1] == part.channels_after == kept + part.carrier
        assert (small[:, kept:] == 1.0).all()
        if kept:
            assert max_abs(small[:, :kept], full[:, part.kept]) <= EXACT * (1.0 + np.abs(full).max())
    return reduced, report
