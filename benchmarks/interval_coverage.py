#!/usr/bin/env python3
"""How often the intervals of `fcntag eval` hold what they should, in simulated test sets with rare tags.

    python benchmarks/interval_coverage.py [--experiments 300] [--resamples 400]

Scores of negative clips are drawn from N(0, 1), those of positive clips from N(d, 1), and every test set is drawn anew.
For each rule the table says how often the 95 % interval holds the PR-AUC that test sets of this size give on average,
how often that of an endless test set, and how often the test set's own value. Rules, all from the same resamples:
percentile; basic, 2 value - percentile; BCa (Efron, JASA 82, 1987); moved, the percentiles less the mean of the
resamples plus the value, which is fcntag's (fcntag/eval/metrics.py).
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.stats import norm

from fcntag.eval import metrics

ENDS = np.array([0.025, 0.975])
# n clips, positives that are expected of each tag, d: single tags first, then macro averages over 30 tags.
CASES = [
    (1000, [10], 1.0),
    (1000, [10], 2.0),
    (1000, [20], 1.0),
    (2000, [20], 0.5),
    (1000, [50], 1.0),
    (2000, np.geomspace(10, 200, 30).tolist(), 1.0),
    (2000, np.geomspace(10, 200, 30).tolist(), 2.0),
]


def endless(share: float, d: float) -> float:
    """PR-AUC of an endless test set: the mean precision at the scores of the positive clips."""
    t = np.linspace(-9, 9 + d, 200_001)
    hit, false = share * norm.sf(t - d), (1 - share) * norm.sf(t)
    weight = norm.pdf(t - d)
    return float(np.sum(weight * hit / np.maximum(hit + false, 1e-300)) / weight.sum())


def without_each(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """PR-AUC of one tag without clip i, for every i that can be left out; [n]."""
    order = np.argsort(-scores)
    places = np.flatnonzero(labels[order])
    found, rank = np.arange(1.0, len(places) + 1), places + 1.0
    precision = found / rank
    rank_less = np.maximum(rank - 1, 1)
    gain = np.append(np.cumsum((found / rank_less - precision)[::-1])[::-1], 0)
    values = (precision.sum() + gain[np.searchsorted(places, np.arange(len(labels)), side="right")]) / len(places)
    loss = np.append(np.cumsum(((found - 1) / rank_less - precision)[::-1])[::-1], 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        values[places] = (precision.sum() - precision + loss[1:]) / (len(places) - 1)
    return values[np.isfinite(values)]


def bca(value: float, draws: np.ndarray, left_out: np.ndarray) -> np.ndarray:
    share = np.clip((draws < value).mean(), 1 / len(draws), 1 - 1 / len(draws))
    z0, deviation = norm.ppf(share), left_out.mean() - left_out
    a = (deviation**3).sum() / (6 * (deviation**2).sum() ** 1.5)
    z = z0 + norm.ppf(ENDS)
    return np.quantile(draws, norm.cdf(z0 + z / (1 - a * z)))


def simulate(n: int, positives: list[float], d: float, experiments: int, resamples: int) -> None:
    rng = np.random.default_rng(0)
    target = float(np.mean([endless(count / n, d) for count in positives]))
    values, intervals = [], {"percentile": [], "basic": [], "BCa": [], "moved": []}
    for seed in range(experiments):
        labels = rng.random((n, len(positives))) < np.array(positives) / n
        for k in np.flatnonzero(labels.sum(axis=0) < 2):  # a tag with one clip alone has no resample of it alone
            labels[rng.choice(n, 2, replace=False), k] = True
        scores = rng.normal(d * labels, 1.0)
        draws = metrics.macro_each(metrics.resampled(labels, scores, resamples=resamples, seed=seed))[1]
        draws = draws[~np.isnan(draws)]
        value = metrics.macro(metrics.per_tag(labels, scores).pr_auc)
        low, high = np.quantile(draws, ENDS)
        values.append(value)
        intervals["percentile"].append((low, high))
        intervals["basic"].append((2 * value - high, 2 * value - low))
        if len(positives) == 1:
            intervals["BCa"].append(bca(value, draws, without_each(labels[:, 0], scores[:, 0])))
        ends = metrics.centred_quantiles(np.array([[value]]), draws[None, :, None], 0.95)
        intervals["moved"].append((ends[0][0, 0], ends[1][0, 0]))
    average = float(np.mean(values))
    what = (
        f"1 tag, {positives[0]:g}"
        if len(positives) == 1
        else f"{len(positives)} tags, {positives[0]:g} to {positives[-1]:g}"
    )
    for rule, ends in intervals.items():
        if not ends:
            continue
        low, high = np.array(ends).T
        held = [float(((low <= aim) & (aim <= high)).mean()) for aim in (average, target, np.array(values))]
        print(
            f"| {what} of {n}, d {d:g} | {average:.4f} | {target:.4f} | {rule} | {held[0]:.3f} | {held[1]:.3f} | "
            f"{held[2]:.3f} | {np.mean(high - low):.4f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--experiments", type=int, default=300)
    parser.add_argument("--resamples", type=int, default=400)
    options = parser.parse_args()
    print(
        "| positive clips | average PR-AUC | of an endless set | rule "
        "| holds the average | the endless | its own | width |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for n, positives, d in CASES:
        few = options.experiments if len(positives) == 1 else options.experiments // 2
        simulate(n, positives, d, few, options.resamples)


if __name__ == "__main__":
    main()
