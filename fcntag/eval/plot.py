"""The picture of an evaluation: a bar a tag for ROC-AUC and PR-AUC, with their intervals. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .report import Report, TagReport, Value


def save(report: Report, path: str, show: Callable[[str], str] = str) -> None:
    """Write the picture as PNG, tags by falling ROC-AUC, the macro average as a line.

    ``show``: makes a label printable. Raises ImportError without matplotlib, OSError where it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # and not pyplot, which looks for a display

    tags = sorted(report.tags, key=lambda tag: (-tag.roc_auc.value, tag.label))
    figure = Figure(figsize=(11, 1.6 + 0.22 * len(tags)), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    _bars(left, [tag.roc_auc for tag in tags], report.roc_auc, "ROC-AUC", "C0")
    # Below a half a model is worse than chance: the axis starts there unless a tag needs it to start lower.
    lowest = min([0.5, *(v for tag in tags for v in (tag.roc_auc.value, tag.roc_auc.low) if v is not None)])
    left.set_xlim(max(0.0, lowest - 0.02) if lowest < 0.5 else 0.5, 1.0)
    _bars(right, [tag.pr_auc for tag in tags], report.pr_auc, "PR-AUC", "C1")
    right.plot(
        [tag.positives / report.clips for tag in tags], range(len(tags)), "k|", markersize=7, label="share of positives"
    )
    right.set_xlim(0.0, 1.0)
    left.set_yticks(range(len(tags)), [_label(tag, show) for tag in tags], fontsize=8, parse_math=False)
    left.invert_yaxis()
    for axes in (left, right):
        axes.grid(axis="x", alpha=0.3)
        axes.legend(loc="lower right", fontsize=8)
    figure.suptitle(show(f"{report.dataset}, {report.clips} clips"), fontsize="medium", parse_math=False)
    with open(path, "wb") as file:
        figure.savefig(file, format="png", dpi=120)


def _label(tag: TagReport, show: Callable[[str], str]) -> str:
    return f"{show(tag.label)} ({tag.positives})"


def _bars(axes: Any, values: Sequence[Value], mean: Value, name: str, colour: str) -> None:
    axes.barh(range(len(values)), [v.value for v in values], color=colour, alpha=0.75)
    for i, v in enumerate(values):
        if v.low is not None and v.high is not None:
            axes.plot([v.low, v.high], [i, i], "-", color="0.2", linewidth=1.2)
    axes.axvline(mean.value, color="C3", linewidth=1, label=f"macro {mean.value:.4f}")
    axes.set_xlabel(name)
