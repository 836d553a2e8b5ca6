"""The floors of the house: no circle of imports, and every room imports only from the floors below it.

docs/architecture.md has the picture. Imports inside functions count like those at the top of a file; imports for type
checkers alone do not, because they never run.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "fcntag"

# From the ground up, as docs/architecture.md numbers them. Rooms of one floor may import one another, as long as no
# circle comes of it.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "process"),
    ("model", "audio", "demo"),
    ("reduce", "catalogue", "pipeline"),
    ("engine",),
    ("export",),
    ("tagger", "result", "convert", "validate"),
    ("bench", "eval", "doctor", "pull"),
    ("cli",),
)
# These stand beside the floors: the package's face and its entry, and the oracle, which a test of its own watches.
BESIDE = ("__init__", "__main__", "oracle")
# The oracle is the truth that the engine is held to: it may know what a model is, and nothing that computes.
ORACLE_MAY_IMPORT = {"model"}


def modules() -> dict[str, Path]:
    """Name of every module of the package, and its file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(name: str) -> set[str]:
    """The package's modules that module ``name`` imports, wherever in its file, but for type checkers."""
    path = MODULES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                visit(other)
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name in MODULES)
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{module}.{alias.name}"
                if whole in MODULES:
                    found.add(whole)
                elif module in MODULES and alias.name not in ("_C", "_cuda"):
                    found.add(module)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found - {name}


GRAPH = {name: imports(name) for name in MODULES}


def room(name: str) -> str:
    """The room of a module: the first name below the package."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one node, after Tarjan (1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            part = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(part) > 1:
                found.append(sorted(part))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_circle_of_modules() -> None:
    assert circles(GRAPH) == []


def test_every_room_has_a_floor() -> None:
    assert sorted({room(name) for name in MODULES}) == sorted([*BESIDE, *(name for floor in FLOORS for name in floor)])


def test_the_page_of_the_architecture_has_these_floors() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\d) \| ([^|]*) \|", page, re.MULTILINE))
    found = {int(i): set(re.findall(r"`(\w+)(?:/|\.py)`", text)) for i, text in rows.items()}
    assert found == {i: set(rooms) for i, rooms in enumerate(FLOORS)}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_room_imports_from_below(name: str) -> None:
    floor = {other: i for i, rooms in enumerate(FLOORS) for other in rooms} | {
        "__init__": 0,
        "oracle": 2,
        "__main__": 8,
    }
    upward = [other for other in GRAPH[name] if floor[room(other)] > floor[room(name)]]
    assert not upward, f"{name} imports {upward}, which lie on a higher floor (FLOORS in {Path(__file__).name})"


def test_rooms_have_no_circle() -> None:
    rooms: dict[str, set[str]] = {room(name): set() for name in MODULES}
    for name, others in GRAPH.items():
        rooms[room(name)] |= {room(other) for other in others} - {room(name), "__init__"}
    assert circles(rooms) == []


def test_the_oracle_imports_nothing_that_computes() -> None:
    assert {room(other) for other in GRAPH["fcntag.oracle"]} <= ORACLE_MAY_IMPORT


def test_nothing_below_imports_the_command_line_or_the_bench() -> None:
    for name, others in GRAPH.items():
        above = {"cli"} if room(name) in ("bench", "__main__", "cli") else {"cli", "bench"}
        if room(name) in ("__main__", "cli"):
            continue
        assert not {room(other) for other in others} & above, name


# ---- csrc ----

CSRC = ROOT / "csrc"
# A folder of csrc may include its own headers, what lies directly in csrc, and these.
INCLUDES = {
    "model": set(),
    "cpu": {"model"},
    "cuda": {"model"},
    "emulation": {"cuda"},
    "bindings": {"model", "cpu", "cuda"},
}


@pytest.mark.parametrize("folder", sorted(INCLUDES))
def test_csrc_includes_from_below(folder: str) -> None:
    for path in sorted((CSRC / folder).rglob("*")):
        if path.suffix not in (".h", ".cpp", ".cu"):
            continue
        for target in re.findall(r'^\s*#\s*include "([^"]+)"', path.read_text(encoding="utf-8"), re.MULTILINE):
            first = target.split("/")[0]
            if "/" in target and (CSRC / first).is_dir():
                assert first == folder or first in INCLUDES[folder], f"{path.relative_to(ROOT)} includes {target}"


def includes(path: Path) -> set[Path]:
    """Headers of ours that a source includes, directly or by way of others."""
    found: set[Path] = set()
    left = [path]
    while left:
        for name in re.findall(r'^#include "(.*?)"', left.pop().read_text(), re.MULTILINE):
            header = CSRC / name
            if header.exists() and header not in found:
                found.add(header)
                left.append(header)
    return found


def test_a_host_compiler_sees_no_device_code() -> None:
    """The emulator's headers would hide it: they take the place of the folder's, which only nvcc can compile."""
    device = set((CSRC / "cuda/device").glob("*.h"))
    assert includes(CSRC / "cuda/frontend/melspec.cu") & device
    for source in [*(CSRC / "cuda").rglob("*.cpp"), *(CSRC / "bindings").rglob("*.cpp")]:
        assert not includes(source) & device, source.name


def test_no_folder_is_forgotten() -> None:
    assert {path.name for path in CSRC.iterdir() if path.is_dir()} == set(INCLUDES)
