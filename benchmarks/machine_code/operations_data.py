"""What the instructions do that move data, and the arithmetic of floats as far as it is needed.

Importing this module adds them to ``operations.OPERATIONS``.
"""

from __future__ import annotations

import numpy as np
from machine_code.machine import LOCAL_BYTES, MachineError, Mask, State
from machine_code.operands import address, floats, is_predicate, pair, predicate, set_predicate, source, target, targets
from machine_code.operations import Run, low, only, operation, signed
from machine_code.sass import Instruction

SIZES = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}
_CACHING = (
    "E",
    "BYPASS",
    "CONSTANT",
    "STRONG",
    "GPU",
    "SYS",
    "LTC128B",
    "LTC64B",
    "LTC256B",
    "EF",
    "EL",
    "NA",
    "SM",
    "CTA",
)


def access(i: Instruction, *allowed: str) -> int:
    """The size of a load or store in bytes a lane."""
    only(i, *SIZES, *_CACHING, *allowed)
    return next((SIZES[m] for m in i.modifiers if m in SIZES), 4)


def extend(i: Instruction, values: list) -> list:
    for name, bits in (("S8", 24), ("S16", 16)):
        if name in i.modifiers:
            return [(values[0] << np.uint32(bits)).view(np.int32).__rshift__(bits).view(np.uint32)]
    return values


@operation("LDC", "ULDC", "LDCU")
def _ldc(i: Instruction) -> Run:
    only(i, *SIZES)
    size = next((SIZES[m] for m in i.modifiers if m in SIZES), 4)
    writes = targets(i.operands[0], max(1, size // 4))
    text = i.operands[1]
    if size >= 4:
        reads = [source(text, offset=n) for n in range(size // 4)]

        def run(s: State, mask: Mask) -> None:
            values = [read(s).copy() for read in reads]
            for write, value in zip(writes, values, strict=True):
                write(s, value, mask)

        return run
    at = int(text.split("[")[-1].rstrip("]"), 16)
    shift = np.uint32(at % 4 * 8)
    keep = np.uint32((1 << 8 * size) - 1)

    def run_small(s: State, mask: Mask) -> None:
        word = s.constants[at // 4 : at // 4 + 1] >> shift & keep
        writes[0](s, extend(i, [word])[0], mask)

    return run_small


def shared_address(text: str):
    compute = address(text)
    return lambda s: (compute(s) & np.uint64(0xFFFFFFFF)).astype(np.int64)


@operation("LDS")
def _lds(i: Instruction) -> Run:
    size = access(i)
    at, writes = shared_address(i.operands[1]), targets(i.operands[0], max(1, size // 4))

    def run(s: State, mask: Mask) -> None:
        values = extend(i, s.load_shared(at(s), size, mask, i.text))
        for write, value in zip(writes, values, strict=True):
            write(s, value, mask)

    return run


@operation("STS")
def _sts(i: Instruction) -> Run:
    size = access(i)
    at = shared_address(i.operands[0])
    reads = registers(i.operands[1], max(1, size // 4))
    return lambda s, mask: s.store_shared(at(s), [read(s) for read in reads], size, mask, i.text)


def registers(text: str, count: int) -> list:
    return [source(text, offset=n) for n in range(count)]


@operation("LDSM")
def _ldsm(i: Instruction) -> Run:
    found = only(i, "16", "M88", "MT88", "2", "4", "T")
    at, count = shared_address(i.operands[1]), 4 if "4" in found else 2 if "2" in found else 1
    zero = np.zeros(1, np.uint32)
    writes = targets(i.operands[0], count)

    def run(s: State, mask: Mask) -> None:
        used = mask & np.tile(np.arange(32) < 8 * count, s.warps)  # the lanes whose addresses count
        s.check_shared(at(s), 16, used, i.text)
        for write in writes:
            write(s, zero, mask)

    return run


@operation("STSM")
def _stsm(i: Instruction) -> Run:
    only(i, "16", "M88", "MT88", "2", "4", "T")
    at = shared_address(i.operands[0])

    def run(s: State, mask: Mask) -> None:
        s.check_shared(at(s), 16, mask, i.text)

    return run


@operation("LDG", "LD")
def _ldg(i: Instruction) -> Run:
    size = access(i)
    writes = targets(i.operands[0], max(1, size // 4))
    text = next(operand for operand in i.operands[1:] if "[" in operand)
    at = address(text)

    def run(s: State, mask: Mask) -> None:
        where = at(s)
        values = extend(i, s.load_global(where, size, mask, i.text))
        s.count_traffic(where, size, mask)
        for write, value in zip(writes, values, strict=True):
            write(s, value, mask)

    return run


@operation("ATOMG")
def _atomg(i: Instruction) -> Run:
    """The value before it; what it makes of that is not kept."""
    access(i, "ADD", "MAX", "MIN", "EXCH", "CAS", "S32", "U32", "OR", "AND")
    operands = [text for text in i.operands if not is_predicate(text)]
    write, at = target(operands[0]), address(operands[1])

    def run(s: State, mask: Mask) -> None:
        where = at(s)
        write(s, s.load_global(where, 4, mask, i.text)[0], mask)
        s.count_traffic(where, 4, mask)

    return run


@operation("RED", "REDG")
def _red(i: Instruction) -> Run:
    """Only that it is allowed is looked at; the sum is not kept."""
    at = address(i.operands[0])

    def run(s: State, mask: Mask) -> None:
        s.load_global(at(s), 4, mask, i.text)

    return run


@operation("B2R")
def _b2r(i: Instruction) -> Run:
    only(i, "RESULT")
    write, out = target(i.operands[0]), set_predicate(i.operands[1])

    def run(s: State, mask: Mask) -> None:
        value = np.full(s.lanes, int(s.barrier_result), np.uint32)
        write(s, value, mask)
        out(s, value != 0, mask)

    return run


@operation("SYNCS")
def _syncs(i: Instruction) -> Run:
    """Barriers of copies in shared memory. Whoever asks finds that everything has arrived: how long that takes is the
    model's business, which needs to know the barrier.
    """
    only(i, "EXCH", "ARRIVE", "PHASECHK", "TRYWAIT", "TRANS64", "64", "A1T0", "A0T1", "ART0", "RED", "CCTL", "IV")
    at = shared_address(next(text for text in i.operands if "[" in text))
    out = set_predicate(i.operands[0]) if is_predicate(i.operands[0]) else None

    def run(s: State, mask: Mask) -> None:
        where = at(s)
        s.check_shared(where, 8, mask, i.text)
        s.key = int(where[mask][0])
        if out:
            out(s, np.ones(s.lanes, bool), mask)

    return run


@operation("UBLKCP")
def _ublkcp(i: Instruction) -> Run:
    """A bulk copy to shared memory: [target, barrier], [source], 16 bytes so many times. What it brings is zero."""
    only(i, "S", "G")
    n = int(i.operands[0].strip("[]").removeprefix("UR"))
    into, barrier = source(f"UR{n}"), source(f"UR{n + 1}")
    at, count = pair(i.operands[1].strip("[]")), source(i.operands[2])

    def run(s: State, mask: Mask) -> None:
        lane = int(np.flatnonzero(mask)[0])
        size = 16 * int(count(s)[lane])
        one = np.zeros(s.lanes, bool)
        one[lane] = True
        s.check_shared(into(s).astype(np.int64), 16, one, i.text)
        s.check_shared(into(s).astype(np.int64) + size - 16, 16, one, i.text)
        s.load_global(at(s), 16, one, i.text)
        s.load_global(at(s) + np.uint64(size - 16), 16, one, i.text)
        s.traffic = np.zeros(s.warps, np.int64)
        s.traffic[lane // 32] = size
        s.key = int(barrier(s)[lane])

    return run


def local_words(i: Instruction, text: str, size: int):
    at = shared_address(text)

    def words(s: State, mask: Mask) -> np.ndarray:
        where = np.where(mask, at(s), 0)
        if where.min() < 0 or where.max() + size > LOCAL_BYTES:
            raise MachineError(f"{i.text}: outside of {LOCAL_BYTES} bytes of local memory")
        return where >> 2

    return words


@operation("LDL")
def _ldl(i: Instruction) -> Run:
    size = access(i, "LU")
    words, writes = local_words(i, i.operands[1], size), targets(i.operands[0], max(1, size // 4))

    def run(s: State, mask: Mask) -> None:
        where, lane = words(s, mask), np.arange(s.lanes)
        if size < 4:
            raise MachineError(f"{i.text}: parts of words of local memory are not known")
        for n, write in enumerate(writes):
            write(s, s.local[where + n, lane], mask)

    return run


@operation("STL")
def _stl(i: Instruction) -> Run:
    size = access(i)
    words, reads = local_words(i, i.operands[0], size), registers(i.operands[1], max(1, size // 4))

    def run(s: State, mask: Mask) -> None:
        where, lane = words(s, mask), np.arange(s.lanes)
        shift = np.uint32(0)
        for n, read in enumerate(reads):
            s.local[where[mask] + n, lane[mask]] = np.broadcast_to(read(s) << shift, mask.shape)[mask]

    return run


@operation("STG", "ST")
def _stg(i: Instruction) -> Run:
    size = access(i)
    at, reads = address(i.operands[0]), registers(i.operands[1], max(1, size // 4))

    def run(s: State, mask: Mask) -> None:
        where = at(s)
        s.store_global(where, [read(s) for read in reads], size, mask, i.text)
        s.count_traffic(where, size, mask)

    return run


@operation("LDGSTS")
def _ldgsts(i: Instruction) -> Run:
    size = access(i, "ZFILL")
    into, at = shared_address(i.operands[0]), address(i.operands[1])
    filled = predicate(i.operands[2]) if len(i.operands) > 2 else predicate("PT")

    def run(s: State, mask: Mask) -> None:
        where, valid = at(s), mask & filled(s)
        values = s.load_global(where, size, valid, i.text)
        s.store_shared(into(s), values, size, mask, i.text)
        s.count_traffic(where, size, valid)

    return run


# ---- floats ----


@operation("HMMA", "IMMA")
def _hmma(i: Instruction) -> Run:
    zero = np.zeros(1, np.uint32)
    writes = targets(i.operands[0], 4 if "F32" in i.modifiers else 2)

    def run(s: State, mask: Mask) -> None:
        for write in writes:
            write(s, zero, mask)

    return run


@operation("FADD", "FMUL", "FFMA", "FMNMX")
def _float(i: Instruction) -> Run:
    only(i, "FTZ", "RN", "RM", "RP", "RZ", "SAT", "NAN")
    operands = [text for text in i.operands if not is_predicate(text)]
    write, reads = target(operands[0]), [floats(text) for text in operands[1:]]
    least = predicate(i.operands[-1]) if i.opcode == "FMNMX" else None

    def run(s: State, mask: Mask) -> None:
        x = [read(s) for read in reads]
        if least is not None:
            value = np.where(least(s), np.fmin(x[0], x[1]), np.fmax(x[0], x[1]))
        elif i.opcode == "FADD":
            value = x[0] + x[1]
        else:
            value = x[0] * x[1]
            value = value + x[2] if i.opcode == "FFMA" else value
        write(s, value.astype(np.float32).view(np.uint32), mask)

    return run


_FLOAT_COMPARE = {
    "LT": (np.less, False), "LE": (np.less_equal, False), "GT": (np.greater, False), "GE": (np.greater_equal, False),
    "EQ": (np.equal, False), "NE": (np.not_equal, False), "LTU": (np.less, True), "LEU": (np.less_equal, True),
    "GTU": (np.greater, True), "GEU": (np.greater_equal, True), "EQU": (np.equal, True), "NEU": (np.not_equal, True),
}  # fmt: skip


@operation("FSETP")
def _fsetp(i: Instruction) -> Run:
    found = only(i, *_FLOAT_COMPARE, "AND", "OR", "FTZ", "NAN")
    compare, unordered = next(_FLOAT_COMPARE[m] for m in i.modifiers if m in _FLOAT_COMPARE)
    first, second = set_predicate(i.operands[0]), set_predicate(i.operands[1])
    a, b, other = floats(i.operands[2]), floats(i.operands[3]), predicate(i.operands[4])

    def run(s: State, mask: Mask) -> None:
        x, y = a(s), b(s)
        value = compare(x, y)
        if unordered:
            value = value | np.isnan(x) | np.isnan(y)
        join = np.logical_or if "OR" in found else np.logical_and
        first(s, join(value, other(s)), mask)
        second(s, join(~value, other(s)), mask)

    return run


@operation("MUFU", "FRND")
def _mufu(i: Instruction) -> Run:
    only(i, "RCP", "EX2", "RSQ", "LG2", "SQRT", "FTZ", "FLOOR", "CEIL", "TRUNC", "SIN", "COS", "TANH")
    write, a = target(i.operands[0]), floats(i.operands[1])
    functions = {
        "RCP": lambda x: 1 / x, "EX2": np.exp2, "RSQ": lambda x: 1 / np.sqrt(x), "LG2": np.log2, "SQRT": np.sqrt,
        "FLOOR": np.floor, "CEIL": np.ceil, "TRUNC": np.trunc, "SIN": np.sin, "COS": np.cos, "TANH": np.tanh,
    }  # fmt: skip
    function = next((functions[m] for m in i.modifiers if m in functions), np.rint)
    return lambda s, mask: write(s, function(a(s)).astype(np.float32).view(np.uint32), mask)


@operation("I2F", "I2FP")
def _i2f(i: Instruction) -> Run:
    found = only(i, "RP", "U32", "S32", "F32", "U16", "S16", "U8", "RM", "RZ")
    write, a = target(i.operands[0]), source(i.operands[1].split(".")[0])

    def run(s: State, mask: Mask) -> None:
        exact = (a(s) if "U32" in found else signed(a(s))).astype(np.float64)
        value = exact.astype(np.float32)
        if "RP" in found:
            value = np.where(value < exact, np.nextafter(value, np.float32(np.inf)), value)
        write(s, value.view(np.uint32), mask)

    return run


@operation("F2I")
def _f2i(i: Instruction) -> Run:
    found = only(i, "FTZ", "U32", "S32", "TRUNC", "NTZ", "FLOOR", "CEIL")
    write, a = target(i.operands[0]), floats(i.operands[1])

    def run(s: State, mask: Mask) -> None:
        x = a(s).astype(np.float64)
        x = (
            np.trunc(x)
            if "TRUNC" in found
            else np.floor(x)
            if "FLOOR" in found
            else np.ceil(x)
            if "CEIL" in found
            else np.rint(x)
        )
        limits = (0, 2**32 - 1) if "U32" in found else (-(2**31), 2**31 - 1)
        x = np.clip(np.nan_to_num(x), *limits).astype(np.int64)
        write(s, low(x.view(np.uint64)), mask)

    return run


@operation("F2FP", "F2F", "HADD2", "HMUL2", "HFMA2", "HMNMX2", "FSET", "FCHK")
def _packed(i: Instruction) -> Run:
    """Packed halves: zero, but for the form that ptxas takes to load a constant."""
    if i.opcode == "FCHK":
        raise MachineError(f"{i.text}: a division of floats is not known")
    write = target(i.operands[0])
    word = np.zeros(1, np.uint32)
    if i.opcode == "HFMA2" and i.operands[1].strip("-") == "RZ" and len(i.operands) == 5:
        halves = np.array([float(i.operands[4]), float(i.operands[3])], np.float16)
        word = halves.view(np.uint32).copy()
    return lambda s, mask: write(s, word, mask)
