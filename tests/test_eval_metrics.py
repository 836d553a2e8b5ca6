"""ROC-AUC, PR-AUC and their bootstrap against scikit-learn, and against what can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score
from support.eval_sets import random_set

from fcntag.eval import bootstrap, macro, per_tag, pr_auc, roc_auc
from fcntag.eval.metrics import centred_quantiles, resampled

METRICS = (roc_auc_score, average_precision_score)
CASES = [
    (500, 6, None),
    (500, 6, 1),
    (500, 6, 0),
    (40, 30, 2),
    (3, 4, None),
]  # clips, tags, digits: 0 is nearly all ties


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_scikit_learn(case, rng):
    labels, scores = random_set(rng, *case)
    ours = per_tag(labels, scores)
    for k in range(labels.shape[1]):
        assert abs(ours.roc_auc[k] - roc_auc_score(labels[:, k], scores[:, k])) <= 1e-12
        assert abs(ours.pr_auc[k] - average_precision_score(labels[:, k], scores[:, k])) <= 1e-12
    assert abs(macro(ours.roc_auc) - roc_auc_score(labels, scores, average="macro")) <= 1e-12
    assert abs(macro(ours.pr_auc) - average_precision_score(labels, scores, average="macro")) <= 1e-12


def test_equals_scikit_learn_on_float32_scores(rng):
    labels, scores = random_set(rng, 400, 3)
    scores = scores.astype(np.float32)
    for k in range(3):
        assert abs(roc_auc(labels[:, k], scores[:, k]) - roc_auc_score(labels[:, k], scores[:, k])) <= 1e-12
        assert abs(pr_auc(labels[:, k], scores[:, k]) - average_precision_score(labels[:, k], scores[:, k])) <= 1e-12


@pytest.mark.parametrize(
    ("labels", "scores", "roc", "pr"),
    [
        ([1, 0], [0.9, 0.1], 1.0, 1.0),
        ([1, 0], [0.1, 0.9], 0.0, 0.5),
        ([1, 0], [0.5, 0.5], 0.5, 0.5),
        ([1, 0, 1, 0], [4, 3, 2, 1], 0.75, (1 + 2 / 3) / 2),
        ([0, 0, 1], [-0.0, 0.0, 0.0], 0.5, 1 / 3),  # the two zeros are one score
        ([1, 1, 0, 0, 0], [2, 1, 1, 0, 0], 11 / 12, 1 / 2 + 1 / 2 * 2 / 3),
    ],
)
def test_by_hand(labels, scores, roc, pr):
    assert roc_auc(labels, scores) == pytest.approx(roc, abs=1e-15)
    assert pr_auc(labels, scores) == pytest.approx(pr, abs=1e-15)


def test_one_class_alone_has_no_value():
    labels = np.array([[1, 0, 1], [1, 0, 0]])
    ours = per_tag(labels, np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.1]]))
    assert np.isnan(ours.roc_auc).tolist() == [True, True, False]
    assert np.isnan(ours.pr_auc).tolist() == [True, True, False]
    assert macro(ours.roc_auc) == 1.0
    assert math.isnan(macro(ours.roc_auc[:2]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(bad, rng):
    labels, scores = random_set(rng, 10, 2)
    scores[7, 1] = bad
    for function in (per_tag, bootstrap):
        with pytest.raises(ValueError, match="row 7, column 1"):
            function(labels, scores)


def test_labels_and_sizes_are_checked():
    with pytest.raises(ValueError, match="0 and 1"):
        per_tag(np.array([[2], [0]]), np.zeros((2, 1)))
    with pytest.raises(ValueError, match=r"\[2, 1\].*\[3, 1\]"):
        per_tag(np.zeros((2, 1)), np.zeros((3, 1)))
    with pytest.raises(ValueError, match="resamples"):
        bootstrap(np.array([[1], [0]]), np.zeros((2, 1)), resamples=0)
    with pytest.raises(ValueError, match="confidence"):
        bootstrap(np.array([[1], [0]]), np.zeros((2, 1)), confidence=1.0)


@pytest.mark.parametrize("digits", [None, 1])
def test_bootstrap_is_scikit_learn_on_repeated_clips(digits, rng):
    """Each resample drawn again and handed to scikit-learn, clip by clip."""
    labels, scores = random_set(rng, 60, 4, digits)
    resamples, seed = 37, 11
    ours = bootstrap(labels, scores, resamples=resamples, seed=seed, confidence=0.9)
    draws = np.random.default_rng(seed)
    values = np.full((2, resamples, 4), np.nan)
    for r in range(resamples):
        rows = draws.integers(0, 60, 60)
        for k in range(4):
            y, s = labels[rows, k], scores[rows, k]
            if 0 < y.sum() < len(y):
                values[:, r, k] = roc_auc_score(y, s), average_precision_score(y, s)
    of_all = np.array([[metric(labels[:, k], scores[:, k]) for k in range(4)] for metric in METRICS])
    moved = values + (of_all - np.nanmean(values, axis=1))[:, None]  # onto the values of the clips themselves
    np.testing.assert_allclose(ours.low, np.clip(np.nanquantile(moved, 0.05, axis=1), 0, 1), rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours.high, np.clip(np.nanquantile(moved, 0.95, axis=1), 0, 1), rtol=0, atol=1e-12)
    means = np.nanmean(values, axis=2)
    means += (of_all.mean(axis=1) - means.mean(axis=1))[:, None]
    np.testing.assert_allclose(ours.macro_low, np.clip(np.quantile(means, 0.05, axis=1), 0, 1), rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours.macro_high, np.clip(np.quantile(means, 0.95, axis=1), 0, 1), rtol=0, atol=1e-12)
    assert ours.undefined.tolist() == np.isnan(values[0]).sum(axis=0).tolist()


def test_resamples_of_groups_are_scikit_learn_on_repeated_groups(rng):
    """Clips of one piece are drawn together, under whatever number the piece goes."""
    labels, scores = random_set(rng, 60, 3)
    groups = rng.integers(0, 15, 60)
    names, members = np.unique(groups, return_inverse=True)
    ours = resampled(labels, scores, resamples=23, seed=5, groups=groups * 7 - 3)
    draws = np.random.default_rng(5)
    for r in range(23):
        drawn = draws.integers(0, len(names), len(names))
        rows = np.concatenate([np.flatnonzero(members == group) for group in drawn])
        for k in range(3):
            y, s = labels[rows, k], scores[rows, k]
            if 0 < y.sum() < len(y):
                np.testing.assert_allclose(ours[0, r, k], roc_auc_score(y, s), rtol=0, atol=1e-12)
                np.testing.assert_allclose(ours[1, r, k], average_precision_score(y, s), rtol=0, atol=1e-12)
            else:
                assert np.isnan(ours[:, r, k]).all()
    alone = resampled(labels, scores, resamples=23, seed=5)
    np.testing.assert_array_equal(resampled(labels, scores, resamples=23, seed=5, groups=np.arange(60)), alone)
    with pytest.raises(ValueError, match=r"groups: \(59,\) must be one number a clip"):
        resampled(labels, scores, groups=groups[:59])


def test_bootstrap_does_not_depend_on_the_block(rng, monkeypatch):
    from fcntag.eval import metrics

    labels, scores = random_set(rng, 50, 3)
    whole = bootstrap(labels, scores, resamples=40)
    monkeypatch.setattr(metrics, "BLOCK", 7 * 50)
    parts = bootstrap(labels, scores, resamples=40)
    np.testing.assert_array_equal(whole.low, parts.low)
    np.testing.assert_array_equal(whole.macro_high, parts.macro_high)


def test_seed_and_confidence(rng):
    labels, scores = random_set(rng, 80, 3)
    first, again, other = (bootstrap(labels, scores, resamples=200, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.low, again.low)
    assert (first.low != other.low).any()
    narrow = bootstrap(labels, scores, resamples=200, seed=1, confidence=0.5)
    assert (narrow.low >= first.low).all()
    assert (narrow.high <= first.high).all()


def test_a_rare_tag_leaves_resamples_out():
    labels = np.zeros((20, 2), bool)
    labels[0, 0] = True
    labels[:10, 1] = True
    ours = bootstrap(labels, np.arange(40.0).reshape(20, 2), resamples=400)
    # a clip of 20 is missing from a resample with probability (19/20)^20 = 0.358
    assert 0.25 < ours.undefined[0] / 400 < 0.47
    assert ours.undefined[1] == 0
    assert np.isfinite(ours.low).all()


def test_the_interval_covers_the_truth():
    """Of 60 experiments the nominal 90 % interval of the ROC-AUC holds the known value in most (binomial: 45 to 60)."""
    truth = 0.7602499389065233  # P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt(2))
    inside = 0
    for seed in range(60):
        draws = np.random.default_rng(seed)
        labels = draws.random((300, 1)) < 0.4
        ours = bootstrap(labels, draws.normal(labels, 1.0), resamples=200, seed=seed, confidence=0.9)
        inside += int(ours.low[0, 0] <= truth <= ours.high[0, 0])
    assert 45 <= inside <= 60


@pytest.mark.parametrize("d", [0.5, 1.0])
def test_the_interval_of_rare_tags_holds_the_value_itself(d):
    """The PR-AUC of resamples lies above the value, and their plain percentiles with it, where tags are rare."""
    draws = np.random.default_rng(3)
    labels = draws.permuted(np.arange(2000)[:, None] < np.full(150, 20), axis=0)  # 20 clips of every tag
    scores = draws.normal(d * labels, 1.0)
    ours = bootstrap(labels, scores, resamples=100)
    value = macro(per_tag(labels, scores).pr_auc)
    plain = np.nanmean(resampled(labels, scores, resamples=100)[1], axis=1)
    assert value < np.quantile(plain, 0.025)  # the case is one in which they fail
    assert ours.macro_low[1] < value < ours.macro_high[1]
    middle = (ours.macro_low[1] + ours.macro_high[1]) / 2
    assert abs(middle - value) < 0.5 * plain.std()
    each = per_tag(labels, scores).pr_auc
    assert ((ours.low[1] <= each) & (each <= ours.high[1])).all()
    assert (ours.low >= 0).all()
    assert (ours.high <= 1).all()


def test_the_interval_of_a_macro_average_covers_its_mean():
    """Of 40 test sets with rare tags, the nominal 90 % interval of the PR-AUC holds their mean in most.

    Binomial: 30 to 40 with probability .998. Plain percentiles hold it in half of them.
    """
    ends, values, plain = [], [], []
    for seed in range(40):
        draws = np.random.default_rng(seed)
        labels = draws.random((600, 25)) < np.geomspace(6, 30, 25) / 600
        labels[:1] |= ~labels.any(axis=0)  # every tag has a clip
        scores = draws.normal(0.7 * labels, 1.0)
        ours = bootstrap(labels, scores, resamples=100, seed=seed, confidence=0.9)
        values.append(macro(per_tag(labels, scores).pr_auc))
        ends.append((ours.macro_low[1], ours.macro_high[1]))
        plain.append(
            np.quantile(np.nanmean(resampled(labels, scores, resamples=100, seed=seed)[1], axis=1), (0.05, 0.95))
        )
    mean = np.mean(values)
    held = [int(((low <= mean) & (mean <= high)).sum()) for low, high in (np.array(ends).T, np.array(plain).T)]
    assert held[0] >= 30 > held[1]


def test_quantiles_are_moved_onto_the_value_and_kept_within_limits():
    draws = np.array([[[0.1], [0.3], [np.nan], [0.5]]])
    low, high = centred_quantiles(np.array([[0.2]]), draws, 0.5)  # the mean is 0.3, the quartiles 0.2 and 0.4
    assert low == pytest.approx(np.array([[0.1]]))
    assert high == pytest.approx(np.array([[0.3]]))
    low, high = centred_quantiles(np.array([[0.05]]), draws, 0.5)
    assert low.item() == 0.0
    low, high = centred_quantiles(np.array([[-0.9]]), draws, 0.5, limits=(-1.0, 1.0))
    assert (low.item(), high.item()) == (-1.0, pytest.approx(-0.8))
    for value, each in ((np.nan, draws), (0.2, np.full((1, 3, 1), np.nan))):
        assert np.isnan(np.stack(centred_quantiles(np.array([[value]]), each, 0.5))).all()
