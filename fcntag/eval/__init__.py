"""Evaluation: ROC-AUC and PR-AUC of a model, or of computed scores, on a tagging dataset.

>>> import fcntag
>>> dataset = fcntag.eval.magnatagatune("annotations_final.csv", audio="mp3", split="test")
>>> with fcntag.Tagger("mtt-vgg") as tagger:
...     truth = fcntag.eval.align(dataset, tagger.tags)
...     scores = fcntag.eval.score(tagger, truth.dataset, cache="scores")  # resumes where it was
>>> report = fcntag.eval.evaluate(truth, scores)
>>> report.roc_auc.value, report.roc_auc.low, report.roc_auc.high
"""

from .align import Truth, align, read_merges
from .datasets import Dataset, jamendo, magnatagatune, msd, plain
from .metrics import Intervals, Metrics, bootstrap, macro, per_tag, pr_auc, roc_auc
from .published import published_figures
from .report import Report, TagReport, Value, evaluate
from .score_files import ScoreTable, read_scores
from .scoring import Scores, score

__all__ = [
    "Dataset",
    "Intervals",
    "Metrics",
    "Report",
    "ScoreTable",
    "Scores",
    "TagReport",
    "Truth",
    "Value",
    "align",
    "bootstrap",
    "evaluate",
    "jamendo",
    "macro",
    "magnatagatune",
    "msd",
    "per_tag",
    "plain",
    "pr_auc",
    "published_figures",
    "read_merges",
    "read_scores",
    "roc_auc",
    "score",
]
