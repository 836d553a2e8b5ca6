"""ROC-AUC and PR-AUC of many tags, and their bootstrap: y [n, n_tags] and scores [n, n_tags] in, one value a tag out.

With the clips of a tag sorted by falling score, in runs of equal scores, and clip i counted w_i times:

    ROC-AUC = sum over runs of tp * (negatives below the run + half of those in it) / (P * N)
    PR-AUC  = sum over runs of tp / P * (positives so far / clips so far)         (average precision)

Only runs that hold a positive add anything, and every count is an integer: the values are those of scikit-learn's
``roc_auc_score`` and ``average_precision_score`` (with ``sample_weight`` w) to the last digits, and a resample costs
one pass over the clips instead of a sort.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# So many weights are handled together. A larger block and its sums would not stay in the second-level cache; a smaller
# one would make more calls of NumPy.
BLOCK = 1 << 15


@dataclass(frozen=True, eq=False)
class Metrics:
    """Values of every tag, float64 [n_tags]; NaN where a tag has no positive or no negative clip."""

    roc_auc: np.ndarray
    pr_auc: np.ndarray


@dataclass(frozen=True, eq=False)
class Intervals:
    """Intervals from a bootstrap over the clips, see ``bootstrap``; ``low``, ``high`` as [2, ...]: ROC-AUC, PR-AUC.

    A resample without a positive or without a negative clip of a tag says nothing about that tag. It is left out of
    the tag's interval, and the tag is left out of that resample's macro average.
    """

    low: np.ndarray  # float64 [2, n_tags]
    high: np.ndarray  # float64 [2, n_tags]
    undefined: np.ndarray  # int [n_tags], resamples left out
    macro_low: np.ndarray  # float64 [2]
    macro_high: np.ndarray  # float64 [2]


class _Ranked:
    """One tag's clips by falling score, reduced to the runs of equal scores that hold a positive."""

    def __init__(self, labels: np.ndarray, scores: np.ndarray) -> None:
        self.order = np.argsort(-scores, kind="stable")
        sorted_scores, positive = scores[self.order], labels[self.order]
        stops = np.flatnonzero(np.append(sorted_scores[1:] != sorted_scores[:-1], True)) + 1
        starts = np.append(0, stops[:-1])
        so_far = np.append(0, np.cumsum(positive))
        holds = so_far[stops] > so_far[starts]
        self.starts, self.stops = starts[holds], stops[holds]
        self.positive = self.order[positive]  # the positives alone, by falling score
        self.positive_stops = so_far[self.stops]

    def values(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """ROC-AUC and PR-AUC, float64 [k] each, for weights int [k, n]; NaN where one class has no weight."""
        clips = _so_far(weights[:, self.order])
        total = clips[:, -1]
        through, before = clips[:, self.stops], clips[:, self.starts]
        hits = _so_far(weights[:, self.positive])[:, self.positive_stops]
        hits_before = np.concatenate([np.zeros_like(hits[:, :1]), hits[:, :-1]], axis=1)
        run_hits = hits - hits_before
        positives = hits[:, -1] if hits.shape[1] else np.zeros_like(total)
        negatives = total - positives
        above_twice = (through - hits) + (before - hits_before)  # negatives above the run, those in it counted half
        pairs = np.sum(run_hits * (2 * negatives[:, None] - above_twice), axis=1)
        precision = np.divide(hits, through, out=np.zeros(hits.shape), where=through > 0)
        found = np.sum(run_hits * precision, axis=1)
        defined = (positives > 0) & (negatives > 0)
        nothing = np.full(len(weights), np.nan)
        roc_auc = np.divide(pairs, 2.0 * positives * negatives, out=nothing.copy(), where=defined)
        return roc_auc, np.divide(found, positives, out=nothing, where=defined)


def _so_far(weights: np.ndarray) -> np.ndarray:
    """[k, n] -> int64 [k, n + 1]: the sum of the first i."""
    sums = np.zeros((weights.shape[0], weights.shape[1] + 1), np.int64)
    np.cumsum(weights, axis=1, dtype=np.int64, out=sums[:, 1:])
    return sums


def check(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The arrays as bool and float64 [n, n_tags].

    Raises
    ------
    ValueError : the shapes differ or are not [n, n_tags]; labels other than 0 and 1; scores that are not finite
    """
    labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
    if labels.ndim != 2 or labels.shape != scores.shape:
        raise ValueError(f"labels {list(labels.shape)}, scores {list(scores.shape)}: both must be [n_clips, n_tags]")
    if labels.dtype != bool:
        if not np.isin(labels, (0, 1)).all():
            raise ValueError("labels: hold values other than 0 and 1")
        labels = labels.astype(bool)
    bad = np.argwhere(~np.isfinite(scores))
    if len(bad):
        row, column = bad[0]
        raise ValueError(
            f"scores: {len(bad)} not finite, the first {scores[row, column]} in row {row}, column {column}; "
            "they must be numbers"
        )
    return labels, scores


def roc_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve of one tag: labels bool [n], scores float [n]; NaN if one class is missing."""
    return float(per_tag(np.asarray(labels)[:, None], np.asarray(scores)[:, None]).roc_auc[0])


def pr_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Average precision of one tag, arguments as for ``roc_auc``; NaN if one class is missing."""
    return float(per_tag(np.asarray(labels)[:, None], np.asarray(scores)[:, None]).pr_auc[0])


def per_tag(labels: np.ndarray, scores: np.ndarray) -> Metrics:
    """ROC-AUC and PR-AUC of every tag.

    Parameters
    ----------
    labels : bool, or 0 and 1, [n_clips, n_tags]
    scores : finite floats [n_clips, n_tags]; only their order within a tag matters

    Raises
    ------
    ValueError : see ``check``
    """
    labels, scores = check(labels, scores)
    once = np.ones((1, len(labels)), np.int64)
    values = [_Ranked(labels[:, k], scores[:, k]).values(once) for k in range(labels.shape[1])]
    return Metrics(*(np.array([value[i][0] for value in values], np.float64) for i in (0, 1)))


def macro(values: np.ndarray) -> float:
    """Mean over the tags that have a value; exactly rounded, so that no order of the tags matters; NaN if none has."""
    defined = [value for value in values.tolist() if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def bootstrap(
    labels: np.ndarray, scores: np.ndarray, *, resamples: int = 1000, seed: int = 0, confidence: float = 0.95
) -> Intervals:
    """Intervals over resamples of the clips, drawn with replacement: their percentiles, moved onto the value.

    A positive clip that is drawn twice ranks beside itself and lifts its own precision. The PR-AUC of resamples is
    therefore too high on average, and the more so the rarer the tag. Every percentile is moved by the mean of the
    resamples less the value (``centred_quantiles``), for ROC-AUC too, which has next to no such bias.

    An interval says where the figure would lie on other test sets of this size. The PR-AUC of a rare tag is higher on a
    small test set than on an endless one (a positive clip raises the precision at its own rank), and no interval here
    takes that away. docs/models.md has the coverage in simulations, and that of other rules.

    A resample is the same for all tags, so that the macro averages keep the correlation between tags. The draws depend
    only on ``seed`` and the number of clips. The order of the rows decides which clip a draw stands for.

    Parameters
    ----------
    labels, scores : as for ``per_tag``
    resamples : int >= 1
    seed : int >= 0
    confidence : above 0, below 1: the share of the resamples that an interval holds

    Raises
    ------
    ValueError : see ``check``; no clips, or an argument out of range
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: {confidence} must lie between 0 and 1")
    values = resampled(labels, scores, resamples=resamples, seed=seed)
    point = per_tag(labels, scores)
    of_tags = np.stack([point.roc_auc, point.pr_auc])
    of_all = np.array([[macro(point.roc_auc)], [macro(point.pr_auc)]])
    low, high = centred_quantiles(of_tags, values, confidence)
    defined = ~np.isnan(values)
    macro_low, macro_high = centred_quantiles(of_all, macro_each(values)[:, :, None], confidence)
    return Intervals(low, high, resamples - defined[0].sum(axis=0), macro_low[:, 0], macro_high[:, 0])


def resampled(
    labels: np.ndarray, scores: np.ndarray, *, resamples: int = 1000, seed: int = 0, groups: np.ndarray | None = None
) -> np.ndarray:
    """ROC-AUC and PR-AUC of every tag in resamples of the clips: float64 [2, resamples, n_tags], NaN where undefined.

    Parameters
    ----------
    labels, scores : as for ``per_tag``
    resamples : int >= 1
    seed : int >= 0; equal seeds and numbers of groups give equal draws, so that two systems' values can be subtracted
    groups : int [n_clips], or None: clips of one number are drawn together (those of one piece, say, which are no
        independent witnesses); None draws clip by clip

    Raises
    ------
    ValueError : see ``check``; no clips, or an argument out of range
    """
    labels, scores = check(labels, scores)
    if resamples < 1:
        raise ValueError(f"resamples: {resamples} must be 1 or more")
    n_clips, n_tags = labels.shape
    if not n_clips:
        raise ValueError("no clips to draw from")
    members = np.arange(n_clips) if groups is None else np.unique(groups, return_inverse=True)[1]
    if members.shape != (n_clips,):
        raise ValueError(f"groups: {members.shape} must be one number a clip, ({n_clips},)")
    n_groups = int(members.max()) + 1
    ranked = [_Ranked(labels[:, k], scores[:, k]) for k in range(n_tags)]
    rng = np.random.default_rng(seed)
    values = np.empty((2, resamples, n_tags))
    step = max(1, BLOCK // n_clips)
    for first in range(0, resamples, step):
        rows = range(first, min(first + step, resamples))
        draws = [np.bincount(rng.integers(0, n_groups, n_groups), minlength=n_groups)[members] for _ in rows]
        weights = np.array(draws, np.int32)
        for k, tag in enumerate(ranked):
            values[0, first : rows.stop, k], values[1, first : rows.stop, k] = tag.values(weights)
    return values


def macro_each(values: np.ndarray) -> np.ndarray:
    """Means of the defined values over the last axis; NaN where none is defined."""
    count = (~np.isnan(values)).sum(axis=-1)
    return np.divide(np.nansum(values, axis=-1), count, out=np.full(count.shape, np.nan), where=count > 0)


def centred_quantiles(
    values: np.ndarray, draws: np.ndarray, confidence: float, limits: tuple[float, float] = (0.0, 1.0)
) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of the intervals of ``values`` [m, k] from resampled values ``draws`` [m, resamples, k].

    The percentiles of the draws, moved by the value less the mean of the draws, and kept within ``limits``. NaN draws
    are left out; NaN where nothing is left, or where the value is NaN. Returns two arrays [m, k].
    """
    ends = ((1 - confidence) / 2, (1 + confidence) / 2)
    out = np.full((2, *values.shape), np.nan)
    for index in np.ndindex(*values.shape):
        column = draws[index[0], :, index[1]]
        column = column[~np.isnan(column)]
        if len(column) and not math.isnan(values[index]):
            moved = np.quantile(column, ends) + (values[index] - column.mean())
            out[(slice(None), *index)] = np.clip(moved, *limits)
    return out[0], out[1]
