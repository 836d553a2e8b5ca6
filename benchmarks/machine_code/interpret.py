"""Runs one CTA of a kernel of compute capability 9.0 and records which instructions each of its warps executes.

Threads that part at a branch meet again where the code says so (BSSY, BSYNC). Until then, the part with the lowest
address goes on, and parts that meet at an address are joined.
"""

from __future__ import annotations

from dataclasses import dataclass

import machine_code.operations_data
import machine_code.operations_lanes  # noqa: F401 - the same
import numpy as np
from machine_code.machine import WARP, Launch, MachineError, Mask, State
from machine_code.operands import predicate
from machine_code.operations import OPERATIONS, Run
from machine_code.sass import Instruction, Kernel
from numpy.typing import NDArray

# Nothing that a later instruction could see: the time of these is the model's business.
_NO_EFFECT = {
    "NOP", "DEPBAR", "LDGDEPBAR", "ACQBULK", "PREEXIT", "MEMBAR", "ERRBAR", "CGAERRBAR", "CCTL", "FENCE", "YIELD",
}  # fmt: skip
_CONTROL = {"BRA", "BSSY", "BSYNC", "EXIT", "BAR", "WARPSYNC", "BREAK"}


@dataclass
class Step:
    """One instruction of a warp's trace.

    ``active``: whether any lane's guard held. ``traffic``: bytes moved to or from global memory; ``cold``: some of
    them are not likely to be in the level-2 cache. ``key``: the barrier in shared memory that it is about, or 0.
    """

    instruction: Instruction
    active: bool
    traffic: int
    cold: bool
    key: int = 0


@dataclass
class Fragment:
    """Threads of the CTA that are at the same instruction."""

    position: int
    mask: Mask
    waits: str = ""  # "", "BAR", or the convergence barrier


@dataclass
class _Event:
    position: int
    warps: NDArray[np.bool_] | None  # None: all
    active: NDArray[np.bool_] | None
    traffic: NDArray[np.int64] | None
    cold: bool = False
    key: int = 0


def run_cta(
    kernel: Kernel, launch: Launch, block: tuple[int, int, int], *, param_base: int, limit: int = 20_000_000
) -> list[list[Step]]:
    """The trace of every warp of CTA ``block``.

    Parameters
    ----------
    kernel, launch
        The code, and its grid, parameters and memory.
    param_base
        Where the parameters lie in constant bank 0.
    limit
        How many instructions may be executed, over all warps that execute one together.

    Raises
    ------
    MachineError
        An opcode that is not known, an access outside of all memory, or a kernel that comes to no end.
    """
    with np.errstate(all="ignore"):
        return _Interpreter(kernel, State(launch, block, param_base), limit).run()


class _Interpreter:
    def __init__(self, kernel: Kernel, state: State, limit: int) -> None:
        self.kernel, self.state, self.limit = kernel, state, limit
        self.alive = np.ones(state.lanes, bool)
        self.members: dict[str, Mask] = {}
        self.votes: Mask | None = None  # of the threads at a barrier that reduces
        self.join = ""
        self.events: list[_Event] = []
        self.runs: list[Run | None] = [None] * len(kernel.instructions)
        self.guards = [
            predicate(("!" if i.negated else "") + i.guard) if i.guard else None for i in kernel.instructions
        ]

    def run(self) -> list[list[Step]]:
        fragments = [Fragment(0, self.alive.copy())]
        while fragments:
            ready = [f for f in fragments if not f.waits]
            if not ready:
                fragments = self._release(fragments)
                continue
            current = min(ready, key=lambda f: f.position)
            others = [f.position for f in ready if f is not current]
            fragments = [f for f in fragments if f is not current]
            fragments += self._advance(current, min(others, default=len(self.runs)))
            fragments = self._join(fragments)
        return self._traces()

    def _release(self, fragments: list[Fragment]) -> list[Fragment]:
        """Nobody can go on: a convergence barrier that is complete opens, else the CTA's barrier."""
        for name in {f.waits for f in fragments} - {"BAR"}:
            arrived = np.logical_or.reduce([f.mask for f in fragments if f.waits == name])
            if not (self.members.get(name, arrived) & self.alive & ~arrived).any():
                self.members.pop(name, None)
                for f in fragments:
                    if f.waits == name:
                        f.waits = ""
                return self._join(fragments)
        arrived = np.logical_or.reduce([f.mask for f in fragments if f.waits == "BAR"] or [~self.alive])
        if (self.alive & ~arrived).any():
            raise MachineError(f"{self.kernel.name}: threads wait for each other: {[f.waits for f in fragments]}")
        if self.votes is not None:
            votes = self.votes[self.alive]
            self.state.barrier_result = {"OR": votes.any(), "AND": votes.all(), "POPC": votes.sum()}[self.join]
            self.votes = None
        for f in fragments:
            f.waits = ""
        return self._join(fragments)

    @staticmethod
    def _join(fragments: list[Fragment]) -> list[Fragment]:
        if len(fragments) < 2:
            return fragments
        joined: dict[tuple[int, str], Fragment] = {}
        for f in fragments:
            key = f.position, f.waits
            if key in joined:
                joined[key].mask = joined[key].mask | f.mask
            else:
                joined[key] = f
        return list(joined.values())

    def _advance(self, fragment: Fragment, limit: int) -> list[Fragment]:
        """Executes until the fragment parts, waits, ends, or reaches ``limit``, where another one is."""
        instructions, state, mask, position = self.kernel.instructions, self.state, fragment.mask, fragment.position
        everyone = bool(mask.all())
        warps = None if everyone else mask.reshape(-1, WARP).any(axis=1)
        while position < limit:
            if position >= len(instructions):
                raise MachineError(f"{self.kernel.name}: runs beyond its end")
            i, guard = instructions[position], self.guards[position]
            active = mask if guard is None else mask & guard(state)
            event = _Event(position, warps, None if guard is None else active.reshape(-1, WARP).any(axis=1), None)
            self.events.append(event)
            if len(self.events) > self.limit:
                raise MachineError(f"{self.kernel.name}: no end after {self.limit} instructions")
            if i.opcode in _CONTROL:
                done = self._control(i, position, mask, active)
                if done is not None:
                    if len(done) != 1 or done[0].waits or done[0].mask is not mask:
                        return done
                    position = done[0].position
                    continue
            elif i.opcode not in _NO_EFFECT:
                run = self.runs[position]
                if run is None:
                    run = self.runs[position] = self._compile(i)
                if guard is None or active.any():
                    try:
                        run(state, active)
                    except MachineError as error:
                        raise MachineError(f"{self.kernel.name}+{i.address:#x}: {error}") from None
                    event.traffic, event.cold = state.traffic, state.cold
                    event.key = state.key
                    state.traffic, state.cold, state.key = None, False, 0
            position += 1
        return [Fragment(position, mask)]

    def _compile(self, i: Instruction) -> Run:
        if i.opcode not in OPERATIONS:
            raise MachineError(f"{self.kernel.name}+{i.address:#x}: {i.text}: opcode {i.opcode} is not known")
        try:
            return OPERATIONS[i.opcode](i)
        except MachineError as error:
            raise MachineError(f"{self.kernel.name}+{i.address:#x}: {error}") from None

    def _control(self, i: Instruction, position: int, mask: Mask, active: Mask) -> list[Fragment] | None:
        """Fragments after a control instruction, or None for the next instruction."""
        if i.opcode == "BRA":
            if i.modifiers and set(i.modifiers) - {"U", "DIV", "CONV", "ANY"}:
                raise MachineError(f"{i.text}: modifier not known")
            taken = active
            for text in i.operands[:-1]:
                if text.startswith(("~", "UR", "R")):
                    raise MachineError(f"{i.text}: operand {text} is not known")
                taken = taken & predicate(text)(self.state)
            if i.target is None:
                raise MachineError(f"{i.text}: no target")
            if not taken.any():
                return None
            there = self.kernel.index[i.target]
            if there == position:
                raise MachineError(f"{self.kernel.name}: a branch to itself")
            stay = mask & ~taken
            if not stay.any():
                return [Fragment(there, mask)]
            return [Fragment(position + 1, stay), Fragment(there, taken.copy())]
        if i.opcode == "BSSY":
            name = i.operands[0]
            self.members[name] = self.members.get(name, np.zeros_like(mask)) | active
            return None
        if i.opcode == "BREAK":
            name = i.operands[-1]
            if name in self.members:
                self.members[name] = self.members[name] & ~active
            return None
        if i.opcode == "BSYNC":
            name = i.operands[-1]
            if not (self.members.get(name, mask) & self.alive & ~mask).any():
                self.members.pop(name, None)
                return None
            return [Fragment(position + 1, mask, name)]
        if i.opcode == "EXIT":
            self.alive &= ~active
            for name in self.members:
                self.members[name] = self.members[name] & self.alive
            stay = mask & ~active
            if active.any():
                return [Fragment(position + 1, stay)] if stay.any() else []
            return None
        if i.opcode == "BAR":
            if "RED" in i.modifiers:
                vote = predicate(i.operands[-1])(self.state) & active
                self.votes = vote if self.votes is None else self.votes | vote
                self.join = next(m for m in i.modifiers if m in ("OR", "AND", "POPC"))
            return [Fragment(position + 1, mask, "BAR")] if active.any() else None
        return None  # WARPSYNC: lanes of a fragment are together

    def _traces(self) -> list[list[Step]]:
        instructions = self.kernel.instructions
        traces: list[list[Step]] = [[] for _ in range(self.state.warps)]
        for event in self.events:
            i = instructions[event.position]
            for warp in range(self.state.warps):
                if event.warps is None or event.warps[warp]:
                    active = event.active is None or bool(event.active[warp])
                    traffic = 0 if event.traffic is None else int(event.traffic[warp])
                    traces[warp].append(Step(i, active, traffic, event.cold, event.key))
        return traces
