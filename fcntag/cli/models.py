"""``fcntag models``: what there is, what is known about it, and how to get the rest."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING, Any

from . import options
from .output import Progress, UsageError, log

if TYPE_CHECKING:
    from ..catalogue import Entry


def add_parser(commands: options.Subparsers) -> None:
    """Add the command to ``fcntag``."""
    parser = commands.add_parser("models", help="list, inspect, fetch and check models", description="The models.")
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)

    listing = actions.add_parser("list", help="every model of the catalogue")
    listing.add_argument("--json", action="store_true", help="as JSON")
    listing.set_defaults(run=run_list)

    info = actions.add_parser("info", help="everything known about a model, or about a model file")
    info.add_argument("name", metavar="NAME", help="catalogue name, or path of a model file")
    info.add_argument("--json", action="store_true", help="as JSON")
    info.set_defaults(run=run_info)

    path = actions.add_parser("path", help="where the model file lies")
    path.add_argument("name", metavar="NAME")
    path.set_defaults(run=run_path)

    pull = actions.add_parser("pull", help="download, check, convert and store a model")
    pull.add_argument("name", metavar="NAME")
    pull.add_argument("--from", dest="source", metavar="FILE", help="a local copy of the original file; no network")
    pull.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    pull.set_defaults(run=run_pull)

    verify = actions.add_parser("verify", help="check stored models from end to end")
    verify.add_argument("names", nargs="*", metavar="NAME", help="default: every model that is here")
    verify.add_argument("--json", action="store_true", help="as JSON")
    verify.set_defaults(run=run_verify)


def run_list(arguments: argparse.Namespace) -> int:
    """Print the catalogue."""
    from .. import catalogue

    rows = []
    for entry in catalogue.entries():
        rows.append(
            {
                "name": entry.name,
                "state": _state(entry),
                "tags": len(entry.tags),
                "licence": entry.licence,
                "description": entry.description,
            }
        )
    if arguments.json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return 0
    widths = {key: max(len(key), *(len(str(row[key])) for row in rows)) for key in ("name", "state", "tags")}
    print("  ".join(key.ljust(width) for key, width in widths.items()) + "  description")
    for row in rows:
        start = "  ".join(str(row[key]).ljust(width) for key, width in widths.items())
        print(f"{start}  {row['description']}")
    return 0


def _state(entry: Entry) -> str:
    from .. import catalogue

    if entry.embedded:
        return "embedded"
    return "pulled" if catalogue.is_here(entry.name) else "to pull"


def run_info(arguments: argparse.Namespace) -> int:
    """Print the catalogue's entry and, where the model is here, its document."""
    from .. import catalogue
    from ..errors import ModelError

    entry = next((entry for entry in catalogue.entries() if entry.name == arguments.name), None)
    try:
        model = catalogue.load_model(arguments.name)
    except ModelError:
        # known but not pulled is a fact to report; a damaged file or an unknown name is an error
        if entry is None or _state(entry) != "to pull":
            raise
        model = None
    info = _info(entry, model)
    if arguments.json:
        print(json.dumps(info, indent=1, ensure_ascii=False))
        return 0
    for key, value in info.items():
        if key in ("document", "licence_notice"):
            continue
        if isinstance(value, list):
            print(f"{key + ':':<16}{'' if value and key != 'tags' else ', '.join(map(str, value))}")
            for item in value if key != "tags" else []:
                print(f"  - {item if isinstance(item, str) else _metric(item)}")
        else:
            print(f"{key + ':':<16}{value}")
    return 0


def _metric(item: dict[str, Any]) -> str:
    return f"{item['name']} {item['value']} on {item['dataset']}, by {item['by']}"


def _info(entry: Entry | None, model: Any) -> dict[str, Any]:
    facts: Any = entry if model is None else model.document
    info: dict[str, Any] = {
        "name": facts.name,
        "description": facts.description,
        "state": "a file" if entry is None else _state(entry),
        "licence": facts.licence,
        "training_data": facts.training_data,
    }
    if model is not None:
        from ..reduce import reduce_model

        document = model.document
        reduction = reduce_model(model)[1]
        frontend, segments = document.frontend, document.segments
        info |= {
            "file": model.path,
            "sha256": model.sha256,
            "parameters": sum(int(tensor.size) for tensor in model.tensors.values()),
            "multiply_adds": document.multiply_adds(),
            "sample_rate": frontend.sample_rate,
            "window": f"{segments.n_samples / frontend.sample_rate:.2f} s, rule {segments.rule}",
            "source": document.source.url,
            "authors": document.source.authors,
        }
    elif entry is not None:
        info |= {"source": entry.url, "source_sha256": entry.sha256, "authors": entry.authors}
    info |= {
        "metrics": [dataclasses.asdict(metric) for metric in facts.metrics],
        "notes": list(facts.notes),
        "reductions": [] if model is None else reduction.lines(),
        "tags": list(facts.tags),
        "licence_notice": facts.licence_notice,
    }
    if model is not None:
        info["document"] = json.loads(model.document.to_json())
    return info


def run_path(arguments: argparse.Namespace) -> int:
    """Print where the model file lies."""
    from .. import catalogue

    print(catalogue.model_path(arguments.name))
    return 0


def run_pull(arguments: argparse.Namespace) -> int:
    """Fetch a model; print where it lies then."""
    from pathlib import Path

    from .. import catalogue

    if arguments.source is not None and catalogue.entry(arguments.name).embedded:
        raise UsageError(f"--from {arguments.source}: {arguments.name} is embedded: nothing to pull")
    source = None if arguments.source is None else Path(arguments.source)
    with Progress(arguments.quiet) as progress:
        path = catalogue.pull(arguments.name, source, progress.bytes)
    print(path)
    return 0


def run_verify(arguments: argparse.Namespace) -> int:
    """Check models; 3 if one is missing or bad, after checking the others."""
    from .. import catalogue
    from ..errors import ModelError

    names = arguments.names or [entry.name for entry in catalogue.entries() if _state(entry) != "to pull"]
    code, found = 0, []
    for name in names:
        try:
            facts = catalogue.verify(name)
        except ModelError as error:
            log(str(error))
            code = 3
            continue
        found.append(facts)
        if not arguments.json:
            print(f"{name}: ok, sha256 {facts['sha256']}")
    if arguments.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    return code
