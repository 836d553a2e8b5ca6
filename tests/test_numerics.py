"""The comparison helpers can fail: on NaN, on shapes, on one wrong element, on a changed order."""

from __future__ import annotations

import numpy as np
import pytest
from support.numerics import (
    assert_block,
    assert_rounds_to_float16,
    assert_same_top,
    assert_scores,
    assert_unpoisoned,
    max_abs,
    max_relative,
    poisoned,
    relative_l2,
)


def test_measures_on_numbers_worked_by_hand() -> None:
    assert max_abs([1.0, -2.0], [1.5, -2.0]) == 0.5
    assert relative_l2([3.0, 5.0], [3.0, 4.0]) == pytest.approx(1 / 5)
    assert relative_l2([0.0], [0.0]) == 0.0
    assert relative_l2([1e-30], [0.0]) == float("inf")
    assert max_relative([1.1, 99.0], [1.0, 1e-3], floor=0.5) == pytest.approx(0.1)


@pytest.mark.parametrize("measure", [max_abs, relative_l2, lambda a, e: max_relative(a, e, 0.0)])
@pytest.mark.parametrize(
    ("actual", "expected", "message"),
    [
        ([1.0, np.nan], [1.0, 1.0], "actual: 1 of 2 values are not finite"),
        ([1.0, 1.0], [1.0, np.inf], "expected: 1 of 2"),
        ([[1.0], [1.0]], [1.0, 1.0], r"shape \(2, 1\), expected \(2,\)"),
        ([], [], "nothing to compare"),
    ],
)
def test_measures_refuse_what_cannot_be_compared(measure, actual, expected, message) -> None:
    with pytest.raises(AssertionError, match=message):
        measure(actual, expected)


def test_max_relative_refuses_a_floor_above_everything() -> None:
    with pytest.raises(AssertionError, match="no value above"):
        max_relative([1.0], [1.0], floor=2.0)


def test_scores_beyond_the_tolerance_fail() -> None:
    assert_scores([0.5, 0.1], [0.5 + 9e-6, 0.1], 1e-5)
    with pytest.raises(AssertionError, match="scores differ"):
        assert_scores([0.5, 0.1], [0.5 + 2e-5, 0.1], 1e-5)
    with pytest.raises(AssertionError, match="scores differ"):
        assert_scores([[0.5, 0.1], [0.5, 0.2]], [[0.5, 0.1], [0.5, 0.1]], 1e-5)


def test_order_may_change_only_between_ties() -> None:
    assert_same_top([0.50001, 0.5, 0.1], [0.5, 0.50001, 0.1], top=2, tolerance=2e-5)
    with pytest.raises(AssertionError, match=r"rank 0: tag 0, expected tag 1"):
        assert_same_top([0.51, 0.5, 0.1], [0.5, 0.51, 0.1], top=2, tolerance=1e-5)
    with pytest.raises(AssertionError, match=r"rank 1: tag 2, expected tag 1"):
        assert_same_top([0.9, 0.1, 0.2], [0.9, 0.3, 0.2], top=2, tolerance=1e-2)


def test_one_wrong_element_in_a_large_map_fails(rng: np.random.Generator) -> None:
    expected = rng.standard_normal((64, 100, 100))
    assert_block(expected * (1 + 5e-7), expected, 1e-6)
    actual = expected.copy()
    actual[3, 4, 5] += 4e-4
    assert relative_l2(actual, expected) < 1e-6  # the norm alone would let it pass
    with pytest.raises(AssertionError, match="one value is off"):
        assert_block(actual, expected, 1e-6)
    with pytest.raises(AssertionError, match="relative L2"):
        assert_block(expected * (1 + 2e-6), expected, 1e-6)


def test_float16_rounding_is_told_from_more(rng: np.random.Generator) -> None:
    exact = rng.standard_normal(10_000) * 10
    stored = exact.astype(np.float16)
    assert_rounds_to_float16(exact, stored, slack=1e-9)
    with pytest.raises(AssertionError, match="beyond float16"):
        assert_rounds_to_float16(exact * 1.001, stored, slack=1e-9)


def test_poison_is_found() -> None:
    array = poisoned((2, 3))
    with pytest.raises(AssertionError, match="6 of 6"):
        assert_unpoisoned(array)
    array[:] = 0
    assert_unpoisoned(array)
