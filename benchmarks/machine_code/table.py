"""What the machine code of every kernel looks like: a committed table with a bound beside each figure.

A figure that is worse than its bound is a loss that no test of results would notice: the kernel still computes the
right thing.
"""

from __future__ import annotations

import math
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from machine_code.parts import product_opcode, step_loops
from machine_code.sass import Instruction, Kernel
from machine_code.toolchain import Built, Resources

TABLE = Path(__file__).with_name("table.txt")
_MATRIX_LOADS = ("LDSM", "LDS")


@dataclass(frozen=True)
class Column:
    """A figure of the table. ``loss``: 1 where more is worse, -1 where less is. ``what`` explains it to a reader."""

    name: str
    loss: int
    what: str

    def worse(self, value: float, bound: float) -> bool:
        return self.loss * (value - bound) > 1e-9

    def bound(self, value: float) -> float:
        """A bound for a kernel that is as it should be: what ptxas of the same version may give for a small change."""
        if self.name == "registers":  # handed out by eights: up to the next multiple, as many warps fit
            return min(255, -(-int(value) // 8) * 8)
        if self.name == "code":
            return math.ceil(value * 1.1 / 10) * 10
        if self.name == "to load":
            return math.ceil(value * 1.05) + 2
        if self.name == "per load":
            return math.floor(value * 98) / 100
        return value


COLUMNS = (
    Column("registers", 1, "registers a thread"),
    Column("local", 1, "bytes of stack and local memory a thread: what has been spilled"),
    Column("code", 1, "instructions of the kernel, not counting those behind its end"),
    Column("divisions", 1, "integer divisions in loops, those of functions that loops call included"),
    Column("to load", 1, "instructions from a barrier of a step to the first load from shared memory, by address"),
    Column("per load", -1, "products a load from shared memory, in the straight piece of code that has most of them"),
)
Row = dict[str, float]
Key = tuple[str, str]  # kernel, architecture


def divisions(kernel: Kernel) -> int:
    """Integer divisions that a loop executes.

    A division by a number that the compiler does not know begins with the reciprocal of the divisor, for which it is
    converted to a float that is rounded up: nothing else in these kernels rounds so.
    """
    in_loops = {n for a, b in kernel.loops for n in range(kernel.index[a], kernel.index[b] + 1)}
    called: set[int] = set()
    for n in in_loops:
        i = kernel.instructions[n]
        if i.opcode == "CALL" and i.target in kernel.index:
            start = kernel.index[i.target]
            rest = kernel.instructions[start:]
            length = next((k for k, other in enumerate(rest) if other.opcode == "RET"), 0)
            called.update(range(start, start + length + 1))
    return sum(_begins_division(kernel.instructions[n]) for n in in_loops | called)


def _begins_division(i: Instruction) -> bool:
    return i.opcode == "I2F" and "RP" in i.modifiers


def _loads(i: Instruction) -> bool:
    return i.opcode in _MATRIX_LOADS and not i.never


def to_first_load(kernel: Kernel) -> int | None:
    """The largest distance from a barrier of a step to the first matrix load after it; None without steps."""
    distances = []
    for first, last in step_loops(kernel):
        body = kernel.span(first, last)
        for start, i in enumerate(body):
            if i.opcode != "BAR":
                continue
            for distance in range(1, len(body)):  # the loop goes on at its beginning
                other = body[(start + distance) % len(body)]
                if other.opcode == "BAR":
                    break
                if _loads(other):
                    distances.append(distance - 1)
                    break
    return max(distances, default=None)


def straight_pieces(kernel: Kernel) -> Iterator[list[Instruction]]:
    """The code, cut where a branch ends or may begin."""
    targets = {i.target for i in kernel.instructions}
    piece: list[Instruction] = []
    for i in kernel.instructions:
        if i.address in targets and piece:
            yield piece
            piece = []
        piece.append(i)
        if i.opcode in ("BRA", "EXIT", "BSYNC", "BAR"):
            yield piece
            piece = []


def products_per_load(kernel: Kernel) -> float | None:
    product = product_opcode(kernel)
    main = max(straight_pieces(kernel), key=lambda piece: sum(i.opcode == product for i in piece))
    loads = sum(_loads(i) for i in main)
    return sum(i.opcode == product for i in main) / loads if loads else None


def code_size(kernel: Kernel) -> int:
    """Instructions, without the branch to itself at the end and what fills up the last cache line."""
    end = len(kernel.instructions)
    for n in range(end - 1, -1, -1):
        i = kernel.instructions[n]
        if i.opcode == "BRA" and i.target == i.address:
            return n
        if i.opcode != "NOP":
            break
    return end


def resources_row(resources: Resources) -> Row:
    return {"registers": resources.registers, "local": resources.stack + resources.local}


def code_row(kernel: Kernel) -> Row:
    row: Row = {"code": code_size(kernel), "divisions": divisions(kernel)}
    if "conv_block" in kernel.name:
        for name, value in (("to load", to_first_load(kernel)), ("per load", products_per_load(kernel))):
            if value is not None:
                row[name] = round(value, 2)
    return row


def demangled(names: Iterable[str]) -> dict[str, str]:
    """Mangled name to a short one: without namespaces, parameters and what is the same in all of ours."""
    ordered = list(names)
    done = subprocess.run(["c++filt"], input="\n".join(ordered), capture_output=True, text=True, check=True)
    return dict(zip(ordered, map(short, done.stdout.splitlines()), strict=True))


def short(name: str) -> str:
    """A demangled name as the table has it: ``conv_block<Bfloat16, 20, 2, 4, false>``."""
    name = re.sub(r"\(anonymous namespace\)::|fcntag::|cuda::|\(.*?\)(?=\d|true|false)", "", name)
    depth, end = 0, len(name)
    for n, character in enumerate(name):
        depth += (character == "<") - (character == ">")
        if character == "(" and depth == 0:
            end = n
            break
    name = name[:end].removeprefix("void ").strip()
    name = re.sub(r"ConvShape<(.*)> ?>", r"\1>", name)
    return re.sub(r"MmaMath<(\w+) ?>", r"\1", name).replace("SimtMath", "Float32").replace(" >", ">")


# What a kernel that ends at once still has, by its header; one that does something has more.
EMPTY_REGISTERS = 6


def rows_of(built: Mapping[str, Built]) -> dict[Key, Row]:
    """Rows of all kernels, by architecture. A kernel without machine code has registers and local memory alone.

    Kernels that an architecture does not run, which end at once, are left out.
    """
    names = demangled({name for b in built.values() for name in b.resources})
    rows: dict[Key, Row] = {}
    for architecture, b in built.items():
        for name, resources in b.resources.items():
            row = resources_row(resources)
            if name in b.kernels:
                if code_size(b.kernels[name]) < 10:
                    continue
                row |= code_row(b.kernels[name])
            elif resources.registers <= EMPTY_REGISTERS:
                continue
            rows[names[name], architecture] = row
    return rows


def read(path: Path = TABLE) -> dict[Key, dict[str, tuple[float, float]]]:
    """The committed table: kernel and architecture to (value, bound) of every column."""
    table: dict[Key, dict[str, tuple[float, float]]] = {}
    kernel = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if not line.startswith(" "):
            kernel = line.strip()
            continue
        architecture, *cells = line.split()
        row = {}
        for column, cell in zip(COLUMNS, cells, strict=True):
            if cell != "-":
                value, bound = re.split("[<>]", cell)
                row[column.name] = float(value), float(bound)
        table[kernel, architecture] = row
    return table


def figures(table: Mapping[Key, Mapping[str, tuple[float, float]]]) -> dict[Key, Row]:
    """The figures of a table that was read, without their bounds."""
    return {key: {name: value for name, (value, _) in row.items()} for key, row in table.items()}


def replaced(old: Mapping[Key, Row], new: Mapping[Key, Row]) -> dict[Key, Row]:
    """``old`` with ``new`` in the place of every row of the same templates and architectures."""
    templates = {(kernel.split("<")[0], architecture) for kernel, architecture in new}
    kept = {key: row for key, row in old.items() if (key[0].split("<")[0], key[1]) not in templates}
    return {**kept, **new}


def format_table(rows: Mapping[Key, Row]) -> str:
    lines = [
        "# Machine code of the kernels, read without a GPU: python benchmarks/machine_code/report.py table --write",
        "# A cell is a figure and its bound: value<at most, value>at least. tests/test_machine_code.py holds them.",
        *(f"# {column.name}: {column.what}" for column in COLUMNS),
        "#     " + "".join(f"{column.name:>15}" for column in COLUMNS),
    ]
    kernel = None
    for (name, architecture), row in sorted(rows.items(), key=lambda item: (item[0][0], _order(item[0][1]))):
        if name != kernel:
            lines.append(name)
            kernel = name
        cells = []
        for column in COLUMNS:
            if column.name not in row:
                cells.append("-")
                continue
            value = row[column.name]
            bound = 0 if column.name == "local" else column.bound(value)
            cells.append(f"{value:g}{'<' if column.loss > 0 else '>'}{bound:g}")
        lines.append(f"  {architecture:<4}" + "".join(f"{cell:>15}" for cell in cells))
    return "\n".join(lines) + "\n"


def _order(architecture: str) -> int:
    return int(re.match(r"\d+", architecture).group())  # type: ignore[union-attr]


def compare(table: Mapping[Key, Mapping[str, tuple[float, float]]], rows: Mapping[Key, Row]) -> list[str]:
    """What is worse than its bound, or has none: one line each."""
    wrong = []
    for (kernel, architecture), row in rows.items():
        bounds = table.get((kernel, architecture))
        if bounds is None:
            wrong.append(f"{kernel} for sm_{architecture} has no row in {TABLE.name}: report.py table --write")
            continue
        for column in COLUMNS:
            if column.name not in row:
                continue
            value = row[column.name]
            if column.name not in bounds:
                wrong.append(f"{kernel} for sm_{architecture}: {column.name} {value:g} has no bound")
            elif column.worse(value, bounds[column.name][1]):
                before, bound = bounds[column.name]
                than = "at most" if column.loss > 0 else "at least"
                wrong.append(
                    f"{kernel} for sm_{architecture}: {column.name} {value:g}; "
                    f"allowed: {than} {bound:g} (was {before:g})"
                )
    return wrong
