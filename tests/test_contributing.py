"""The lists that CONTRIBUTING.md's six answers name: whoever adds a thing and forgets a place fails here.

Where forgetting a place gives a wrong number, the tests of that place fail. Here are the places where it would only be
slower, untested or unknown to the command line, which no number shows.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_engine
import test_export
import test_frontends
import test_validate_frontends
from support.make_models import FRONTEND

import fcntag.convert
from fcntag import catalogue, cli
from fcntag.bench import peers
from fcntag.bench.cuda import peers as cuda_peers
from fcntag.catalogue import load_any
from fcntag.eval import Dataset, align, evaluate, metrics, report
from fcntag.eval.scoring import Scores
from fcntag.model import paper
from fcntag.model.document import Block, Frontend, Log

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
sys.path.insert(0, str(ROOT / "benchmarks"))

from gpu import cases as gpu_cases  # noqa: E402

Pair = tuple[int, int]


def read(*names: str) -> str:
    """The files' text, one after the other."""
    return "\n".join((ROOT / name).read_text(encoding="utf-8") for name in names)


# ---- a pool window ----

FIRST_ON_CPU = "csrc/cpu/kernels/conv_first.cpp"  # (width, stride) of a row of a window
WINOGRAD = "csrc/cpu/kernels/winograd.cpp"  # (height, width)
FIRST_ON_GPU = "csrc/cuda/conv/conv_first.cu"  # (height, width)


def fast_windows(name: str) -> set[Pair]:
    """Pairs of numbers that begin the entries of a file's ``kBuilt``; (0, 0) stands for any other window."""
    text = read(name)
    table = re.search(r"\bkBuilt\w*\[\]\s*=\s*\{(.*?)\};", text, re.DOTALL)
    entries = (
        re.findall(r"\{\s*(\d+),\s*(\d+)", table[1])
        if table
        else re.findall(r"(?:pool|ph) == (\d+) && (?:stride|pw) == (\d+)", text)
    )
    found = {(int(a), int(b)) for a, b in entries}
    assert found, f"{name}: no list of windows found"
    return found - {(0, 0)}


def known_stacks() -> dict[str, tuple[Block, ...]]:
    """The blocks of every model that can be had here, by name."""
    names = [entry.name for entry in catalogue.entries() if catalogue.is_here(entry.name)]
    return {name: load_any(name)[0].document.blocks for name in [*names, *paper.PAPER]}


def converters_pools() -> set[tuple[Pair, Pair]]:
    """(window, stride) that the converters' modules name; the models that they make may not be here."""
    found = set()
    for module in converter_modules():
        pools = getattr(module, "_POOLS", ())
        several = pools.values() if isinstance(pools, dict) else [pools]
        for chain in several:
            for pool in chain:
                window, stride = pool if isinstance(pool[0], tuple) else (pool, pool)
                found.add((window, stride))
    return found


def test_a_known_model_s_first_window_has_fast_kernels() -> None:
    """A window that is in no list is computed by the general kernel: right, slower, and nobody is told."""
    cpu, gpu = fast_windows(FIRST_ON_CPU), fast_windows(FIRST_ON_GPU)
    for name, blocks in known_stacks().items():
        (height, width), (_, stride) = blocks[0].pool.window, blocks[0].pool.stride
        assert (width, stride) in cpu, f"{name}: first window ({height}, {width}) is not in kBuilt of {FIRST_ON_CPU}"
        assert (height, width) in gpu, f"{name}: first window ({height}, {width}) is not in kBuilt of {FIRST_ON_GPU}"


def test_a_window_built_for_the_gpu_s_first_block_is_built_for_the_cpu_s() -> None:
    """The CPU's kernel looks at the width alone."""
    widths = {width for width, _ in fast_windows(FIRST_ON_CPU)}
    assert {width for _, width in fast_windows(FIRST_ON_GPU)} <= widths


def test_a_known_model_s_small_windows_have_fast_winograd_kernels() -> None:
    """Windows whose sides divide a tile of 4 x 4 are pooled in registers, if they are in the list."""
    built = fast_windows(WINOGRAD)
    for name, blocks in known_stacks().items():
        for number, block in enumerate(blocks[1:], start=2):
            window = block.pool.window
            fits = block.kernel == 3 and window == block.pool.stride and all(4 % side == 0 for side in window)
            assert not fits or window in built, f"{name}: window {window} of block {number} is not in {WINOGRAD}"


def test_every_window_is_checked() -> None:
    """By test_engine.NETWORKS on the CPU and the emulator, by benchmarks/gpu's POOLS on a GPU: against the oracle."""
    stacks = [typing.cast("list[Block]", spec["blocks"]) for spec in test_engine.NETWORKS.values()]
    firsts = [blocks[0].pool for blocks in stacks]
    others = [block.pool for blocks in stacks for block in blocks[1:] if block.kernel == 3]
    on_gpu = {(window, stride or window) for window, stride in gpu_cases.POOLS}
    known = {(block.pool.window, block.pool.stride) for blocks in known_stacks().values() for block in blocks}
    networks, pools = "tests/test_engine.py, NETWORKS", "benchmarks/gpu/cases.py, POOLS"
    for built, checked, where in (
        (fast_windows(FIRST_ON_CPU), {(pool.window[1], pool.stride[1]) for pool in firsts}, networks),
        (fast_windows(FIRST_ON_GPU), {pool.window for pool in firsts}, networks),
        (fast_windows(WINOGRAD), {pool.window for pool in others if pool.window == pool.stride}, networks),
        (fast_windows(FIRST_ON_GPU), {window for window, _ in on_gpu}, pools),
        (known | converters_pools(), on_gpu, pools),
    ):
        assert built <= checked, f"{where}: no case for {sorted(built - checked)}"


# ---- a front end ----

FIELDS = {  # a field of a front end -> its choices
    **{f: typing.get_args(t) for f, t in typing.get_type_hints(Frontend).items() if typing.get_args(t)},
    **{f"log.{f}": typing.get_args(t) for f, t in typing.get_type_hints(Log).items() if typing.get_origin(t)},
}
FIELDS = {name: choices for name, choices in FIELDS.items() if all(isinstance(c, str) for c in choices)}
CHOICES = [(field, choice) for field, choices in FIELDS.items() for choice in choices]


def taken(cases: Iterator[dict[str, Any]]) -> set[tuple[str, str]]:
    """(field, choice) that some front end of ``cases`` has; what a case leaves out is that of make_models.FRONTEND."""
    found = set()
    for case in cases:
        fields = {key: value for key, value in case.items() if key in Frontend.__dataclass_fields__}
        if isinstance(fields.get("log"), dict):
            fields["log"] = Log(**fields["log"])
        frontend = dataclasses.replace(FRONTEND, **fields)
        for field, _ in CHOICES:
            owner, _, name = field.rpartition(".")
            found.add((field, getattr(getattr(frontend, owner) if owner else frontend, name)))
    return found


def of_the_embedded() -> Iterator[dict[str, Any]]:
    """The front ends of the embedded models, which every export is tried on."""
    for name in test_export.EMBEDDED:
        frontend = load_any(name)[0].document.frontend
        yield {field.name: getattr(frontend, field.name) for field in dataclasses.fields(frontend)}


def own_cases() -> Iterator[dict[str, Any]]:
    yield from (dict(fields) for _, fields in test_frontends.CASES.values())


def exported_cases() -> Iterator[dict[str, Any]]:
    yield from own_cases()
    yield from (dict(fields) for fields in test_export.FRONT_ENDS.values())
    yield from of_the_embedded()


@pytest.mark.parametrize(("field", "choice"), CHOICES)
def test_every_choice_of_a_front_end_is_compared_with_the_oracle(field, choice) -> None:
    """By the CPU's engine, by the GPU's on the emulator, and by exports: a choice without a case was never run."""
    on_cpu = taken(iter([*test_engine.FRONTENDS.values(), *own_cases()]))
    assert (field, choice) in on_cpu, "no case in tests/test_engine.py FRONTENDS or tests/test_frontends.py CASES"
    assert (field, choice) in taken(iter(gpu_cases.FRONT_ENDS.values())), "no case in benchmarks/gpu's FRONT_ENDS"
    assert (field, choice) in taken(exported_cases()), "no case in tests/test_export.py FRONT_ENDS"


def test_every_kind_of_front_end_is_validated_and_has_a_network() -> None:
    kinds = set(FIELDS["kind"])
    assert kinds == {"mel", *test_validate_frontends.KINDS}, "no case in tests/test_validate_frontends.py KINDS"
    assert kinds == {paper.document(name).frontend.kind for name in paper.PAPER}


@pytest.mark.parametrize("name", ["PadMode", "LogKind", "Normalization"])
def test_every_choice_of_the_compiled_front_end_is_run_by_the_emulator(name) -> None:
    """tests/cuda/mel_cases.h and general_cases.h have the front ends that the sanitizers watch."""
    enums = [re.search(rf"enum class {name} {{(.*?)}}", read(str(path))) for path in sorted(CSRC.rglob("*.h"))]
    (values,) = [found[1].replace(" ", "").split(",") for found in enums if found]
    cases = read("tests/cuda/mel_cases.h") + read("tests/cuda/general_cases.h")
    assert [value for value in values if not re.search(rf"\b{value}\b", cases)] == []


# ---- a converter ----


def converter_modules() -> list[Any]:
    """The modules that build one family of networks: they have ``build(provenance, ...)``."""
    found = []
    for item in pkgutil.walk_packages(fcntag.convert.__path__, "fcntag.convert."):
        module = importlib.import_module(item.name)
        build = getattr(module, "build", None)
        if build and next(iter(inspect.signature(build).parameters), "") == "provenance":
            found.append(module)
    assert len(found) >= 4
    return found


def test_every_converter_is_asked_and_tested() -> None:
    from fcntag.convert import detect

    tests = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests").glob("test_convert_*.py")))
    for module in converter_modules():
        stem = module.__name__.rpartition(".")[2]
        assert getattr(detect, stem, None) is module, f"convert/detect.py does not know {stem}"
        assert stem.partition("_")[0] in tests, f"no tests/test_convert_*.py takes {stem}"


def test_every_published_model_has_a_converter_and_is_in_the_documents() -> None:
    """The reverse: an entry of the catalogue whose name no converter's module, and not detect.py, has."""
    from fcntag.convert import detect

    code = "".join(inspect.getsource(module) for module in [*converter_modules(), detect])
    for entry in catalogue.entries():
        assert not entry.origins or entry.base or f'"{entry.name}"' in code, f"no converter makes {entry.name}"
        for document in ("README.md", "docs/models.md"):
            assert f"`{entry.name}`" in read(document), f"{document} does not list {entry.name}"
    for name in paper.PAPER:
        assert f"`{name}`" in read("docs/models.md"), f"docs/models.md does not list {name}"


# ---- an instruction set ----


def built_sets() -> set[str]:
    """The instruction sets that CMake compiles all kernels for; bfloat16's is one file of another set."""
    calls = re.findall(r"^\s*fcntag_add_isa\((\w+)([^)]*)\)", read("CMakeLists.txt"), re.MULTILINE)
    return {name for name, arguments in calls if "SOURCES csrc/" not in arguments}


def test_every_instruction_set_is_in_every_table() -> None:
    """A set that a table lacks would run the plain kernels or none; one that CMake lacks is not linked."""
    sets = built_sets()
    assert {"generic", "avx2", "avx512", "neon"} <= sets
    tables = [path for path in CSRC.rglob("*.cpp") if "_kernels_generic" in path.read_text(encoding="utf-8")]
    tables = [*tables, *CSRC.rglob("kernel_table.cpp")]
    assert tables
    for path in tables:
        text = path.read_text(encoding="utf-8")
        for name in sets:
            found = re.search(rf"_kernels_{name}\b|^\s*FCNTAG_ROW\(Isa::\w+, {name},", text, re.MULTILINE)
            assert found, f"{path.relative_to(ROOT)} has no kernels of {name}"


def test_every_instruction_set_can_be_forced_sanitized_and_is_documented() -> None:
    (isa,) = [path for path in CSRC.rglob("*.cpp") if "FCNTAG_FORCE_ISA" in path.read_text(encoding="utf-8")]
    sanitized = re.search(r"foreach\(target (.*?)\)", read("CMakeLists.txt"))
    assert sanitized
    targets = sanitized[1].split()
    (row,) = [line for line in read("docs/cli.md").splitlines() if line.startswith("| `FCNTAG_FORCE_ISA`")]
    named = re.findall(r'\{Isa::\w+, "(\w+)"', isa.read_text(encoding="utf-8"))
    assert set(named) <= built_sets(), f"{isa.name} names a set that CMakeLists.txt does not compile"
    (digested,) = re.findall(r"^ISAS = \((.*)\)", read("tests/digests.py"), re.MULTILINE)
    for name in built_sets():
        assert f'"{name}"' in digested, f"tests/digests.py does not list {name}"
        assert f'"{name}"' in isa.read_text(encoding="utf-8"), f"{isa.name} cannot name {name}"
        assert f"fcntag_{name}" in targets or "${FCNTAG_ISA_TARGETS}" in targets, f"FCNTAG_SANITIZE leaves out {name}"
        assert f"`{name}`" in row, f"docs/cli.md does not list {name}"


# ---- a metric ----

SCHEMAS = {1: ["roc_auc", "pr_auc"]}  # of a report -> its metrics
METRICS = [field.name for field in dataclasses.fields(metrics.Metrics)]


@pytest.fixture(scope="module")
def evaluated() -> report.Report:
    rng = np.random.default_rng(5)
    labels = rng.random((40, 4)) < (0.4, 0.4, 0.4, 0.0)  # the last tag is left out of the averages
    tags = ("a", "b", "c", "d")
    truth = align(Dataset("some", tuple(f"{i}.wav" for i in range(40)), tags, labels), tags)
    scores = Scores(tags, rng.random((40, 4)).astype(np.float32), np.ones(40, bool))
    return evaluate(truth, scores, resamples=20)


@pytest.mark.parametrize("metric", METRICS)
def test_a_metric_is_in_every_form_of_a_report(evaluated, metric) -> None:
    import fcntag.eval

    shown = metric.upper().replace("_", "-")
    assert metric in fcntag.eval.__all__
    tree = evaluated.to_dict()
    for place in (tree["macro"], tree["tags"][0]):
        assert {"value", "low", "high"} == set(place[metric])
        assert None not in place[metric].values()
    assert shown in evaluated.summary()
    table = "\n".join(evaluated.lines())
    assert table.count(shown) == 1
    *rows, left_out = [dict(zip(report.CSV_HEADER, row, strict=True)) for row in evaluated.csv_rows()]
    assert left_out[metric] == ""
    assert [row[metric] for row in rows] == [evaluated_value(evaluated, metric, k) for k in range(-1, 3)]
    assert all(row[f"{metric}_low"] <= row[metric] <= row[f"{metric}_high"] for row in rows)


def evaluated_value(evaluated: report.Report, metric: str, k: int) -> float:
    """Of tag ``k``; -1: the macro average."""
    return getattr(evaluated if k < 0 else evaluated.tags[k], metric).value


def test_a_metric_is_of_a_schema_and_stands_beside_scikit_learn_s() -> None:
    """Readers of a report tell by the schema which figures it has."""
    assert SCHEMAS[report.SCHEMA] == METRICS, "fcntag/eval/report.py: raise SCHEMA, and give SCHEMAS here its metrics"
    beside = read("tests/test_eval_metrics.py")
    for metric in METRICS:
        assert f"ours.{metric}[k] - " in beside, f"tests/test_eval_metrics.py: no figure of scikit-learn's for {metric}"


def test_a_metric_has_intervals(rng) -> None:
    labels, scores = rng.random((30, 2)) < 0.5, rng.random((30, 2))
    found = metrics.bootstrap(labels, scores, resamples=10)
    assert dataclasses.astuple(metrics.per_tag(labels, scores))[-1].shape == (2,)
    for array in (found.low, found.high, found.macro_low, found.macro_high):
        assert len(array) == len(METRICS)
    assert metrics.resampled(labels, scores, resamples=4).shape == (len(METRICS), 4, 2)


# ---- a peer of the benchmark ----


def test_every_peer_is_known_to_the_command_line_and_installed_by_the_extra() -> None:
    from fcntag.cli import bench

    assert tuple(peers.PEERS) == bench.PEERS
    assert set(cuda_peers.PEERS) == set(bench.CUDA_PEERS)
    project = read("pyproject.toml")
    for extra in ("bench", "test"):
        found = re.search(rf"^{extra} = \[(.*?)\]$", project, re.DOTALL | re.MULTILINE)
        assert found
        base = re.search(r"^dependencies = \[(.*?)\]$", project, re.MULTILINE)
        assert base
        for module in {module for entry in peers.PEERS.values() for module in entry.needs}:
            assert re.search(rf'"{module}[>=]', base[1] + found[1]), f"pyproject.toml: the extra {extra} lacks {module}"


def test_every_peer_of_a_gpu_is_in_the_check_on_hardware() -> None:
    (default,) = re.findall(r'"--peers", default="([^"]*)"', read("benchmarks/gpu/check.py"))
    assert default.split(",") == list(cuda_peers.PEERS)


def test_every_peer_s_scores_are_tested() -> None:
    """test_bench goes through PEERS by itself; the GPU's are named one by one."""
    tests = read("tests/test_bench_cuda_peers.py")
    for name in cuda_peers.PEERS:
        assert f'"{name}"' in tests or name.endswith(("-graph", "-compile")), (
            f"tests/test_bench_cuda_peers.py lacks {name}"
        )


def test_the_help_names_every_peer(capsys) -> None:
    with pytest.raises(SystemExit):
        cli.main(["bench", "--help"])
    text = re.sub(r"-\s+", "-", capsys.readouterr().out)
    for name in {**peers.PEERS, **cuda_peers.PEERS}:
        assert name in text
