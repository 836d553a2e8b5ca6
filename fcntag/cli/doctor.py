"""``fcntag doctor``: the parts of this installation, their abilities, and their faults."""

from __future__ import annotations

import argparse
import json
from typing import Any

from . import options
from .streams import show


def add_parser(commands: options.Subparsers) -> None:
    """Add the command to ``fcntag``."""
    parser = commands.add_parser(
        "doctor",
        help="check the installation",
        description="Report build, CPU, CUDA, decoders, extras and models. Exit code 0 unless something is broken.",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the report; 1 if something is broken."""
    from .. import doctor

    report = doctor.examine()
    if arguments.json:
        print(json.dumps(report, indent=1, ensure_ascii=False))
    else:
        for section, facts in report.items():
            print(section)
            for line in _lines(facts):
                print(f"  {show(line)}")
    return 1 if report["problems"] else 0


def _lines(facts: Any) -> list[str]:
    if isinstance(facts, dict):
        width = max(map(len, facts), default=0)
        return [f"{key:<{width}}  {_text(value)}" for key, value in facts.items()]
    return [str(fact) for fact in facts] or ["none"]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "not installed" if value is None else str(value)
