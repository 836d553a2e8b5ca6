"""Two results of the bench compared: rows that became slower beyond noise."""

from __future__ import annotations

from dataclasses import dataclass

from .report import Report, Row
from .samples import MIN_SAMPLES, limit


@dataclass(frozen=True)
class Change:
    """One row that both results have.

    Attributes
    ----------
    row : of the new result
    ratio : new median / old median
    limit : a ratio above it is slower beyond noise, and one below 1 / limit faster
    """

    row: Row
    ratio: float
    limit: float

    @property
    def slower(self) -> bool:
        """Whether the row became slower beyond noise."""
        return self.ratio > self.limit

    @property
    def faster(self) -> bool:
        """Whether the row became faster beyond noise."""
        return self.ratio < 1 / self.limit

    def __str__(self) -> str:
        verdict = "SLOWER" if self.slower else "faster" if self.faster else "same"
        return f"{verdict:6} {self.ratio:5.2f} x (noise up to {self.limit:.2f} x)  {self.row.label}"


@dataclass(frozen=True)
class Comparison:
    """The judgement on two results.

    Attributes
    ----------
    changes : every row that can be judged
    skipped : rows that cannot be judged, and why
    warnings : reasons to doubt that the two results can be compared at all
    """

    changes: list[Change]
    skipped: list[str]
    warnings: list[str]

    @property
    def regressions(self) -> list[Change]:
        """fcntag's own rows that became slower. A peer that became slower is no fault of fcntag's."""
        return [change for change in self.changes if change.slower and change.row.engine == "fcntag"]


def compare(old: Report, new: Report) -> Comparison:
    """Judge every row of ``new`` that ``old`` has, too. Raises ValueError if there is no such row."""
    earlier_rows = {row.key: row for row in old.rows}
    changes, skipped = [], []
    for row in new.rows:
        earlier = earlier_rows.pop(row.key, None)
        if earlier is None:
            skipped.append(f"only in the new result: {row.label}")
        elif min(len(earlier.samples_s), len(row.samples_s)) < MIN_SAMPLES:
            skipped.append(f"fewer than {MIN_SAMPLES} samples: {row.label}")
        else:
            ratio = row.median_s / earlier.median_s
            changes.append(Change(row, ratio, limit(earlier.samples_s, row.samples_s)))
    skipped += [f"only in the old result: {row.label}" for row in earlier_rows.values()]
    if not changes:
        reason = skipped[0] if skipped else "both are empty"
        raise ValueError(f"nothing to compare: no row with {MIN_SAMPLES} samples in both results ({reason})")
    warnings = [
        f"{name} differs: {before.get(name)!r} before, {now.get(name)!r} now"
        for before, now, names in (
            (old.environment, new.environment, ("cpu", "threads", "isa", "gpu")),
            (old.settings, new.settings, ("device", "precision", "audio")),
        )
        for name in names
        if before.get(name) != now.get(name)
    ]
    return Comparison(changes, skipped, warnings)
