"""Compiles the operands of an instruction into functions that read or write them for all lanes."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

import numpy as np
from machine_code.machine import PT, RZ, URZ, MachineError, Mask, State, Words
from numpy.typing import NDArray

Read = Callable[[State], Words]
Test = Callable[[State], Mask]

_REGISTER = re.compile(r"([-~|!]*)(U?)R(Z|\d+)(\.64|\.U32|\.S32|\.F32|\.H[01]_H[01])?\|?$")
_CONSTANT = re.compile(r"([-~|]*)c\[0x0\]\[(?:(U?R\w+)\+?)?(0x[0-9a-f]+)?\]\|?$")
_PREDICATE = re.compile(r"(!?)(U?)P(T|\d)$")
_PART = re.compile(r"([-~]?)(U?)R(Z|\d+)(\.64|\.U32|\.X4|\.X8|\.X16|\.S32)*$")
_FLOAT = {"+INF": 0x7F800000, "-INF": 0xFF800000, "+QNAN": 0x7FC00000, "-QNAN": 0xFFC00000, "INF": 0x7F800000}


def number(text: str, prefix: str = "") -> int:
    """The number of a register such as ``R12``; RZ and URZ have the last ones."""
    found = re.match(rf"{prefix}R(Z|\d+)", text)
    if not found:
        raise MachineError(f"{text} is no register {prefix}R")
    if found.group(1) == "Z":
        return URZ if prefix == "U" else RZ
    return int(found.group(1))


def _signed(sign: str, read: Read) -> Read:
    if "~" in sign:
        return lambda s: ~read(s)
    if "-" in sign:
        return lambda s: (~read(s)) + np.uint32(1)
    return read


def is_immediate(text: str) -> bool:
    return re.match(r"-?0x[0-9a-f]+$", text) is not None


def source(text: str, *, offset: int = 0) -> Read:
    """Reads a 32-bit operand as unsigned words. ``offset`` is 1 for the upper word of a pair."""
    if is_immediate(text):
        value = int(text, 16) & 0xFFFFFFFFFFFFFFFF
        if offset:
            value = 0xFFFFFFFF if text.startswith("-") and value else 0
        word = np.array([value & 0xFFFFFFFF], np.uint32)
        return lambda s: word
    if found := _REGISTER.match(text):
        sign, uniform, name = found.group(1), found.group(2), found.group(3)
        if name == "Z":
            zero = np.zeros(1, np.uint32)
            return _signed(sign, lambda s: zero)
        n = int(name) + offset
        if uniform:
            return _signed(sign, lambda s: s.uniform[n])
        return _signed(sign, lambda s: s.registers[n])
    if found := _CONSTANT.match(text):
        sign, register, base = found.group(1), found.group(2), int(found.group(3) or "0", 16) + 4 * offset
        if register is None or register in ("RZ", "URZ"):
            at = base // 4
            return _signed(sign, lambda s: s.constants[at : at + 1])
        index = source(register)
        return _signed(sign, lambda s: s.constants[(index(s).astype(np.int64) + base) // 4])
    if text.startswith("SR"):
        return lambda s: s.special[text]
    raise MachineError(f"operand {text} is not known")


def pair(text: str) -> Callable[[State], NDArray[np.uint64]]:
    """Reads a 64-bit operand: two registers, two words of constants, or an immediate that is sign-extended."""
    low, high = source(text), source(text, offset=1)
    return lambda s: low(s).astype(np.uint64) | high(s).astype(np.uint64) << np.uint64(32)


def floats(text: str) -> Callable[[State], NDArray[np.float32]]:
    """Reads an operand as float32, with its minus and bars."""
    bare = text.strip("-|~")
    negative, absolute = text.startswith("-"), "|" in text
    word: Read
    if bare in _FLOAT or text in _FLOAT:
        value = _FLOAT[text if text in _FLOAT else bare]
        constant = np.array([value & 0xFFFFFFFF], np.uint32)
        return lambda s: constant.view(np.float32)
    if re.match(r"-?[\d.]+(e[-+]?\d+)?$", text):
        literal = np.array([struct.unpack("<I", struct.pack("<f", float(text)))[0]], np.uint32)
        return lambda s: literal.view(np.float32)
    word = source(bare)

    def read(s: State) -> NDArray[np.float32]:
        value = np.ascontiguousarray(word(s)).view(np.float32)
        if absolute:
            value = np.abs(value)
        return -value if negative else value

    return read


def predicate(text: str) -> Test:
    found = _PREDICATE.match(text)
    if not found:
        raise MachineError(f"{text} is no predicate")
    n = PT if found.group(3) == "T" else int(found.group(3))
    uniform = bool(found.group(2))
    if found.group(1):
        return lambda s: ~(s.uniform_predicates[n] if uniform else s.predicates[n])
    return lambda s: s.uniform_predicates[n] if uniform else s.predicates[n]


def is_predicate(text: str) -> bool:
    return _PREDICATE.match(text) is not None


def set_predicate(text: str) -> Callable[[State, Mask, Mask], None]:
    """Writes a predicate where a mask is set; PT takes no value."""
    found = _PREDICATE.match(text)
    if not found:
        raise MachineError(f"{text} is no predicate")
    if found.group(3) == "T":
        return lambda s, value, mask: None
    n = int(found.group(3))
    if found.group(2):
        return lambda s, value, mask: np.copyto(s.uniform_predicates[n], value, where=s.whole_warps(mask))
    return lambda s, value, mask: np.copyto(s.predicates[n], value, where=mask)


def target(text: str) -> Callable[[State, Words, Mask], None]:
    """Writes a register, uniform or not."""
    if text.startswith("U"):
        u = number(text, "U")
        return lambda s, value, mask: s.write_uniform(u, value, mask)
    r = number(text)
    return lambda s, value, mask: s.write(r, value, mask)


def targets(text: str, count: int) -> list[Callable[[State, Words, Mask], None]]:
    """Writes ``count`` registers that follow one another."""
    if text in ("RZ", "URZ"):
        return [target(text)] * count
    prefix = "U" if text.startswith("U") else ""
    n = number(text, prefix)
    return [target(f"{prefix}R{n + k}") for k in range(count)]


def address(text: str) -> Callable[[State], NDArray[np.uint64]]:
    """The byte address of ``[R2.64+UR4+0x10]`` or ``desc[UR8][R2.64+0x10]``, 64 bits wide."""
    inner = text[text.rindex("[") + 1 : text.rindex("]")]
    constant, reads = 0, []
    for part in re.findall(r"[^+]+", inner.replace("+-", "+~")):
        part = part.replace("~", "-") if re.match(r"~0x", part) else part
        if is_immediate(part):
            constant += int(part, 16)
            continue
        found = _PART.match(part)
        if not found or found.group(1):
            raise MachineError(f"address {text} is not known")
        name = f"{found.group(2)}R{found.group(3)}"
        scale = {".X4": 2, ".X8": 3, ".X16": 4}
        shift = next((scale[m] for m in re.findall(r"\.\w+", part) if m in scale), 0)
        wide = ".64" in part
        read = pair(name) if wide else source(name)
        reads.append((read, shift))
    added = np.uint64(constant & 0xFFFFFFFFFFFFFFFF)

    def compute(s: State) -> NDArray[np.uint64]:
        total = np.full(s.lanes, added, np.uint64)
        for read, shift in reads:
            total = total + (read(s).astype(np.uint64) << np.uint64(shift))
        return total

    return compute
