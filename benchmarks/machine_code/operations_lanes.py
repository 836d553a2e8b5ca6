"""What the instructions do that know which lane or warp they are in, or that pass values between lanes.

Importing this module adds them to ``operations.OPERATIONS``.
"""

from __future__ import annotations

import numpy as np
from machine_code.machine import WARP, Mask, State
from machine_code.operands import is_predicate, predicate, set_predicate, source, target, targets
from machine_code.operations import Run, low, only, operation
from machine_code.sass import Instruction


@operation("S2R", "S2UR")
def _s2r(i: Instruction) -> Run:
    only(i)
    write, read = target(i.operands[0]), source(i.operands[1])
    return lambda s, mask: write(s, read(s), mask)


@operation("CS2R")
def _cs2r(i: Instruction) -> Run:
    found = only(i, "32")
    read = source(i.operands[1])
    writes = targets(i.operands[0], 1 if "32" in found else 2)

    def run(s: State, mask: Mask) -> None:
        writes[0](s, read(s), mask)
        for write in writes[1:]:
            write(s, np.zeros(1, np.uint32), mask)

    return run


@operation("R2UR")
def _r2ur(i: Instruction) -> Run:
    only(i)
    operands = [text for text in i.operands if not is_predicate(text)]
    write, a = target(operands[0]), source(operands[1])

    def run(s: State, mask: Mask) -> None:
        value, lanes = np.broadcast_to(a(s), mask.shape).copy(), mask.reshape(-1, WARP)
        first = np.repeat(np.arange(s.warps) * WARP + lanes.argmax(axis=1), WARP)  # the first active lane of the warp
        write(s, value[first], mask)

    return run


@operation("VOTE", "VOTEU")
def _vote(i: Instruction) -> Run:
    found = only(i, "ANY", "ALL", "EQ")
    write = target(i.operands[0]) if not is_predicate(i.operands[0]) else None
    out, test = [set_predicate(text) for text in i.operands[:-1] if is_predicate(text)], predicate(i.operands[-1])

    def run(s: State, mask: Mask) -> None:
        value = test(s).reshape(-1, WARP)
        active = mask.reshape(-1, WARP)
        bits = ((value & active) * (np.uint64(1) << np.arange(WARP, dtype=np.uint64))).sum(axis=1, dtype=np.uint64)
        any_, all_ = (value & active).any(axis=1), (value | ~active).all(axis=1)
        answer = any_ if "ANY" in found else all_ if "ALL" in found else all_ | ~any_
        for set_ in out:
            set_(s, np.repeat(answer, WARP), mask)
        if write:
            write(s, np.repeat(low(bits), WARP), mask)

    return run


@operation("POPC", "UPOPC", "FLO", "UFLO", "BREV", "UBREV")
def _bits(i: Instruction) -> Run:
    found = only(i, "U32", "SH")
    write, a = target(i.operands[0]), source(i.operands[-1])

    def one(x: int) -> int:
        if "POPC" in i.opcode:
            return x.bit_count()
        if "BREV" in i.opcode:
            return int(f"{x:032b}"[::-1], 2)
        return 0xFFFFFFFF if x == 0 else 32 - x.bit_length() if "SH" in found else x.bit_length() - 1

    def run(s: State, mask: Mask) -> None:
        value = np.broadcast_to(a(s), mask.shape)
        write(s, np.array([one(int(x)) for x in value], np.uint32), mask)

    return run


@operation("ELECT")
def _elect(i: Instruction) -> Run:
    only(i)
    out = set_predicate(i.operands[0])

    def run(s: State, mask: Mask) -> None:
        active = mask.reshape(-1, WARP)
        first = np.zeros_like(active)
        first[np.arange(s.warps), active.argmax(axis=1)] = True
        out(s, first.reshape(-1), mask)

    return run


@operation("SHFL")
def _shfl(i: Instruction) -> Run:
    found = only(i, "BFLY", "IDX", "UP", "DOWN")
    out, write, a, b, c = set_predicate(i.operands[0]), target(i.operands[1]), *(source(t) for t in i.operands[2:5])

    def run(s: State, mask: Mask) -> None:
        lane = np.arange(s.lanes, dtype=np.int64) % WARP
        by, limits = (np.broadcast_to(read(s), mask.shape).astype(np.int64) for read in (b, c))
        segment, clamp = limits >> 8 & 31, limits & 31
        lowest = lane & segment
        highest = lowest | clamp & ~segment
        if "BFLY" in found:
            other = lane ^ by
        elif "IDX" in found:
            other = lowest | by & ~segment
        else:
            other = lane + (by if "DOWN" in found else -by)
        good = other >= highest if "UP" in found else other <= highest
        other = np.where(good, other, lane) & 31
        value = np.broadcast_to(a(s), mask.shape)[np.arange(s.lanes) - lane + other]
        out(s, good, mask)
        write(s, value, mask)

    return run
