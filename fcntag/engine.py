"""The engine: one model's front end and network on one device, planned once and run many times."""

from __future__ import annotations

import os
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .core_config import block_dicts, head_dict, map_head_dict, melspec_config
from .errors import DeviceError, ModelError
from .reduce import Reduction, needed_input, reduce_model

if TYPE_CHECKING:
    from .modelfile import Model

PRECISIONS = ("float32", "tf32", "float16", "bfloat16")


class Engine:
    """A model on the CPU. Arrays in and out are float32 and C-contiguous; B may be 0 and may exceed ``max_batch``.

    Scores of a segment are bit-equal for every batch size, position in the batch and number of threads, on one
    machine. Methods may be called from several threads: one call runs at a time. Use as a context manager, or call
    :meth:`close`, to give threads and memory back.

    With ``reduce`` the core runs the model without the work that cannot change a score (``fcntag.reduce``); what goes
    in and comes out is the same. :meth:`blocks` and block features need every channel and pixel: the first call plans
    the whole network beside the reduced one.

    Attributes:
        device: "cpu".
        precision: "float32" or "bfloat16".
        threads: threads used, the caller's included.
        isa: instruction set in use: "avx512", "avx2", "neon" or "generic".
        max_batch: segments that one call to the core takes.
        reduction: what was left out, or None.
    """

    device = "cpu"

    def __init__(
        self,
        model: Model,
        *,
        precision: str = "float32",
        max_batch: int = 64,
        threads: int = 0,
        reduce: bool = True,
        algorithm: Literal["auto", "direct", "winograd"] = "auto",
    ) -> None:
        from . import _C

        self._set_model(model, precision, max_batch, reduce)
        self._algorithm = algorithm
        self.threads = thread_count(threads, _C.available_threads())
        self.isa: str = _C.build_info()["isa"]
        self._lock = threading.Lock()
        self._closed = False
        self._pool: Any = _C.ThreadPool(self.threads)
        try:
            self._melspec: Any = self._make_melspec(*self._seen(*self.document.input_size()))
            self._network: Any = self._make_network(self._running, *self._seen(*self.document.input_size()))
        except MemoryError:
            raise ModelError(f"{self.document.name}: not enough memory for its weights and buffers") from None
        self._whole_melspec: Any = None
        self._whole_network: Any = None

    def _set_model(self, model: Model, precision: str, max_batch: int, reduce: bool) -> None:
        if max_batch < 1:
            raise ValueError(f"max_batch={max_batch}; must be at least 1")
        self._model = self._running = model
        self.document = model.document
        self.precision = precision
        self.max_batch = max_batch
        self.reduction: Reduction | None = None
        if reduce:
            self._running, self.reduction = reduce_model(model)

    @property
    def memory_bytes(self) -> int:
        """Bytes of weights and buffers held by the core."""
        self._check_open()
        parts = (self._melspec, self._network, self._whole_melspec, self._whole_network)
        return sum(int(part.memory_bytes) for part in parts if part is not None)

    @property
    def algorithms(self) -> list[str]:
        """How each block is computed, "direct" or "winograd". The cost model decides, from the model's shapes alone;
        ``Engine(algorithm=...)`` forces one wherever it can be, for tests and measurements."""
        self._check_open()
        return list(self._network.algorithms)

    def log_mel(self, waves: np.ndarray) -> np.ndarray:
        """The network's input [B, H, W] (normalised) of segments [B, n_samples] at the model's rate."""
        waves = self._waves(waves)
        with self._lock:
            self._check_open()
            if self._whole_melspec is None:
                self._whole_melspec = self._make_melspec(*self.document.input_size())
            return self._run_melspec(self._whole_melspec, waves, self.document.frontend.n_frames(waves.shape[1]))

    def scores(self, waves: np.ndarray) -> np.ndarray:
        """Sigmoid scores [B, n_tags] of segments [B, n_samples] at the model's rate."""
        waves = self._waves(waves)
        return np.concatenate([self._call(self._input(part))["scores"] for part in self._batches(waves)])

    def features(self, waves: np.ndarray, which: Literal["head", "blocks"] = "head") -> np.ndarray:
        """Features [B, F] of segments [B, n_samples].

        "head": what enters the dense layer, in the document's flatten order. "blocks": the mean over (H, W) of every
        block's pooled output, in block order; for choi2017-compact these are the 160 features of its paper.
        """
        if which not in ("head", "blocks"):
            raise ValueError(f"which={which!r}; allowed: 'head', 'blocks'")
        waves = self._waves(waves)
        if which == "blocks":
            parts = [self._call_whole(self.log_mel(part), block_means=True) for part in self._batches(waves)]
            return np.concatenate([part["block_means"] for part in parts])
        found = [self._call(self._input(part), features=True)["features"] for part in self._batches(waves)]
        features = np.concatenate(found)
        return features if self.reduction is None else self.reduction.restore_features(features)

    def run(self, x: np.ndarray) -> np.ndarray:
        """Sigmoid scores [B, n_tags] of network inputs [B, H, W]."""
        return self._run(x, "scores")

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Logits [B, n_tags] of network inputs [B, H, W]."""
        return self._run(x, "logits")

    def blocks(self, x: np.ndarray) -> list[np.ndarray]:
        """Pooled output [B, C, H, W] of every block, for network inputs [B, H, W]."""
        x = _array(x, 3, "x", "[B, H, W]")
        parts = [self._call_whole(part, blocks=True)["blocks"] for part in self._batches(x)]
        return [np.concatenate(maps) for maps in zip(*parts, strict=True)]

    def block_times(self, x: np.ndarray) -> list[float]:
        """Seconds of every block, then of input copies and head, for one run of network inputs [B, H, W]."""
        x = _array(x, 3, "x", "[B, H, W]")
        parts = [self._call(self._crop(part), times=True)["seconds"] for part in self._batches(x)]
        return [float(s) for s in np.sum(parts, axis=0)]

    def dense(self, wave: np.ndarray) -> np.ndarray:
        """Scores [n_positions, n_tags] of one track [n_samples]: its blocks run once, the head slides; on a CPU.

        See ``fcntag.dense`` for what is computed, and what a network must be for it.
        """
        from .dense import dense_scores

        return dense_scores(self, wave)

    # ---- what fcntag.dense needs ----

    @property
    def original(self) -> Model:
        """The model as it was given."""
        return self._model

    @property
    def running(self) -> Model:
        """The model as the core runs it: without the channels that cannot change a score."""
        return self._running

    def whole_input(self, waves: np.ndarray) -> np.ndarray:
        """The network's input [B, H, W] of waves [B, n_samples] of any length that the front end takes."""
        with self._lock:
            self._check_open()
            melspec = self._make_melspec(*self.document.input_size())  # its buffers go with it: a track may be long
            return self._run_melspec(melspec, waves, self.document.frontend.n_frames(waves.shape[1]))

    def map_network(self, model: Model, height: int, width: int) -> Any:
        """A network of ``model``'s blocks for inputs of one size, whose features are the last map, [C, h, w]."""
        with self._lock:
            self._check_open()
            return self._make_network(model, height, width, map_head_dict(model, height, width))

    def run_network(self, network: Any, x: np.ndarray, **wanted: bool) -> dict[str, Any]:
        """What is ``wanted`` of a network of this engine's pool, for x [B, H, W]; one call runs at a time."""
        with self._lock:
            self._check_open()
            found: dict[str, Any] = network.run(x, **wanted)
            return found

    def close(self) -> None:
        """Give threads and memory back; the engine cannot be used afterwards. May be called twice."""
        with self._lock:
            self._closed = True
            self._network = self._melspec = self._whole_network = self._whole_melspec = self._pool = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- internal ----

    def _seen(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) of the part of an input of that size that the running network reads."""
        return needed_input(self.document, height, width) if self.reduction is not None else (height, width)

    def _make_melspec(self, height: int, width: int) -> Any:
        from . import _C

        return _C.MelSpec(melspec_config(self._model, height, width), pool=self._pool)

    def _make_network(self, model: Model, height: int, width: int, head: dict[str, Any] | None = None) -> Any:
        from . import _C

        return _C.Network(
            block_dicts(model),
            head or head_dict(model),
            height=height,
            width=width,
            precision=self.precision,
            algorithm=self._algorithm,
            pool=self._pool,
        )

    def _waves(self, waves: np.ndarray) -> np.ndarray:
        waves = _array(waves, 2, "waves", "[B, n_samples]")
        self._check_length(waves.shape[1])
        return waves

    def _check_length(self, n_samples: int) -> None:
        if self.document.features(n_samples) != self.document.head.in_features:
            raise ValueError(
                f"{self.document.name}: segments of {n_samples} samples; it takes {self.document.segments.n_samples}"
            )

    def _input(self, waves: np.ndarray) -> np.ndarray:
        """What the running network reads of the log-mel: computed alone, unless the rest decides its values."""
        if not self.document.frontend.frames_stand_alone:
            return self._crop(self.log_mel(waves))
        time_axis = 1 if self.document.frontend.layout == "mel_time" else 0
        seen = self._seen(*self.document.input_size(waves.shape[1]))
        with self._lock:
            self._check_open()
            return self._run_melspec(self._melspec, waves, seen[time_axis])

    def _run_melspec(self, melspec: Any, waves: np.ndarray, n_frames: int) -> np.ndarray:
        return melspec.run(waves, pad_left=self.document.frontend.pad_left(waves.shape[1]), n_frames=n_frames)

    def _crop(self, x: np.ndarray) -> np.ndarray:
        height, width = self._seen(*x.shape[1:])
        return np.ascontiguousarray(x[:, :height, :width])

    def _batches(self, array: np.ndarray) -> list[np.ndarray]:
        return [array[i : i + self.max_batch] for i in range(0, max(len(array), 1), self.max_batch)]

    def _run(self, x: np.ndarray, output: str) -> np.ndarray:
        x = _array(x, 3, "x", "[B, H, W]")
        return np.concatenate([self._call(self._crop(part))[output] for part in self._batches(x)])

    def _call(self, x: np.ndarray, **wanted: bool) -> dict[str, Any]:
        return self.run_network(self._network, x, **wanted)

    def _call_whole(self, x: np.ndarray, **wanted: bool) -> dict[str, Any]:
        with self._lock:
            self._check_open()
            if self._whole_network is None:
                self._whole_network = self._make_network(self._model, *self.document.input_size())
            return self._whole_network.run(x, **wanted)

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("this engine is closed")


def create_engine(
    model: Model,
    *,
    device: str = "auto",
    precision: str = "float32",
    max_batch: int = 64,
    threads: int = 0,
    reduce: bool = True,
) -> Engine:
    """An engine for ``model``.

    Args:
        device: "auto", "cpu" or "cuda[:N]". "auto" is the CPU until the kernels have been checked on real GPUs.
        precision: "float32", "bfloat16" (on the CPU, Winograd blocks multiply bfloat16 and sum in float32; the first
            block, small last maps and the head stay float32), and on a GPU also "tf32" and "float16".
        max_batch: most segments computed in one call of the core, at least 1.
        threads: CPU threads; 0 means FCNTAG_NUM_THREADS, or else the CPUs of the affinity mask and cgroup quota.
        reduce: leave out the work that cannot change a score; see ``fcntag.reduce``.

    Raises:
        DeviceError: the device or precision is not available; ValueError: an argument is out of range.
    """
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (index and (kind != "cuda" or not index.isdigit())):
        raise ValueError(f"device={device!r}; allowed: auto, cpu, cuda, cuda:N")
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r}; allowed: {', '.join(PRECISIONS)}")
    if kind == "cuda":
        from .cuda_engine import CudaEngine

        thread_count(threads, 1)  # a wrong number is wrong on any device
        return CudaEngine(model, index=int(index or 0), precision=precision, max_batch=max_batch, reduce=reduce)
    if precision not in ("float32", "bfloat16"):
        raise DeviceError(f"precision={precision!r} is not built for the CPU; built: float32, bfloat16")
    if precision == "bfloat16":
        from . import _C

        info = _C.build_info()
        if not info["bfloat16"]:
            raise DeviceError(f"precision='bfloat16' needs a CPU with AVX512_BF16; instruction set here: {info['isa']}")
    return Engine(model, precision=precision, max_batch=max_batch, threads=threads, reduce=reduce)


def thread_count(threads: int, available: int) -> int:
    if threads == 0:
        text = os.environ.get("FCNTAG_NUM_THREADS", "")
        if text:
            if not text.isdigit() or int(text) < 1:
                raise ValueError(f"FCNTAG_NUM_THREADS={text!r}; must be a whole number, at least 1")
            return min(int(text), 1024)
        return available
    if not 1 <= threads <= 1024:
        raise ValueError(f"threads={threads}; allowed: 0 (all available) to 1024")
    return threads


def _array(array: np.ndarray, ndim: int, name: str, shape: str) -> np.ndarray:
    array = np.asarray(array)
    if array.ndim != ndim:
        raise ValueError(f"{name} has shape {array.shape}; it must be {shape}")
    return np.ascontiguousarray(array, dtype=np.float32)
