"""The result of a validation: for people line by line, for programs as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .measure import Stage

if TYPE_CHECKING:
    from ..engine import Engine
    from ..model.file import Model

SCHEMA = 1
_COLUMNS = ("stage", "max abs", "relative L2", "allowed", "")


@dataclass(frozen=True)
class CaseReport:
    """One input: its stages, or the reason why it could not be read."""

    name: str
    stages: list[Stage] = field(default_factory=list)
    error: str | None = None

    def lines(self) -> list[str]:
        """The table as lines of text."""
        rows = [_COLUMNS]
        for stage in self.stages:
            bound = "" if stage.measure == "relative_l2" else " abs"
            notes = [f"top {stage.n_top}: {stage.top} of {stage.n_top}"] if stage.n_top else []
            notes += ["FAILS"] if stage.problem is not None else []
            rows.append(
                (
                    stage.name,
                    f"{stage.max_abs:.1e}",
                    f"{stage.relative_l2:.1e}",
                    f"{stage.allowed:.0e}{bound}",
                    ", ".join(notes),
                )
            )
        widths = [max(len(row[k]) for row in rows) for k in range(len(_COLUMNS))]
        table = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        return [self.name, *(f"  {row}" for row in (table if self.stages else []))]

    def failures(self) -> list[str]:
        """One line for every stage beyond tolerance, first the one where the error is."""
        if self.error is not None:
            return [self.error]
        return [f"{self.name}: {stage.name} {stage.problem}" for stage in self.stages if stage.problem is not None]

    def to_dict(self) -> dict[str, Any]:
        return {"input": self.name, "error": self.error, "stages": [stage.to_dict() for stage in self.stages]}


@dataclass
class Report:
    """A model on one device in one precision, against one reference.

    Attributes
    ----------
    facts : model, sha256, device, isa, precision, threads, algorithms, ``against`` and its version, version of fcntag
    cases : the inputs, in order
    """

    facts: dict[str, Any]
    cases: list[CaseReport] = field(default_factory=list)

    @classmethod
    def of(cls, model: Model, engine: Engine, about: str, against: str) -> Report:
        from .. import __version__

        return cls(
            {
                "fcntag": __version__,
                "model": model.document.name,
                "sha256": model.sha256,
                "device": engine.device,
                "isa": engine.isa,
                "precision": engine.precision,
                "threads": engine.threads,
                "algorithms": engine.algorithms,
                "reduced": engine.reduction is not None,
                "against": against,
                "reference": about,
            }
        )

    @property
    def ok(self) -> bool:
        """Whether every input could be read, and every stage is within tolerance."""
        return not self.failures()

    def failures(self) -> list[str]:
        """One line for everything that is wrong."""
        return [line for case in self.cases for line in case.failures()]

    def title(self) -> str:
        facts = self.facts
        where = f"{facts['device']} ({facts['isa']}), {facts['precision']}"
        what = facts["against"] + (f" ({facts['reference']})" if facts["reference"] != facts["against"] else "")
        return f"{facts['model']} on {where}, against {what}"

    def to_json(self) -> str:
        return json.dumps(
            {
                "schema": SCHEMA,
                **self.facts,
                "ok": self.ok,
                "failures": self.failures(),
                "cases": [case.to_dict() for case in self.cases],
            },
            indent=1,
            ensure_ascii=False,
            allow_nan=False,
        )
