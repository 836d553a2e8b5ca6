"""Replays traces of warps on an in-order model of a quarter of a multiprocessor (an SM sub-partition).

The stall counts and scoreboards are those of ptxas. How long an instruction takes and how long it keeps a unit busy are
assumptions: public figures of Hopper, not measurements of ours. The model ranks versions of a kernel. It has never
been compared with hardware, and a time that it gives may be off by a fifth or more.

The rules are those of the expert's model that the first version of these kernels was reviewed with, and four more:

- A load or store of shared memory keeps the memory unit busy by its width: 512 bytes take 16 cycles.
- Bytes from global memory arrive one after the other, at the share of a sub-partition in the level-2 cache's
  bandwidth, and waits for asynchronous copies (LDGDEPBAR, DEPBAR) take as long as the copies.
- A wait for bulk copies (SYNCS.PHASECHK) takes as long as the copies (UBLKCP) that warps of the same sub-partition have
  started; each is taken for a phase of its barrier.
- A load from memory that is likely to be in the level-2 cache takes ``GLOBAL_LATENCY`` cycles, another one
  ``COLD_LATENCY``: the map that the layer before has written, and sums that are split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from machine_code.interpret import Step

HMMA_CYCLES = 6.45  # of an m16n8k16: 62 % of the peak, which is what mma.sync reaches on Hopper
GLOBAL_LATENCY, COLD_LATENCY = 260, 600
L2_BYTES_PER_CYCLE = 6.0  # of a sub-partition: a quarter of 24 of a multiprocessor
BARRIER_LATENCY = 25
SUB_PARTITIONS = 4

LATENCY = {
    "LDS": 28, "LDSM": 33, "LDC": 35, "S2R": 25, "MUFU": 20, "I2F": 20, "F2I": 20, "LDGSTS": 25, "STS": 20, "STG": 20,
    "SHFL": 24, "S2UR": 25, "R2UR": 12, "HMMA": 33, "ATOMS": 60, "SYNCS": 30,
}  # fmt: skip
OTHER_LATENCY = 20

_NO_UNIT = {
    "BRA", "BSSY", "BSYNC", "BAR", "DEPBAR", "LDGDEPBAR", "NOP", "EXIT", "ULDC", "UMOV", "UIADD3", "UIMAD", "ULOP3",
    "WARPSYNC", "PREEXIT", "ACQBULK", "CS2R",
}  # fmt: skip
_WIDTH = {"128": 16.0, "64": 8.0}


def occupancy(step: Step) -> tuple[str, float]:
    """The unit that an instruction takes, and for how many cycles."""
    i = step.instruction
    opcode = i.opcode
    if opcode == "HMMA":
        # tf32 multiplies k = 8 in the time of k = 16; a k = 8 of halves takes half.
        return "tensor", HMMA_CYCLES / 2 if "1688" in i.modifiers and "TF32" not in i.modifiers else HMMA_CYCLES
    if opcode in ("MUFU", "I2F", "F2I", "I2I", "F2F", "FRND"):
        return "special", 8.0
    if opcode in ("IMAD", "IMUL"):
        return "fma heavy", 2.0
    if opcode in ("FFMA", "FMUL", "FADD"):
        return "fma", 1.0
    if opcode in ("LDSM", "STSM"):
        return "memory", 16.0 if "4" in i.modifiers else 8.0
    if opcode in ("LDS", "STS", "LDG", "STG", "LDGSTS"):
        if i.never or not step.active:
            return "memory", 2.0
        if opcode == "LDGSTS":
            return "memory", 16.0
        return "memory", max((_WIDTH[m] for m in i.modifiers if m in _WIDTH), default=8.0)
    if opcode in ("LDC", "S2R", "SHFL"):
        return "memory", 4.0
    if opcode in _NO_UNIT:
        return "", 1.0
    return "alu", 2.0


@dataclass
class Decoded:
    """An instruction of a trace as the simulation needs it."""

    opcode: str
    unit: str
    cycles: float
    latency: float
    stall: int
    write: int
    read: int
    waits: tuple[int, ...]
    traffic: int
    key: int  # the barrier in shared memory that it is about
    arrives: bool  # a bulk copy, which the barrier waits for
    groups_left: int  # of a DEPBAR: how many groups of copies may still be on their way


def decode(trace: Sequence[Step]) -> list[Decoded]:
    known: dict[tuple[int, bool, int, bool, int], Decoded] = {}
    decoded = []
    for step in trace:
        i = step.instruction
        key = i.address, step.active, step.traffic, step.cold, step.key
        if key not in known:
            unit, cycles = occupancy(step)
            latency = float(LATENCY.get(i.opcode, OTHER_LATENCY))
            if i.opcode in ("LDG", "LDGSTS", "UBLKCP"):
                latency = COLD_LATENCY if step.cold else GLOBAL_LATENCY
            if i.never or (unit == "memory" and not step.active and i.opcode != "LDC"):
                latency = 4.0
            left = int(i.operands[1], 16) if i.opcode == "DEPBAR" and len(i.operands) > 1 else 0
            known[key] = Decoded(
                opcode=i.opcode,
                unit=unit,
                cycles=cycles,
                latency=latency,
                stall=max(i.stall, 5 if i.opcode == "BRA" else 1),
                write=i.write_scoreboard,
                read=i.read_scoreboard,
                waits=tuple(b for b in range(6) if i.wait_mask >> b & 1),
                traffic=step.traffic if i.opcode in ("LDG", "LDGSTS", "UBLKCP") else 0,
                key=step.key if "PHASECHK" in i.modifiers or i.opcode == "UBLKCP" else 0,
                arrives=i.opcode == "UBLKCP",
                groups_left=left,
            )
        decoded.append(known[key])
    return decoded


@dataclass(eq=False)
class Warp:
    """A warp on its way through its trace. ``times``: when it issued each instruction."""

    trace: list[Decoded]
    cta: int
    ready: float = 0.0
    position: int = 0
    at_barrier: bool = False
    scoreboards: list[float] = field(default_factory=lambda: [0.0] * 8)
    copies: float = 0.0  # when the last asynchronous copy arrives
    groups: list[float] = field(default_factory=list)
    phases: dict[int, int] = field(default_factory=dict)  # of each barrier of copies, that it has waited for
    times: list[float] = field(default_factory=list)

    @property
    def done(self) -> bool:
        return self.position >= len(self.trace)

    def earliest(self, units: dict[str, float], arrived: dict[tuple[int, int], list[float]]) -> float:
        """When its next instruction can issue."""
        d = self.trace[self.position]
        time = self.ready
        for b in d.waits:
            if self.scoreboards[b] > time:
                time = self.scoreboards[b]
        if d.unit and units.get(d.unit, 0.0) > time:
            time = units[d.unit]
        if d.opcode == "DEPBAR" and len(self.groups) > d.groups_left:
            time = max(time, self.groups[-1 - d.groups_left])
        if d.key and not d.arrives:
            phases = arrived.get((self.cta, d.key), [])
            phase = self.phases.get(d.key, 0)
            time = max(time, phases[phase] if phase < len(phases) else 0.0)
        return time


@dataclass
class Replay:
    """``cycles`` until all warps have ended; ``busy`` cycles of every unit; the warps, with their times."""

    cycles: float
    busy: dict[str, float]
    warps: list[Warp]


def replay(ctas: Sequence[Sequence[Sequence[Step]]], starts: Sequence[float] | None = None) -> Replay:
    """Run the warps of one sub-partition to their end.

    Parameters
    ----------
    ctas
        [CTA][warp][instruction]: of every CTA on the multiprocessor those warps that this sub-partition has.
    starts
        When each CTA begins, in cycles; default 0.
    """
    starts = starts or [0.0] * len(ctas)
    warps = [
        Warp(decode(trace), cta, ready=starts[cta]) for cta, traces in enumerate(ctas) for trace in traces if trace
    ]
    units: dict[str, float] = {}
    busy: dict[str, float] = {}
    arrived: dict[tuple[int, int], list[float]] = {}
    time, last, arrivals = 0.0, None, 0.0
    while True:
        order = [w for w in warps if not (w.done or w.at_barrier)]
        if not order:
            break
        chosen, soonest = None, float("inf")
        if last is not None and last in order:  # greedy, then oldest
            order.remove(last)
            order.insert(0, last)
        for w in order:
            earliest = w.earliest(units, arrived)
            if earliest <= time + 1e-9:
                chosen = w
                break
            soonest = min(soonest, earliest)
        if chosen is None:
            time = soonest
            continue
        d = chosen.trace[chosen.position]
        chosen.times.append(time)
        if d.unit:
            units[d.unit] = max(time, units.get(d.unit, 0.0)) + d.cycles
            busy[d.unit] = busy.get(d.unit, 0.0) + d.cycles
        finish = time + d.latency
        if d.unit == "memory":
            finish = units["memory"] + d.latency - (4.0 if d.opcode == "LDSM" else d.cycles)
        elif d.unit == "special":
            finish = units["special"] + 12.0
        if d.traffic:
            arrivals = max(arrivals, time) + d.traffic / L2_BYTES_PER_CYCLE
            finish = max(finish, arrivals + d.latency)
        if d.arrives:
            arrived.setdefault((chosen.cta, d.key), []).append(finish)
            finish = time + d.stall
        elif d.key:
            chosen.phases[d.key] = chosen.phases.get(d.key, 0) + 1
        if d.opcode == "LDGSTS":
            chosen.copies = max(chosen.copies, finish)
            finish = time + LATENCY["LDGSTS"]
        elif d.opcode == "LDGDEPBAR":
            chosen.groups.append(chosen.copies)
        if d.write != 7:
            chosen.scoreboards[d.write] = max(chosen.scoreboards[d.write], finish)
        if d.read != 7:
            held = time + (20.0 if d.opcode == "LDGSTS" else 12.0)
            chosen.scoreboards[d.read] = max(chosen.scoreboards[d.read], held)
        chosen.ready = time + d.stall
        chosen.position += 1
        chosen.at_barrier = d.opcode == "BAR"
        last = chosen
        time += 1.0
        mates = [w for w in warps if w.cta == chosen.cta]
        if (chosen.at_barrier or chosen.done) and all(w.done or w.at_barrier for w in mates):
            for w in mates:
                if w.at_barrier:
                    w.at_barrier, w.ready = False, time + BARRIER_LATENCY
    return Replay(max(w.ready for w in warps), busy, warps)


def sub_partition(traces: Sequence[Sequence[Step]]) -> list[Sequence[Step]]:
    """The warps of the first sub-partition, which has the first warp of a CTA and with it the most work."""
    return list(traces[::SUB_PARTITIONS])
