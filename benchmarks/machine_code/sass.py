"""Reads what ``cuobjdump -sass`` prints: kernels, their instructions, and the control word of each instruction.

An instruction of compute capability 7.5 and later takes 16 bytes. The upper bits are the control word with which ptxas
steers the hardware: for how many cycles the warp may not issue after it (stall), which of six scoreboards it sets when
its result has been written or its operands have been read, and for which scoreboards it waits beforehand.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

NO_SCOREBOARD = 7
INSTRUCTION_BYTES = 16

_LINE = re.compile(r"\s+/\*([0-9a-f]{4,6})\*/\s+(.*?)\s*;\s+/\* 0x([0-9a-f]{16}) \*/")
_UPPER = re.compile(r"\s+/\* 0x([0-9a-f]{16}) \*/")
_GUARD = re.compile(r"@(!?)(U?P[0-9T]+)\s+")
_REGISTER = re.compile(r"R(\d+)")


@dataclass(frozen=True)
class Instruction:
    """One machine instruction.

    ``guard`` is the predicate under which it does something, such as ``P0``, or ``""``; ``negated`` says that the
    predicate has to be false. ``operation`` is the opcode with its modifiers. Scoreboards are 0 to 5, or 7 for none.
    """

    address: int
    text: str
    guard: str
    negated: bool
    operation: str
    operands: tuple[str, ...]
    stall: int
    write_scoreboard: int
    read_scoreboard: int
    wait_mask: int

    @cached_property
    def opcode(self) -> str:
        """The operation without modifiers."""
        return self.operation.split(".")[0]

    @cached_property
    def modifiers(self) -> tuple[str, ...]:
        return tuple(self.operation.split(".")[1:])

    @property
    def never(self) -> bool:
        """Whether its guard is always false: such instructions fill a slot."""
        return self.guard in ("PT", "UPT") and self.negated

    @cached_property
    def target(self) -> int | None:
        """The address that a branch goes to."""
        if self.opcode not in ("BRA", "BSSY", "CALL") or not self.operands:
            return None
        last = self.operands[-1]
        return int(last, 16) if last.startswith("0x") else None


@dataclass
class Kernel:
    """The instructions of one kernel, by address. ``name`` is mangled."""

    name: str
    architecture: str
    instructions: list[Instruction] = field(default_factory=list)

    @cached_property
    def index(self) -> dict[int, int]:
        """Address to position in ``instructions``."""
        return {i.address: n for n, i in enumerate(self.instructions)}

    @cached_property
    def loops(self) -> list[tuple[int, int]]:
        """First and last address of the body of every branch that goes backwards, innermost first.

        The branch to itself behind the end of a kernel is none.
        """
        found = {}
        for i in self.instructions:
            if i.opcode == "BRA" and i.target is not None and i.target < i.address:
                found[i.target] = max(i.address, found.get(i.target, 0))
        return sorted(found.items(), key=lambda loop: loop[1] - loop[0])

    def span(self, first: int, last: int) -> list[Instruction]:
        """The instructions from address ``first`` to ``last``, both included."""
        return self.instructions[self.index[first] : self.index[last] + 1]


def _split_operands(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",")) if text.strip() else ()


def parse_instruction(address: int, text: str, upper: int) -> Instruction:
    """One instruction from its text and the upper 64 of its 128 bits."""
    guard, negated, rest = "", False, text
    if found := _GUARD.match(text):
        negated, guard, rest = found.group(1) == "!", found.group(2), text[found.end() :]
    operation, _, operands = rest.partition(" ")
    return Instruction(
        address=address,
        text=text,
        guard=guard,
        negated=negated,
        operation=operation,
        operands=_split_operands(operands.replace(".reuse", "")),
        stall=upper >> 41 & 15,
        write_scoreboard=upper >> 46 & 7,
        read_scoreboard=upper >> 49 & 7,
        wait_mask=upper >> 52 & 63,
    )


def parse(text: str) -> list[Kernel]:
    """Every kernel in the output of ``cuobjdump -sass``, which may hold several architectures."""
    kernels: list[Kernel] = []
    architecture = ""
    pending: re.Match[str] | None = None
    for line in text.splitlines():
        if pending is not None:
            upper = _UPPER.match(line)
            if upper is None:
                raise ValueError(f"no second word after: {pending.group(2)}")
            address = int(pending.group(1), 16)
            kernels[-1].instructions.append(parse_instruction(address, pending.group(2), int(upper.group(1), 16)))
            pending = None
        elif found := _LINE.match(line):
            pending = found
        elif "Function : " in line:
            kernels.append(Kernel(line.split("Function : ")[1].strip(), architecture))
        elif found := re.search(r"code for (sm_\w+)|\.target\s+(sm_\w+)", line):
            architecture = found.group(1) or found.group(2)
    return kernels


def find_program(name: str, folder: Path | None = None) -> Path | None:
    """``cuobjdump`` or ``nvdisasm``: in ``folder``, on PATH, or in the packages nvidia-cuda-* of this Python.

    cuobjdump calls nvdisasm, which has to lie beside it or on PATH.
    """
    if folder is not None:
        return folder / name if (folder / name).is_file() else None
    if found := shutil.which(name):
        return Path(found)
    try:
        import nvidia
    except ImportError:
        return None
    for root in nvidia.__path__:
        if (path := Path(root) / "cu13" / "bin" / name).is_file():
            return path
    return None


def dump(binary: Path, cuobjdump: Path, *options: str) -> str:
    """What cuobjdump prints of ``binary``; ``options`` default to ``-sass``.

    Raises
    ------
    RuntimeError
        It failed; with its own words.
    """
    import os

    path = os.pathsep.join([str(cuobjdump.parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        [str(cuobjdump), *(options or ("-sass",)), str(binary)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": path},
    )
    if done.returncode != 0:
        raise RuntimeError(f"{cuobjdump.name} {binary}: {done.stderr.strip()}")
    return done.stdout
