"""The state of a CTA that an interpreted kernel works on: registers, predicates, shared and global memory.

All threads of the CTA are lanes of one NumPy array, so that one instruction is one array operation for all warps that
execute it together. Uniform registers and predicates, of which a warp has one copy, are kept once a lane as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]
Mask = NDArray[np.bool_]

WARP = 32
RZ, URZ, PT = 255, 63, 7
# Dynamic shared memory begins behind what the system of compute capability 9.0 reserves.
RESERVED_SHARED = 1024
LOCAL_BYTES = 4096


class MachineError(Exception):
    """The machine code does what the interpreter does not know or what no kernel may do; the message says where."""


@dataclass(frozen=True)
class Region:
    """A part of global memory. Without ``content`` it holds zeros, and what is stored there is not kept.

    ``content`` that may not be written is constant for the kernel, too.
    """

    name: str
    address: int
    size: int
    content: NDArray[np.uint8] | None = None
    cold: bool = False  # not likely to be in the level-2 cache when a kernel first reads it


@dataclass
class Launch:
    """A launch of a kernel, as the planner of the engine makes it."""

    name: str
    kernel: str
    grid: tuple[int, int, int]
    threads: int
    shared_bytes: int
    params: bytes
    regions: list[Region] = field(default_factory=list)


class State:
    """Registers and memories of one CTA of ``launch``.

    Parameters
    ----------
    launch
        Its grid, parameters and memory.
    block
        (x, y, z) of the CTA.
    param_base
        Where the parameters lie in constant bank 0.
    """

    def __init__(self, launch: Launch, block: tuple[int, int, int], param_base: int) -> None:
        lanes = launch.threads
        if lanes % WARP:
            raise MachineError(f"threads={lanes} is no multiple of {WARP}")
        self.launch, self.block, self.lanes, self.warps = launch, block, lanes, lanes // WARP
        self.registers = np.zeros((256, lanes), np.uint32)
        self.uniform = np.zeros((64, lanes), np.uint32)
        self.predicates = np.zeros((8, lanes), bool)
        self.uniform_predicates = np.zeros((8, lanes), bool)
        self.predicates[PT] = self.uniform_predicates[PT] = True
        self.shared = np.zeros((RESERVED_SHARED + launch.shared_bytes + 3) // 4, np.uint32)
        self.constants = np.zeros((param_base + len(launch.params) + 11) // 4, np.uint32)
        self.constants[0:3] = launch.threads, 1, 1
        self.constants[3:6] = launch.grid
        self.constants[param_base // 4 :][: len(launch.params) // 4] = np.frombuffer(launch.params, "<u4")
        # A frame of local memory a thread, for code that spills registers; constant 0x28 is where it ends.
        self.local = np.zeros((LOCAL_BYTES // 4, lanes), np.uint32)
        self.constants[0x28 // 4] = LOCAL_BYTES
        self.barrier_result = 0
        self.special = {
            "SR_TID.X": np.arange(lanes, dtype=np.uint32),
            "SR_LANEID": np.arange(lanes, dtype=np.uint32) % WARP,
            "SR_CTAID.X": np.full(lanes, block[0], np.uint32),
            "SR_CTAID.Y": np.full(lanes, block[1], np.uint32),
            "SR_CTAID.Z": np.full(lanes, block[2], np.uint32),
        }
        for name in ("SRZ", "SR_TID.Y", "SR_TID.Z", "SR_CgaCtaId", "SR_CLOCKLO", "SR_SWINHI"):
            self.special[name] = np.zeros(lanes, np.uint32)
        for name, relation in (
            ("SR_LTMASK", lambda lane: (1 << lane) - 1),
            ("SR_LEMASK", lambda lane: (2 << lane) - 1),
        ):
            self.special[name] = np.array([relation(n % WARP) & 0xFFFFFFFF for n in range(lanes)], np.uint32)
        self._starts = np.array(sorted(r.address for r in launch.regions), np.uint64)
        self._regions = sorted(launch.regions, key=lambda r: r.address)
        # One instruction's traffic in bytes, by warp; the interpreter puts it into the trace.
        self.traffic: NDArray[np.int64] | None = None
        self.cold = False
        self.key = 0  # the barrier in shared memory that it is about

    # ---- registers ----

    def write(self, number: int, value: Words, mask: Mask) -> None:
        if number != RZ:
            np.copyto(self.registers[number], value, where=mask)

    def write_uniform(self, number: int, value: Words, mask: Mask) -> None:
        if number != URZ:
            np.copyto(self.uniform[number], value, where=self.whole_warps(mask))

    def whole_warps(self, mask: Mask) -> Mask:
        """``mask``, extended to all lanes of every warp that has one in it."""
        return np.repeat(mask.reshape(-1, WARP).any(axis=1), WARP)

    # ---- shared memory ----

    def check_shared(self, address: NDArray[np.int64], size: int, mask: Mask, what: str) -> NDArray[np.int64]:
        """The index of each lane's first word; raises MachineError for one that is outside or not aligned."""
        used = address[mask]
        if used.size and (used.min() < RESERVED_SHARED or used.max() + size > 4 * self.shared.size):
            bad = used[(used < RESERVED_SHARED) | (used + size > 4 * self.shared.size)][0]
            raise MachineError(f"{what}: shared address {bad:#x} is outside of {4 * self.shared.size:#x} bytes")
        if used.size and (used % min(size, 16)).any():
            raise MachineError(f"{what}: a shared address is no multiple of {size}")
        return np.where(mask, address, RESERVED_SHARED) >> 2

    def load_shared(self, address: NDArray[np.int64], size: int, mask: Mask, what: str) -> list[Words]:
        """Words of ``size`` bytes a lane; one or two bytes come back as a word."""
        words = self.check_shared(address, size, mask, what)
        if size >= 4:
            return [self.shared[words + n] if n == 0 else self._beyond(words + n) for n in range(size // 4)]
        shift = ((address & 3) * 8).astype(np.uint32)
        return [(self.shared[words] >> shift) & np.uint32((1 << 8 * size) - 1)]

    def _beyond(self, words: NDArray[np.int64]) -> Words:
        return self.shared[np.minimum(words, self.shared.size - 1)]

    def store_shared(self, address: NDArray[np.int64], values: list[Words], size: int, mask: Mask, what: str) -> None:
        words = self.check_shared(address, size, mask, what)
        if size >= 4:
            for n, value in enumerate(values):
                self.shared[words[mask] + n] = np.broadcast_to(value, mask.shape)[mask]
            return
        low = (1 << 8 * size) - 1
        for lane in np.flatnonzero(mask):  # neighbours share words, so one after the other
            shift = int(address[lane] & 3) * 8
            kept = int(self.shared[words[lane]]) & ~(low << shift)
            self.shared[words[lane]] = kept | (int(np.broadcast_to(values[0], mask.shape)[lane]) & low) << shift

    # ---- global memory ----

    def _region(self, address: NDArray[np.uint64], size: int, mask: Mask, what: str) -> NDArray[np.intp]:
        """The region of every lane of ``mask``; raises MachineError where there is none."""
        number = np.searchsorted(self._starts, address, side="right") - 1
        for n in np.unique(number[mask]):
            here = address[mask & (number == n)]
            region = self._regions[n] if n >= 0 else None
            if region is None or int(here.max()) + size > region.address + region.size:
                near = f"beyond the {region.size} bytes of {region.name}" if region else "below all memory"
                raise MachineError(f"{what}: address {int(here.max()):#x} is {near}")
            self.cold |= region.cold
        return number

    def load_global(self, address: NDArray[np.uint64], size: int, mask: Mask, what: str) -> list[Words]:
        words = [np.zeros(self.lanes, np.uint32) for _ in range(max(1, size // 4))]
        if not mask.any():
            return words
        number = self._region(address, size, mask, what)
        for n in np.unique(number[mask]):
            content = self._regions[n].content
            if content is None:
                continue
            here = mask & (number == n)
            offset = (address[here] - np.uint64(self._regions[n].address)).astype(np.int64)
            if (offset % size).any():
                raise MachineError(f"{what}: an address in {self._regions[n].name} is no multiple of {size}")
            for k, word in enumerate(words):
                value = np.zeros(offset.size, np.uint32)
                for byte in range(min(size, 4)):
                    value |= content[offset + 4 * k + byte].astype(np.uint32) << np.uint32(8 * byte)
                word[here] = value
        return words

    def store_global(self, address: NDArray[np.uint64], values: list[Words], size: int, mask: Mask, what: str) -> None:
        """Stores to regions with content are kept; one that may not be written is an error."""
        if not mask.any():
            return
        number = self._region(address, size, mask, what)
        for n in np.unique(number[mask]):
            region = self._regions[n]
            if region.content is None:
                continue
            if not region.content.flags.writeable:
                raise MachineError(f"{what}: {region.name} may not be written")
            here = mask & (number == n)
            offset = (address[here] - np.uint64(region.address)).astype(np.int64)
            for k in range(size):
                word = np.broadcast_to(values[k // 4], mask.shape)[here]
                region.content[offset + k] = (word >> np.uint32(k % 4 * 8)).astype(np.uint8)

    def count_traffic(self, address: NDArray[np.uint64], size: int, mask: Mask) -> None:
        """Notes how many bytes the warps move: whole sectors of 32 bytes, each counted once."""
        first = (address >> np.uint64(5)).astype(np.int64).reshape(-1, WARP)
        active = mask.reshape(-1, WARP)
        bytes_ = np.zeros(self.warps, np.int64)
        for warp in np.flatnonzero(active.any(axis=1)):
            bytes_[warp] = max(32 * np.unique(first[warp][active[warp]]).size, 0)
        if size > 32:
            bytes_ *= size // 32
        self.traffic = bytes_
