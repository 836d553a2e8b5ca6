"""The compiled core. Arrays are float32 and C-contiguous; shapes are in the docstrings of fcntag.engine.base."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

def build_info() -> dict[str, Any]: ...
def available_threads() -> int: ...
def set_flush_denormals(flush: bool) -> bool: ...
def fma_peak(threads: int) -> float: ...
def copy_bandwidth(threads: int) -> float: ...

class ThreadPool:
    def __init__(self, threads: int) -> None: ...
    @property
    def threads(self) -> int: ...

class Network:
    def __init__(
        self,
        blocks: Sequence[dict[str, Any]],
        head: dict[str, Any],
        *,
        height: int,
        width: int,
        precision: str,
        algorithm: str,
        pool: ThreadPool,
    ) -> None: ...
    def run(
        self,
        x: NDArray[np.float32],
        *,
        features: bool = False,
        block_means: bool = False,
        blocks: bool = False,
        hidden: bool = False,
        times: bool = False,
    ) -> dict[str, Any]: ...
    def describe_plan(self, height: int, width: int) -> list[dict[str, Any]]: ...
    @property
    def memory_bytes(self) -> int: ...
    @property
    def algorithms(self) -> list[str]: ...
    @property
    def isa(self) -> str: ...

class MelSpec:
    def __init__(self, config: dict[str, Any], *, pool: ThreadPool) -> None: ...
    def run(self, waves: NDArray[np.float32], *, pad_left: int, n_frames: int) -> NDArray[np.float32]: ...
    @property
    def memory_bytes(self) -> int: ...
