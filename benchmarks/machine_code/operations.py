"""What each instruction does to the state: whole numbers, predicates, and the moving of data.

Sums of the tensor cores are zero, for no branch of these kernels depends on them. An opcode or a modifier that is not
here raises MachineError: nothing is passed over.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from machine_code.machine import PT, MachineError, Mask, State, Words
from machine_code.operands import (
    floats,
    is_predicate,
    pair,
    predicate,
    set_predicate,
    source,
    target,
    targets,
)
from machine_code.sass import Instruction

Run = Callable[[State, Mask], None]
Compile = Callable[[Instruction], Run]

OPERATIONS: dict[str, Compile] = {}
LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


def operation(*names: str) -> Callable[[Compile], Compile]:
    def register(compile_: Compile) -> Compile:
        for name in names:
            OPERATIONS[name] = compile_
        return compile_

    return register


def only(i: Instruction, *allowed: str) -> set[str]:
    """The modifiers of ``i``, all of which have to be known."""
    if unknown := set(i.modifiers) - set(allowed):
        raise MachineError(f"{i.text}: modifier {'.'.join(sorted(unknown))} is not known")
    return set(i.modifiers)


def wide(value: Words) -> np.ndarray:
    return value.astype(np.uint64)


def low(value: np.ndarray) -> Words:
    return (value & LOW).astype(np.uint32)


def signed(value: Words) -> np.ndarray:
    return value.astype(np.uint32).view(np.int32).astype(np.int64)


def split_carries(operands: tuple[str, ...]) -> tuple[str, list[str], list[str], list[str]]:
    """Target, predicates written, sources, and predicates read of an addition."""
    rest = list(operands[1:])
    out = []
    while is_predicate(rest[0]):
        out.append(rest.pop(0))
    sources = [text for text in rest if not is_predicate(text)]
    return operands[0], out, sources, [text for text in rest if is_predicate(text)]


def addition(i: Instruction, addends: list[Callable[[State], np.ndarray]], out: list[str], carries: list[str]) -> Run:
    write, reads = target(i.operands[0]), [predicate(text) for text in carries]
    outs = [set_predicate(text) for text in out]

    def run(s: State, mask: Mask) -> None:
        total = addends[0](s)
        for addend in addends[1:]:
            total = total + addend(s)
        for carry in reads:
            total = total + carry(s)
        over = total >> _32
        for k, set_ in enumerate(outs):
            set_(s, over > np.uint64(k), mask)
        write(s, low(total), mask)

    return run


def addend(text: str, extended: bool) -> Callable[[State], np.ndarray]:
    """A summand of 33 bits: -x is ~x + 1, so that its carry comes out as the hardware has it."""
    if text.startswith("-") and not text.startswith("-0x"):
        read = source(text[1:])
        one = np.uint64(0 if extended else 1)
        return lambda s: wide(~read(s)) + one
    read = source(text)
    return lambda s: wide(read(s))


def _add64(i: Instruction) -> Run:
    writes, reads = targets(i.operands[0], 2), [pair(text) for text in i.operands[1:] if not is_predicate(text)]

    def run(s: State, mask: Mask) -> None:
        total = reads[0](s)
        for read in reads[1:]:
            total = total + read(s)
        lower, upper = low(total), low(total >> _32)
        writes[0](s, lower, mask)
        writes[1](s, upper, mask)

    return run


@operation("IADD3", "UIADD3", "IADD", "VIADD", "UIADD")
def _iadd3(i: Instruction) -> Run:
    found = only(i, "X", "U32", "64")
    if "64" in found:
        return _add64(i)
    _, out, sources, carries = split_carries(i.operands)
    return addition(i, [addend(text, "X" in found) for text in sources], out, carries)


@operation("IMAD", "UIMAD")
def _imad(i: Instruction) -> Run:
    found = only(i, "MOV", "U32", "IADD", "SHL", "WIDE", "HI", "X")
    destination, out, sources, carries = split_carries(i.operands)
    texts = sources
    a, b = source(texts[0]), source(texts[1])
    reads, outs = [predicate(text) for text in carries], [set_predicate(text) for text in out]
    unsigned = "U32" in found
    if found & {"WIDE", "HI"}:
        c = pair(texts[2])
        writes = targets(destination, 2) if "WIDE" in found else []
        write = target(destination)

        def run_wide(s: State, mask: Mask) -> None:
            x, y = a(s), b(s)
            product = wide(x) * wide(y) if unsigned else (signed(x) * signed(y)).view(np.uint64)
            total = product + c(s)
            for set_ in outs:
                set_(s, total < product, mask)
            if writes:
                lower, upper = low(total), low(total >> _32)
                writes[0](s, lower, mask)
                writes[1](s, upper, mask)
            else:
                write(s, low(total >> _32), mask)

        if carries:
            raise MachineError(f"{i.text}: a wide product with a carry is not known")
        return run_wide
    c32 = addend(texts[2], "X" in found)
    write = target(destination)

    def run(s: State, mask: Mask) -> None:
        total = (wide(a(s)) * wide(b(s)) & LOW) + c32(s)
        for carry in reads:
            total = total + carry(s)
        for set_ in outs:
            set_(s, total >> _32 > np.uint64(0), mask)
        write(s, low(total), mask)

    return run


@operation("MOV", "UMOV", "MOV32I")
def _mov(i: Instruction) -> Run:
    only(i)
    write, read = target(i.operands[0]), source(i.operands[1])
    return lambda s, mask: write(s, read(s), mask)


def lookup(table: int, a: np.ndarray, b: np.ndarray, c: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """Bitwise function of three inputs; bit 4a + 2b + c of ``table`` is its value."""
    total = zero
    for n in range(8):
        if table >> n & 1:
            total = total | ((a if n & 4 else ~a) & (b if n & 2 else ~b) & (c if n & 1 else ~c))
    return total


_FAST = {
    0x33: lambda a, b, c: ~b,
    0x3C: lambda a, b, c: a ^ b,
    0xC0: lambda a, b, c: a & b,
    0xFC: lambda a, b, c: a | b,
}


@operation("LOP3", "ULOP3")
def _lop3(i: Instruction) -> Run:
    found = only(i, "LUT", "PAND")
    rest = list(i.operands)
    out = set_predicate(rest.pop(0)) if is_predicate(rest[0]) else None
    write, a, b, c = target(rest[0]), source(rest[1]), source(rest[2]), source(rest[3])
    table = int(rest[4], 16)
    other = predicate(rest[5]) if len(rest) > 5 else predicate("!PT")
    fast = _FAST.get(table)
    zero = np.zeros(1, np.uint32)

    def run(s: State, mask: Mask) -> None:
        value = fast(a(s), b(s), c(s)) if fast else lookup(table, a(s), b(s), c(s), zero)
        if out:
            nonzero = np.broadcast_to(value != 0, mask.shape)
            out(s, nonzero & other(s) if "PAND" in found else nonzero | other(s), mask)
        write(s, value, mask)

    return run


@operation("PLOP3", "UPLOP3")
def _plop3(i: Instruction) -> Run:
    only(i, "LUT")
    first, second = set_predicate(i.operands[0]), set_predicate(i.operands[1])
    a, b, c = (predicate(text) for text in i.operands[2:5])
    tables = int(i.operands[5], 16), int(i.operands[6], 16)

    def run(s: State, mask: Mask) -> None:
        x, y, z = a(s), b(s), c(s)
        zero = np.zeros(s.lanes, bool)
        values = [lookup(table, x, y, z, zero) for table in tables]
        first(s, values[0], mask)
        second(s, values[1], mask)

    return run


_COMPARE = {
    "LT": np.less, "LE": np.less_equal, "GT": np.greater, "GE": np.greater_equal, "EQ": np.equal, "NE": np.not_equal,
}  # fmt: skip
_JOIN = {"AND": np.logical_and, "OR": np.logical_or, "XOR": np.logical_xor}


@operation("ISETP", "UISETP")
def _isetp(i: Instruction) -> Run:
    found = only(i, *_COMPARE, *_JOIN, "U32", "EX")
    compare = next(_COMPARE[m] for m in i.modifiers if m in _COMPARE)
    join = next(_JOIN[m] for m in i.modifiers if m in _JOIN)
    first, second = set_predicate(i.operands[0]), set_predicate(i.operands[1])
    a, b, other = source(i.operands[2]), source(i.operands[3]), predicate(i.operands[4])
    lower = predicate(i.operands[5]) if "EX" in found else None
    unsigned = "U32" in found
    equal, unequal = compare is np.equal, compare is np.not_equal

    def run(s: State, mask: Mask) -> None:
        x, y = (a(s), b(s)) if unsigned else (signed(a(s)), signed(b(s)))
        value = compare(x, y)
        if lower is not None:  # the upper words decide, unless they are equal
            below = lower(s)
            if equal:
                value = value & below
            elif unequal:
                value = value | below
            else:
                value = np.where(x == y, below, value)
        third = other(s)
        first(s, join(value, third), mask)
        second(s, join(~value, third), mask)

    return run


@operation("SEL", "USEL", "FSEL")
def _sel(i: Instruction) -> Run:
    only(i)
    write, which = target(i.operands[0]), predicate(i.operands[3])
    if i.opcode == "FSEL":
        x, y = floats(i.operands[1]), floats(i.operands[2])
        return lambda s, mask: write(s, np.where(which(s), x(s), y(s)).view(np.uint32), mask)
    a, b = source(i.operands[1]), source(i.operands[2])
    return lambda s, mask: write(s, np.where(which(s), a(s), b(s)), mask)


@operation("SHF", "USHF")
def _shf(i: Instruction) -> Run:
    found = only(i, "L", "R", "S32", "U32", "S64", "U64", "HI", "W")
    write, a, count, b = target(i.operands[0]), *(source(text) for text in i.operands[1:4])
    long = bool(found & {"S64", "U64"})
    arithmetic = bool(found & {"S32", "S64"})
    limit = 63 if long else 31

    def run(s: State, mask: Mask) -> None:
        value = wide(b(s)) << _32 | wide(a(s))
        by = wide(count(s))
        by = by & np.uint64(limit) if "W" in found else np.minimum(by, np.uint64(limit + 1))
        over, by = by > np.uint64(63), np.minimum(by, np.uint64(63))
        if "L" in found:
            moved = np.where(over, np.uint64(0), value << by)
        elif arithmetic:
            moved = (value.view(np.int64) >> by.astype(np.int64)).view(np.uint64)
        else:
            moved = np.where(over, np.uint64(0), value >> by)
        write(s, low(moved >> _32) if "HI" in found else low(moved), mask)

    return run


@operation("LEA", "ULEA")
def _lea(i: Instruction) -> Run:
    found = only(i, "HI", "X", "SX32")
    _, out, sources, carries = split_carries(i.operands)
    shift = np.uint64(int(sources[-1], 16))
    a, b = source(sources[0]), addend(sources[1], "X" in found)
    c = source(sources[2]) if len(sources) > 3 else None
    if "HI" not in found:
        return addition(i, [lambda s: wide(a(s)) << shift & LOW, b], out, carries)

    def high(s: State) -> np.ndarray:
        value = wide(a(s))
        if "SX32" in found:
            return signed(a(s)).view(np.uint64) << shift >> _32 & LOW
        upper = wide(c(s)) if c is not None else np.zeros(1, np.uint64)
        return (upper << _32 | value) << shift >> _32 & LOW

    return addition(i, [high, b], out, carries)


@operation("IABS")
def _iabs(i: Instruction) -> Run:
    only(i)
    write, a = target(i.operands[0]), source(i.operands[1])
    return lambda s, mask: write(s, low(np.abs(signed(a(s))).view(np.uint64)), mask)


@operation("VIMNMX", "IMNMX", "VIADDMNMX", "UIMNMX")
def _minmax(i: Instruction) -> Run:
    found = only(i, "U32")
    write, which = target(i.operands[0]), predicate(i.operands[-1])
    reads = [source(text) for text in i.operands[1:-1]]

    def run(s: State, mask: Mask) -> None:
        words = [read(s) for read in reads]
        if len(words) == 3:
            words = [words[0] + words[1], words[2]]
        a, b = words if "U32" in found else [signed(word) for word in words]
        best = np.where(which(s), np.minimum(a, b), np.maximum(a, b))
        write(s, low(best.astype(np.int64).view(np.uint64)), mask)

    return run


@operation("PRMT", "UPRMT")
def _prmt(i: Instruction) -> Run:
    only(i)
    write, a, selector, b = target(i.operands[0]), *(source(text) for text in i.operands[1:4])

    def run(s: State, mask: Mask) -> None:
        value = wide(b(s)) << _32 | wide(a(s))
        which, total = wide(selector(s)), np.zeros(1, np.uint64)
        for byte in range(4):
            pick = which >> np.uint64(4 * byte) & np.uint64(15)
            taken = value >> (pick & np.uint64(7)) * np.uint64(8) & np.uint64(255)
            taken = np.where(pick > np.uint64(7), (taken >> np.uint64(7)) * np.uint64(255), taken)
            total = total | taken << np.uint64(8 * byte)
        write(s, low(total), mask)

    return run


@operation("SGXT", "USGXT")
def _sgxt(i: Instruction) -> Run:
    found = only(i, "U32")
    write, a, bits = target(i.operands[0]), source(i.operands[1]), int(i.operands[2], 16)
    drop = 32 - bits

    def run(s: State, mask: Mask) -> None:
        value = low(wide(a(s)) << np.uint64(drop))
        moved = value >> np.uint32(drop) if "U32" in found else (value.view(np.int32) >> drop).view(np.uint32)
        write(s, moved, mask)

    return run


@operation("P2R")
def _p2r(i: Instruction) -> Run:
    found = only(i, "B1", "B2", "B3")
    shift = 8 * next((int(m[1]) for m in found), 0)
    write, a, bits = target(i.operands[0]), source(i.operands[2]), int(i.operands[3], 16)

    def run(s: State, mask: Mask) -> None:
        value = a(s) & np.uint32(~(bits << shift) & 0xFFFFFFFF)
        for n in range(7):
            if bits >> n & 1:
                value = value | s.predicates[n].astype(np.uint32) << np.uint32(n + shift)
        write(s, value, mask)

    return run


@operation("R2P")
def _r2p(i: Instruction) -> Run:
    found = only(i, "B1", "B2", "B3")
    shift = 8 * next((int(m[1]) for m in found), 0)
    a, bits = source(i.operands[1]), int(i.operands[2], 16)

    def run(s: State, mask: Mask) -> None:
        value = np.broadcast_to(a(s), mask.shape)
        for n in range(PT):
            if bits >> n & 1:
                np.copyto(s.predicates[n], (value >> np.uint32(n + shift) & 1).astype(bool), where=mask)

    return run
