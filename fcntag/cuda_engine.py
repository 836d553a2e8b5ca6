"""The engine on an NVIDIA GPU: fcntag's own kernels from the waveform to the scores."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from . import cuda
from .core_config import block_dicts, head_dict, melspec_config
from .engine import Engine
from .errors import DeviceError
from .reduce import reduce_model
from .reduce.crop import needed_input

if TYPE_CHECKING:
    from .model.file import Model

_RESAMPLERS = 4  # kinds of PCM whose buffers are kept: (rate, length, channels)


class CudaEngine(Engine):
    """A model on a GPU. Methods, shapes and errors as of :class:`fcntag.engine.Engine`; and device arrays for scores.

    Everything is planned and allocated at construction; a batch size is slower when it comes first (its kernels are
    recorded as one graph; sizes share the next power of two). float32 multiplies in float32; the first block and the
    head do so in every precision.

    Attributes:
        device: "cuda:N", or "emulated:N" where the CPU emulator stands in for the GPU (in the tests).
        precision: "float32", "tf32", "float16" or "bfloat16".
        isa: the GPU's compute capability, e.g. "sm_90".
        device_info: name, capability, memory and versions of the GPU.
    """

    threads = 0  # none of the CPU's, but the caller's

    def __init__(
        self,
        model: Model,
        *,
        index: int = 0,
        precision: str = "float32",
        max_batch: int = 64,
        reduce: bool = True,
        algorithm: Literal["auto", "fma", "tf32x3"] = "auto",
    ) -> None:
        """``algorithm`` for float32: "fma" (auto's choice), or "tf32x3": three products of tf32 parts on the tensor
        cores, for measurements."""
        module = cuda.core()
        reason = module.unavailable()
        if reason:
            raise DeviceError(f"device='cuda': {reason}; use device='cpu'")
        count = module.device_count()
        if index >= count:
            raise DeviceError(f"device='cuda:{index}': this machine has {count} GPU(s), numbered from 0")
        if algorithm != "auto" and precision != "float32":
            raise ValueError(f"algorithm={algorithm!r} goes with precision='float32', not {precision!r}")
        self._module, self._index, self._process = module, index, cuda.os.getpid()
        self.device_info: dict[str, Any] = module.device_info(index)
        self.device = f"{'emulated' if module.emulated else 'cuda'}:{index}"
        self.isa = "sm_{}{}".format(*self.device_info["capability"])
        self._kernels = "tf32x3" if algorithm == "tf32x3" else precision
        self._set_model(model, precision, max_batch, reduce)
        self._lock = threading.Lock()
        self._closed = False
        self._resampling: OrderedDict[tuple[int, int, int], Any] = OrderedDict()
        self._whole_melspec = self._whole_network = None
        height, width = self._seen(*self.document.input_size())
        self._melspec = self._make_melspec(height, width)
        self._network = self._make_network(self._running, height, width)
        self._scorer = module.Scorer(self._melspec, self._network, self._shape(self.document.segments.n_samples))

    # ---- what differs from the CPU ----

    @property
    def memory_bytes(self) -> int:
        """Bytes of device memory held: weights, maps, buffers."""
        with self._lock:
            scorers = [self._scorer, *(scorer for scorer, _ in self._resampling.values())]
            return super().memory_bytes + sum(int(scorer.memory_bytes) for scorer in scorers)

    @property
    def algorithms(self) -> list[str]:
        """How each block is computed: "direct", then "implicit gemm"."""
        self._check_open()
        return ["direct"] + ["implicit gemm"] * (len(self.document.blocks) - 1)

    def scores(self, waves: Any, *, out: Any = None, stream: Any = None, sample_rate: int | None = None) -> Any:
        """Sigmoid scores [B, n_tags] of segments.

        Args:
            waves: float32 [B, n_samples] at the model's rate, or, with ``sample_rate``, PCM [B, n_in] or
                [B, n_in, n_channels] at that rate, which is mixed and resampled on the GPU. A NumPy array, or an array
                on the GPU (CuPy, PyTorch, anything with ``__cuda_array_interface__`` or DLPack), of at most max_batch
                rows.
            out: array on the GPU, float32 [B, n_tags], for the scores of waves on the GPU. None: a new CuPy array.
            stream: CuPy or PyTorch stream, or its address; None: the array's own, or the default stream. Nothing is
                waited for on the host: the scores are ready when the stream is.
            sample_rate: rate of PCM in Hz; None: the model's, mono.

        Returns:
            A NumPy array for NumPy waves, else ``out``.
        """
        if not cuda.is_device_array(waves):
            if out is not None or stream is not None:
                raise ValueError("out and stream go with arrays on the GPU; these waves are in host memory")
            return self._host_scores(waves, sample_rate)
        with self._lock:
            self._check_open()
            return self._device_scores(waves, out, stream, sample_rate)

    def stage_times(self, batch: int, repeats: int) -> dict[str, list[float]]:
        """Seconds of "h2d", "mel", "block 1" ... "head", ``repeats`` of each, enqueued one by one; on random waves."""
        with self._lock:
            self._check_open()
            times = self._scorer.stage_times(batch, repeats, self._shape(self.document.segments.n_samples))
            return {name: [float(s) for s in seconds] for name, seconds in times.items()}

    def replay_times(self, batch: int, repeats: int, *, inputs: int = 8, flush_bytes: int = 0) -> list[float]:
        """Seconds of ``repeats`` whole runs, waveforms to scores, on ``inputs`` resident random batches in turn.

        ``flush_bytes`` of memory are cleared before each run, outside the measured time: more than the level-2 cache
        holds make it cold.
        """
        with self._lock:
            self._check_open()
            shape = self._shape(self.document.segments.n_samples)
            return [float(s) for s in self._scorer.replay_times(batch, repeats, inputs, flush_bytes, shape)]

    def end_to_end_times(self, batch: int, repeats: int) -> list[float]:
        """Seconds by the wall clock of ``scores`` on host arrays, copies and waiting included."""
        rng = np.random.default_rng(0)
        size = (batch, self.document.segments.n_samples)
        inputs = [rng.uniform(-0.5, 0.5, size).astype(np.float32) for _ in range(4)]
        times = []
        for i in range(repeats + 2):
            start = time.perf_counter()
            self.scores(inputs[i % len(inputs)])
            times.append(time.perf_counter() - start)
        return times[2:]

    def describe_plan(self, batch: int) -> list[dict[str, Any]]:
        """What the tile planner chose for every block after the first."""
        with self._lock:
            self._check_open()
            found: list[dict[str, Any]] = self._network.describe_plan(batch, *self._seen(*self.document.input_size()))
            return found

    def use_graphs(self, use: bool) -> None:
        """Whether runs replay recorded graphs (the default) or put their kernels on the stream one by one."""
        with self._lock:
            self._check_open()
            self._scorer.use_graphs(use)

    def close(self) -> None:
        """Give the device memory back; the engine cannot be used afterwards. May be called twice."""
        with self._lock:
            self._closed = True
            self._scorer = self._network = self._melspec = self._whole_network = self._whole_melspec = None
            self._resampling.clear()

    # ---- inside ----

    def _check_open(self) -> None:
        cuda.check_process(self._process)
        super()._check_open()

    def _make_melspec(self, height: int, width: int) -> Any:
        # A float FFT's rounding shows in near-silent bands; half precisions round far more than that.
        exact = self.precision == "float32"
        return self._module.MelSpec(
            melspec_config(self._model, height, width), double_precision=exact, device=self._index
        )

    def _make_network(self, model: Model, height: int, width: int) -> Any:
        return self._module.Network(
            block_dicts(model),
            head_dict(model),
            height=height,
            width=width,
            max_batch=self.max_batch,
            precision=self._kernels,
            device=self._index,
        )

    def _shape(self, n_samples: int) -> tuple[int, int, int, int, int]:
        """(n_samples, pad_left, frames that the front end computes, and (H, W) that the network reads of them)."""
        frontend = self.document.frontend
        height, width = self._seen(*self.document.input_size(n_samples))
        n_frames = frontend.n_frames(n_samples)
        if frontend.frames_stand_alone:
            _, n_frames = frontend.rows_and_frames(height, width)
        return n_samples, frontend.pad_left(n_samples), n_frames, height, width

    def _host_scores(self, waves: Any, sample_rate: int | None) -> np.ndarray:
        if sample_rate is None or sample_rate == self.document.frontend.sample_rate:
            waves = self._waves(waves)
            with self._lock:
                self._check_open()
                scores, _ = self._scorer.run(self._network, waves, self._shape(waves.shape[1]))
                return scores
        pcm = np.ascontiguousarray(waves, dtype=np.float32)
        if pcm.ndim not in (2, 3):
            raise ValueError(f"waves: {pcm.ndim} dimensions; PCM is [B, n_in] or [B, n_in, n_channels]")
        with self._lock:
            self._check_open()
            scorer = self._pcm_scorer(sample_rate, pcm.shape)
            scores, _ = scorer.run(self._network, pcm, self._shape(self.document.segments.n_samples))
            return scores

    def _device_scores(self, waves: Any, out: Any, stream: Any, sample_rate: int | None) -> Any:
        address = None if stream is None else cuda.stream_address(stream)
        source = cuda.device_array(waves, "waves", address or 0, self._index)
        if address is None:
            address = source.stream or 0
        resample = sample_rate is not None and sample_rate != self.document.frontend.sample_rate
        if len(source.shape) not in ((2, 3) if resample else (2,)) or not source.rows_are_dense:
            expected = "[B, n_in] or [B, n_in, n_channels]" if resample else "[B, n_samples]"
            raise ValueError(f"waves: shape {list(source.shape)}; expected {expected}, rows without gaps")
        batch, n_tags = source.shape[0], len(self.document.tags)
        if batch > self.max_batch:
            raise ValueError(f"waves: {batch} segments; at most max_batch={self.max_batch} on the GPU in one call")
        n_samples = self.document.segments.n_samples
        if resample:
            scorer = self._pcm_scorer(int(sample_rate or 0), source.shape)
        else:
            scorer, n_samples = self._scorer, source.shape[1]
            self._check_length(n_samples)
        if out is None:
            out = _new_cupy_array((batch, n_tags), self._index, address)
        target = cuda.device_array(out, "out", address, self._index)
        if getattr(out, "__cuda_array_interface__", {"data": (0, False)})["data"][1]:
            raise ValueError("out: is read-only")
        for array in (source, target):  # what their producers still have to do comes first
            if array.stream is not None and array.stream != address:
                self._module.wait_for(address, array.stream, self._index)
        if target.shape != (batch, n_tags) or not target.rows_are_dense or (batch > 1 and target.strides[0] != n_tags):
            raise ValueError(f"out: shape {list(target.shape)}; expected {[batch, n_tags]}, without gaps")
        row = source.strides[0] if batch > 1 else int(np.prod(source.shape[1:]))
        scorer.enqueue(source.address, row, batch, target.address, self._shape(n_samples), address)
        return out

    def _pcm_scorer(self, sample_rate: int, shape: tuple[int, ...]) -> Any:
        """The scorer for PCM [B, n_in] or [B, n_in, n_channels] at ``sample_rate``, kept for the next call."""
        from . import resample_filter

        n_in, n_channels = shape[1], shape[2] if len(shape) == 3 else 1
        rate, n_samples = self.document.frontend.sample_rate, self.document.segments.n_samples
        needed = -(-n_samples * sample_rate // rate)
        if abs(n_in - needed) > 1 + sample_rate // rate:
            takes = f"{self.document.name} takes {needed} ({n_samples} at {rate} Hz)"
            raise ValueError(f"waves: {n_in} samples at {sample_rate} Hz; {takes}")
        key = (sample_rate, n_in, n_channels)
        if key not in self._resampling:
            filters = resample_filter.design(sample_rate, rate)
            resampler = self._module.Resampler(
                up=filters.up, down=filters.down, filter=filters.phases.ravel(), device=self._index
            )
            scorer = self._module.Scorer(
                self._melspec,
                self._network,
                self._shape(n_samples),
                resampler=resampler,
                n_in=n_in,
                n_channels=n_channels,
            )
            while len(self._resampling) >= _RESAMPLERS:
                self._resampling.popitem(last=False)
            self._resampling[key] = (scorer, resampler)
        self._resampling.move_to_end(key)
        return self._resampling[key][0]


def memory_needed(
    model: Model, *, index: int = 0, precision: str = "float32", max_batch: int = 64, reduce: bool = True
) -> int:
    """Bytes of device memory that a CudaEngine with these arguments takes, within 1 %; nothing is allocated.

    Raises the constructor's errors, but for a lack of memory.
    """
    module = cuda.core()
    if reason := module.unavailable():
        raise DeviceError(f"device='cuda': {reason}; use device='cpu'")
    document = model.document
    running = reduce_model(model)[0] if reduce else model
    whole = document.input_size()
    height, width = needed_input(document, *whole) if reduce else whole
    network = module.Network.planned_bytes(
        block_dicts(running),
        head_dict(running),
        height=height,
        width=width,
        max_batch=max_batch,
        precision=precision,
        device=index,
    )
    frontend = document.frontend
    seen = (height * width) if frontend.frames_stand_alone else whole[0] * whole[1]
    if frontend.kind == "mfcc":  # and the log-mel that they come from
        seen += frontend.n_mels * whole[1]
    floats = document.segments.n_samples + seen + 2 * len(document.tags)
    return int(network) + 4 * max_batch * floats


def _new_cupy_array(shape: tuple[int, int], device: int, stream: int) -> Any:
    try:
        import cupy
    except ImportError:
        raise DeviceError(
            "scores on the GPU need an array to go to: pass out=, or install CuPy (pip install 'fcntag[cuda13]')"
        ) from None
    with cupy.cuda.Device(device), cupy.cuda.ExternalStream(stream):
        return cupy.empty(shape, dtype=cupy.float32)
