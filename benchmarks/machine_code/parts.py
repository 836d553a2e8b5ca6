"""The parts of a CTA's life, from its trace: before the wait, prologue, steps, between passes, end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from machine_code.interpret import Step, run_cta
from machine_code.machine import Launch
from machine_code.model import Replay, replay, sub_partition
from machine_code.sass import Kernel
from machine_code.toolchain import Built, Planned

PARTS = ("before the wait", "prologue", "steps", "between passes", "end")
# An excursion out of the loop of the steps that is no longer, and meets no barrier, is a part of a step.
_EXCURSION = 64


def product_opcode(kernel: Kernel) -> str:
    """What multiplies in this kernel: the tensor cores, or single floats."""
    return "HMMA" if any(i.opcode == "HMMA" for i in kernel.instructions) else "FFMA"


def step_loops(kernel: Kernel) -> list[tuple[int, int]]:
    """Address ranges of the loops over the steps: the innermost ones that hold both products and a barrier."""
    product = product_opcode(kernel)
    chosen: list[tuple[int, int]] = []
    for first, last in kernel.loops:
        opcodes = {i.opcode for i in kernel.span(first, last)}
        if {product, "BAR"} <= opcodes and not any(first <= a and b <= last for a, b in chosen):
            chosen.append((first, last))
    return chosen


def label(kernel: Kernel, trace: Sequence[Step]) -> list[int]:
    """For every instruction of a trace the index of its part in PARTS."""
    loops = step_loops(kernel)
    product = product_opcode(kernel)
    if loops:
        inside = [any(a <= s.instruction.address <= b for a, b in loops) for s in trace]
    else:  # no loop is left: a step is what lies between two barriers and has products
        inside, start = [False] * len(trace), 0
        bars = [n for n, s in enumerate(trace) if s.instruction.opcode == "BAR"] + [len(trace)]
        for bar in bars:
            products = [n for n in range(start, bar) if trace[n].instruction.opcode == product]
            if products:
                inside[start : products[-1] + 1] = [True] * (products[-1] + 1 - start)
            start = bar
    n = 0
    while n < len(trace):  # excursions belong to the step that they come from
        if inside[n]:
            n += 1
            continue
        end = n
        while end < len(trace) and not inside[end]:
            end += 1
        short = end - n <= _EXCURSION and all(s.instruction.opcode != "BAR" for s in trace[n:end])
        if short and n > 0 and end < len(trace):
            inside[n:end] = [True] * (end - n)
        n = end
    # The compiler may lay the end of a CTA out inside of the loop's addresses. Behind the last product is no step.
    last_product = max((n for n, s in enumerate(trace) if s.instruction.opcode == product), default=-1)
    inside[last_product + 1 :] = [False] * (len(trace) - last_product - 1)
    wait = next((n for n, s in enumerate(trace) if s.instruction.opcode == "ACQBULK"), 0)
    steps = [n for n, is_inside in enumerate(inside) if is_inside]
    first, last = (steps[0], steps[-1]) if steps else (len(trace), len(trace))
    labels = []
    for n, is_inside in enumerate(inside):
        if n < wait:
            labels.append(0)
        elif n < first:
            labels.append(1)
        elif n > last:
            labels.append(4)
        else:
            labels.append(2 if is_inside else 3)
    return labels


@dataclass
class CtaReport:
    """What a CTA of a launch takes by the model. Cycles and instructions are those of its first warp, by part."""

    planned: Planned
    cycles: float
    instructions: dict[str, int]
    part_cycles: dict[str, float]
    products: int
    barriers: int  # in the steps
    product_cycles: float  # that the products keep their unit busy
    resident: int  # CTAs that a multiprocessor holds
    cycles_each: float  # of a multiprocessor, a CTA, where it holds so many
    cycles_mean: float  # of cycles_each over all CTAs: where sums are split, the last of a tile has more to do
    busy: float  # share of the time in which the tensor cores work, with as many CTAs as fit

    @property
    def step_cycles(self) -> float:
        return self.part_cycles["steps"] / max(1, self.planned.steps)

    @property
    def step_overhead(self) -> float:
        """Cycles of a step beyond its products."""
        return self.step_cycles - self.product_cycles / max(1, self.planned.steps)

    @property
    def outside(self) -> float:
        """Cycles outside of the steps."""
        return self.cycles - self.part_cycles["steps"]

    def layer_cycles(self, multiprocessors: int = 132) -> float:
        """A prediction of the layer's time in cycles: whole rounds of CTAs on a GPU."""
        full, rest = divmod(self.planned.ctas, multiprocessors * self.resident)
        cycles = full * self.cycles_mean * self.resident
        if rest:
            cycles += max(self.cycles, math.ceil(rest / multiprocessors) * self.cycles_mean)
        return cycles

    def microseconds(self, batch: int, gigahertz: float = 1.755) -> float:
        """The same a clip of a batch, on an H100."""
        return self.layer_cycles() / gigahertz / 1e3 / batch


@dataclass
class _Units:
    registers: int = 65536
    threads: int = 2048
    shared: int = 228 * 1024
    reserved: int = 1024
    ctas: int = field(default=32)


def resident_ctas(registers: int, threads: int, shared_bytes: int) -> int:
    """How many CTAs a multiprocessor of compute capability 9.0 holds."""
    u = _Units()
    a_warp = -(-registers // 8) * 8 * 32
    by_registers = u.registers // (a_warp * (threads // 32))
    return max(1, min(u.shared // (shared_bytes + u.reserved), by_registers, u.threads // threads, u.ctas))


def not_last(launch: Launch) -> Launch:
    """``launch`` as the first CTA of every tile finds it: no other one has arrived."""
    regions = [
        replace(r, content=np.zeros_like(r.content)) if r.name == "arrivals" and r.content is not None else r
        for r in launch.regions
    ]
    return replace(launch, regions=regions)


def report_cta(built: Built, planned: Planned, block: tuple[int, int, int] | None = None) -> CtaReport:
    """Run and replay a CTA; the one in the middle of the grid, where ``block`` does not say which.

    Raises
    ------
    machine.MachineError
        The interpreter does not know the code.
    """
    launch = planned.launch
    if launch.kernel not in built.kernels:
        raise RuntimeError(f"the cubin has no kernel {launch.kernel}")
    kernel, resources = built.kernels[launch.kernel], built.resources[launch.kernel]
    block = block or (launch.grid[0] // 2, launch.grid[1] // 2, 0)
    if not all(0 <= at < size for at, size in zip(block, launch.grid, strict=True)):
        raise RuntimeError(f"{launch.name}: CTA {block[0]} is outside of the grid of {launch.grid[0]}")
    base = resources.constants - len(launch.params)
    traces = run_cta(kernel, launch, block, param_base=base)
    mine = sub_partition(traces)
    alone = replay([mine])
    labels = label(kernel, traces[0])
    times = [*alone.warps[0].times, alone.cycles]
    instructions, cycles = dict.fromkeys(PARTS, 0), dict.fromkeys(PARTS, 0.0)
    for n, part in enumerate(labels):
        instructions[PARTS[part]] += 1
        cycles[PARTS[part]] += times[n + 1] - times[n]
    product = product_opcode(kernel)
    unit = "tensor" if product == "HMMA" else "fma"
    resident = resident_ctas(resources.registers, launch.threads, launch.shared_bytes)
    each = mean = alone.cycles if resident == 1 else _steady(mine, resident, alone)
    if launch.grid[1] > 1:  # the one that was looked at adds the sums of all chunks
        other = sub_partition(run_cta(kernel, not_last(launch), block, param_base=base))
        done = replay([other])
        first = done.cycles if resident == 1 else _steady(other, resident, done)
        mean = (each + (launch.grid[1] - 1) * first) / launch.grid[1]
    return CtaReport(
        planned=planned,
        cycles=alone.cycles,
        instructions=instructions,
        part_cycles=cycles,
        barriers=sum(
            s.instruction.opcode == "BAR" and PARTS[n] == "steps" for s, n in zip(traces[0], labels, strict=True)
        ),
        products=sum(s.instruction.opcode == product for s in traces[0]),
        product_cycles=alone.busy.get(unit, 0.0),
        resident=resident,
        cycles_each=each,
        cycles_mean=mean,
        busy=alone.busy.get(unit, 0.0) / each,
    )


def _steady(traces: list[Sequence[Step]], resident: int, alone: Replay) -> float:
    """Cycles a CTA where ``resident`` are at work at any time, each at another point of its life."""
    rounds = 3
    starts = [alone.cycles * n / resident for n in range(resident)]
    together = replay([[list(t) * rounds for t in traces]] * resident, starts)
    length = len(traces[0])
    first = together.warps[0].times
    # The first round starts alone; of the others, the second ends while everybody is there.
    return (first[2 * length] - first[length]) / resident
