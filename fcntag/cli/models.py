"""``fcntag models``: the models that exist, the facts about them, and how to get those that are not here."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FcntagError, ModelError
from . import options
from .paths import check_outputs
from .streams import Progress, UsageError, log

if TYPE_CHECKING:
    from ..catalogue.facts import Entry
    from ..model.document import ModelDocument
    from ..model.file import Model

UNTRAINED = "no weights"  # the state of the paper's networks; models new gives them random ones


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

    new = actions.add_parser(
        "new",
        help="a model file with random weights, for benchmarks",
        description="Make a model file with random weights: a network of the paper, or any stack of blocks.",
    )
    new.add_argument(
        "name", metavar="NAME", help="network of the paper (models list names them), or a model document: FILE.json"
    )
    new.add_argument("--seed", type=options.natural_int, default=0, metavar="N", help="of the weights (default: 0)")
    new.add_argument("-o", "--output", metavar="FILE", help="to write (default: NAME-random-N.safetensors, here)")
    new.add_argument("--tags", metavar="FILE", help="labels, one a line (default: 50, tag 0 to tag 49)")
    new.set_defaults(run=run_new)

    verify = actions.add_parser("verify", help="check stored models from end to end")
    verify.add_argument("names", nargs="*", metavar="NAME", help="default: every model that is here")
    verify.add_argument("--json", action="store_true", help="as JSON")
    verify.set_defaults(run=run_verify)


def run_list(arguments: argparse.Namespace) -> int:
    """Print the catalogue, and the networks that ``models new`` makes."""
    from .. import catalogue
    from ..model import paper

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
    for name in paper.PAPER:
        document = paper.document(name)
        rows.append(
            {
                "name": name,
                "state": UNTRAINED,
                "tags": len(document.tags),
                "licence": document.licence,
                "description": f"{document.description}: models new {name}",
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
    from ..model import paper

    if arguments.name in paper.PAPER:
        return _print_info(_network_info(arguments.name), arguments.json)
    entry = next((entry for entry in catalogue.entries() if entry.name == arguments.name), None)
    try:
        model = catalogue.load_model(arguments.name)
    except ModelError:
        # That a known model is not pulled is a fact to report. A damaged file or an unknown name is an error.
        if entry is None or _state(entry) != "to pull":
            raise
        model = None
    return _print_info(_info(entry, model), arguments.json)


def _print_info(info: dict[str, Any], as_json: bool) -> int:
    if as_json:
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


def _network_info(name: str) -> dict[str, Any]:
    """The facts about a network of the paper, which has no weights, and our choices where the paper is silent."""
    from ..model import paper

    network, document = paper.PAPER[name], paper.document(name)
    return {
        "name": name,
        "description": document.description,
        "state": f"{UNTRAINED}; for random ones: fcntag models new {name}",
        "known": network.known,
        "our_reading": network.ours or "nothing but the front end's details, see the notes",
        **_shape(document),
        "source": document.source.url,
        "notes": list(document.notes),
        "document": json.loads(document.to_json()),
    }


def _shape(document: ModelDocument) -> dict[str, Any]:
    frontend, segments = document.frontend, document.segments
    rows, frames = frontend.n_rows, frontend.n_frames(segments.n_samples)
    return {
        "parameters": sum(math.prod(shape) for shape in document.tensor_shapes().values()),
        "multiply_adds": document.multiply_adds(),
        "sample_rate": frontend.sample_rate,
        "input": f"{frontend.kind}, {rows} x {frames}",
        "window": f"{segments.n_samples / frontend.sample_rate:.2f} s, rule {segments.rule}",
        "head": _head(document),
    }


def _head(document: ModelDocument) -> str:
    """The way from the last map to the tags, e.g. "mean, 128 features, dense 1024 relu, 50 tags"."""
    head = document.head
    hidden = [f"dense {layer.out_features} {layer.activation}" for layer in head.hidden]
    return ", ".join([head.flatten, f"{head.in_features} features", *hidden, f"{len(document.tags)} tags"])


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
        document = model.document
        reductions, kernels = _on_this_cpu(model)
        info |= {
            "file": model.path,
            "sha256": model.sha256,
            **_shape(document),
            "source": document.source.url,
            "authors": document.source.authors,
        }
    elif entry is not None:
        info |= {"source": entry.url, "source_sha256": entry.sha256, "authors": entry.authors}
    info |= {
        "metrics": [dataclasses.asdict(metric) for metric in facts.metrics],
        "notes": list(facts.notes),
        "reductions": [] if model is None else reductions,
        "kernels": [] if model is None else kernels,
        "tags": list(facts.tags),
        "licence_notice": facts.licence_notice,
    }
    if model is not None:
        info["document"] = json.loads(model.document.to_json())
    return info


def _on_this_cpu(model: Model) -> tuple[list[str], list[str]]:
    """The lines about the work that is left out, and about the code that each block runs."""
    from ..engine import CpuEngine

    try:
        with CpuEngine(model, threads=1) as engine:  # the plan of a block does not depend on threads
            reductions = [] if engine.reduction is None else engine.reduction.lines()
            return reductions, [_kernel(block) for block in engine.describe_plan()]
    except FcntagError:
        raise
    except ValueError as error:  # of FCNTAG_FORCE_ISA
        raise UsageError(str(error)) from None


def _kernel(block: dict[str, Any]) -> str:
    """One line about the code that a block runs on this CPU."""
    window, stride, code = block["window"], block["stride"], block["code"]
    pool = "{} x {}".format(*window) + ("" if stride == window else ", stride {} x {}".format(*stride))
    how = {"general": "general, slower: no code is built for this window", "any": "code for any window"}
    line = how[code] if isinstance(code, str) else "code for {} x {}".format(*code)
    return f"block {block['index']}: {block['algorithm']}, pool {pool}: {line}"


def run_path(arguments: argparse.Namespace) -> int:
    """Print where the model file lies."""
    from .. import catalogue

    print(catalogue.model_path(arguments.name))
    return 0


def run_pull(arguments: argparse.Namespace) -> int:
    """Fetch a model; print where it lies then."""
    from ..catalogue.facts import entry
    from ..pull import pull

    if arguments.source is not None and entry(arguments.name).embedded:
        raise UsageError(f"--from {arguments.source}: {arguments.name} is embedded: nothing to pull")
    source = None if arguments.source is None else Path(arguments.source)
    with Progress(arguments.quiet) as progress:
        path = pull(arguments.name, source, progress.bytes)
    print(path)
    return 0


def run_new(arguments: argparse.Namespace) -> int:
    """Write a model file with random weights; print its sha256."""
    from ..model import paper
    from ..model.file import read_model, write_model

    tags = None if arguments.tags is None else _labels(arguments.tags)
    document = _read_document(arguments.name) if arguments.name.endswith(".json") else paper.document(arguments.name)
    try:
        document = document if tags is None else dataclasses.replace(document, tags=tags)
        model = paper.random_model(document, seed=arguments.seed)
    except ModelError as error:  # of the labels: the rest has been checked
        raise ModelError(f"{arguments.tags or arguments.name}: {error}") from None
    target = arguments.output or f"{model.document.name}.safetensors"
    if not target.lower().endswith(".safetensors"):
        raise UsageError(f"-o {target}: a model file; end the name in .safetensors")
    check_outputs({"-o": target}, [name for name in (arguments.name, arguments.tags) if name and os.path.exists(name)])
    write_model(target, model.document, model.tensors)
    log(f"{target}: {model.document.name}, random weights of seed {arguments.seed}, {len(model.tensors)} tensors")
    print(read_model(target).sha256)
    return 0


def _labels(path: str) -> tuple[str, ...]:
    """The lines of a text file, without blank ones and the space around them."""
    labels = tuple(line.strip() for line in _read_text(path).splitlines() if line.strip())
    if not labels:
        raise UsageError(f"--tags {path}: holds no label; one a line is expected")
    return labels


def _read_document(path: str) -> ModelDocument:
    """The document in a JSON file. The file may also be the output of ``models info --json``."""
    from ..model.document import ModelDocument

    text = _read_text(path)
    try:
        tree = json.loads(text)
        inner = tree.get("document") if isinstance(tree, dict) else None
        return ModelDocument.from_json(text if inner is None else json.dumps(inner))
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not valid JSON: {error}") from None


def _read_text(path: str) -> str:
    from ..model.document import MAX_JSON_BYTES

    with open(path, encoding="utf-8-sig") as file:
        try:
            text = file.read(MAX_JSON_BYTES + 1)
        except UnicodeDecodeError as error:
            raise UsageError(f"{path}: not UTF-8 text: {error}") from None
    if len(text) > MAX_JSON_BYTES:
        raise UsageError(f"{path}: more than {MAX_JSON_BYTES} characters")
    return text


def run_verify(arguments: argparse.Namespace) -> int:
    """Check models; 3 if one is missing or bad, after checking the others."""
    from .. import catalogue

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
