"""The compiled CUDA core. Only fcntag.engine.cuda_core imports it. Arrays: float32, C-contiguous, in host memory."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

emulated: bool
architectures: str

def unavailable() -> str: ...
def device_count() -> int: ...
def device_info(device: int) -> dict[str, Any]: ...
def free_memory(device: int) -> int: ...
def arithmetic_tflops(precision: str, device: int) -> float: ...
def copy_gigabytes(device: int) -> float: ...
def describe_dlpack(capsule: Any) -> dict[str, Any]: ...
def device_of(address: int) -> int: ...
def wait_for(stream: int, other: int, device: int) -> None: ...

# SegmentShape in csrc/cuda/scorer.h: n_samples, pad_left, n_frames, height, width.
Shape = tuple[int, int, int, int, int]

class Network:
    def __init__(
        self,
        blocks: Sequence[dict[str, Any]],
        head: dict[str, Any],
        *,
        height: int,
        width: int,
        max_batch: int,
        precision: str,
        device: int,
    ) -> None: ...
    @staticmethod
    def planned_bytes(
        blocks: Sequence[dict[str, Any]],
        head: dict[str, Any],
        *,
        height: int,
        width: int,
        max_batch: int,
        precision: str,
        device: int,
    ) -> int: ...
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
    def describe_plan(self, batch: int, height: int, width: int) -> list[dict[str, Any]]: ...
    @property
    def memory_bytes(self) -> int: ...

class MelSpec:
    def __init__(self, config: dict[str, Any], *, double_precision: bool, device: int) -> None: ...
    @staticmethod
    def planned_bytes(
        config: dict[str, Any], *, double_precision: bool, batch: int, n_frames: int, device: int
    ) -> int: ...
    def run(self, waves: NDArray[np.float32], *, pad_left: int, n_frames: int) -> NDArray[np.float32]: ...
    @property
    def memory_bytes(self) -> int: ...

class Resampler:
    def __init__(self, *, up: int, down: int, filter: Sequence[float], device: int) -> None: ...
    def run(self, pcm: NDArray[np.float32], *, n_out: int) -> NDArray[np.float32]: ...

class Mfcc:
    def __init__(self, *, n_mels: int, n_mfcc: int, device: int) -> None: ...
    def run(self, log_mel: NDArray[np.float32]) -> NDArray[np.float32]: ...

class Scorer:
    def __init__(
        self,
        melspec: MelSpec,
        network: Network,
        shape: Shape,
        *,
        resampler: Resampler | None = None,
        n_in: int = 0,
        n_channels: int = 1,
    ) -> None: ...
    def run(self, waves: NDArray[np.float32], shape: Shape) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...
    def enqueue(self, waves: int, wave_stride: int, count: int, scores: int, shape: Shape, stream: int) -> None: ...
    def stage_times(
        self, batch: int, repeats: int, shape: Shape, *, spin_seconds: float = 0.0
    ) -> dict[str, list[float]]: ...
    def replay_times(
        self, batch: int, repeats: int, inputs: int, flush_bytes: int, shape: Shape, *, spin_seconds: float = 0.0
    ) -> list[float]: ...
    def use_graphs(self, use: bool) -> None: ...
    @property
    def memory_bytes(self) -> int: ...
