"""The engine on an NVIDIA GPU: fcntag's own kernels from the waveform to the scores."""

from __future__ import annotations

import contextlib
import math
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import DeviceError
from ..reduce import needed_input, reduce_model
from . import cuda_core, resample_filter
from .base import Engine, check_length
from .device_arrays import current_stream, device_array, is_device_array, is_read_only, plain_stream, stream_address
from .packing import block_dicts, head_dict, melspec_config

if TYPE_CHECKING:
    from ..model.file import Model

_CAPTURING = "scores: the stream is being captured; a run replays a graph of its own and cannot be part of another"
Shape = tuple[int, int, int, int, int]
_RESAMPLERS = 4  # kinds of PCM whose buffers are kept: (rate, length, channels)


class CudaEngine(Engine):
    """A model on a GPU; see :class:`fcntag.engine.base.Engine`. ``scores`` also takes arrays on the GPU, and PCM.

    Everything is planned and allocated at construction. The first run of a batch size is slower, because its kernels
    are recorded as one graph; sizes share the graph of the next power of two. float32 multiplies in float32; the first
    block and the head do so in every precision.

    Parameters
    ----------
    index : int >= 0, number of the GPU
    algorithm : for float32: "fma" ("auto" chooses it), or "tf32x3": three products of tf32 parts on the tensor cores,
        for measurements

    Raises
    ------
    DeviceError : no GPU, no kernels in this build, or not enough memory
    ValueError : an argument is out of range
    """

    threads = 0  # the caller's thread alone puts work on the GPU

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
        module = cuda_core.core()
        reason = module.unavailable()
        if reason:
            raise DeviceError(f"device='cuda': {reason}; use device='cpu'")
        count = module.device_count()
        if index >= count:
            raise DeviceError(f"device='cuda:{index}': this machine has {count} GPU(s), numbered from 0")
        if algorithm != "auto" and precision != "float32":
            raise ValueError(f"algorithm={algorithm!r} goes with precision='float32', not {precision!r}")
        super().__init__(model, precision, max_batch, reduce)
        self._module, self._index = module, index
        self.device_info = module.device_info(index)
        self.device = f"{'emulated' if module.emulated else 'cuda'}:{index}"
        self.isa = "sm_{}{}".format(*self.device_info["capability"])
        self._kernels = "tf32x3" if algorithm == "tf32x3" else precision
        self._resampling: OrderedDict[tuple[int, int, int], Any] = OrderedDict()
        self._shapes: dict[int, Shape] = {}  # of every length that was asked for
        self._retired: list[Any] = []  # the GPU may still be at work in their buffers
        height, width = self._needed_size(*self.document.input_size())
        self._melspec = self._make_melspec(height, width)
        self._network = self._make_network(self.needed_model, height, width)
        self._scorer = module.Scorer(self._melspec, self._network, self._shape(self.document.segments.n_samples))

    # ---- what differs from the CPU ----

    @property
    def algorithms(self) -> list[str]:
        """How each block is computed: "direct", then "implicit gemm"."""
        self._check_open()
        return ["direct"] + ["implicit gemm"] * (len(self.document.blocks) - 1)

    def stage_times(self, batch: int, repeats: int, *, spin_s: float = 0.0) -> dict[str, list[float]]:
        """Seconds of "h2d", "mel", "block 1" ... "head", ``repeats`` of each, enqueued one by one; on random waves.

        The GPU is idle before each, so that the host's launches count. A spin of ``spin_s`` seconds, 0.01 at most,
        keeps it busy while the host launches, and the times are the GPU's alone.
        """
        with self._in_use():
            shape = self._shape(self.document.segments.n_samples)
            times = self._scorer.stage_times(batch, repeats, shape, spin_seconds=spin_s)
            return {name: [float(s) for s in seconds] for name, seconds in times.items()}

    def replay_times(
        self, batch: int, repeats: int, *, inputs: int = 8, flush_bytes: int = 0, spin_s: float = 0.0
    ) -> list[float]:
        """Seconds of ``repeats`` whole runs, waveforms to scores, on ``inputs`` resident random batches in turn.

        ``flush_bytes`` of memory are cleared before each run, outside the measured time: more than the level-2 cache
        holds make it cold. ``spin_s`` is as for ``stage_times``.
        """
        with self._in_use():
            shape = self._shape(self.document.segments.n_samples)
            times = self._scorer.replay_times(batch, repeats, inputs, flush_bytes, shape, spin_seconds=spin_s)
            return [float(s) for s in times]

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

    def describe_plan(self, batch: int = 1) -> list[dict[str, Any]]:
        """The choices of the tile planner, one dict a block."""
        with self._in_use():
            found: list[dict[str, Any]] = self._network.describe_plan(
                batch, *self._needed_size(*self.document.input_size())
            )
            return found

    def use_graphs(self, use: bool) -> None:
        """Whether runs replay recorded graphs (the default) or put their kernels on the stream one by one."""
        with self._in_use():
            self._scorer.use_graphs(use)

    # ---- inside ----

    def _check_open(self) -> None:
        cuda_core.check_process(self._process[0])
        super()._check_open()

    def _parts(self) -> list[Any]:
        return [
            *super()._parts(),
            self._scorer,
            *(scorer for scorer, _ in (*self._resampling.values(), *self._retired)),
        ]

    def _release(self) -> None:
        super()._release()
        self._scorer = None
        self._resampling.clear()
        self._retired.clear()

    def _make_melspec(self, height: int, width: int) -> Any:
        # A float FFT's rounding shows in near-silent bands; half precisions round far more than that.
        exact = self.precision == "float32"
        return self._module.MelSpec(
            melspec_config(self.whole_model, height, width), double_precision=exact, device=self._index
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

    def _shape(self, n_samples: int) -> Shape:
        """(n_samples, pad_left, frames that the front end computes, and (H, W) that the network reads of them)."""
        if n_samples not in self._shapes:
            self._shapes[n_samples] = self._make_shape(n_samples)
        return self._shapes[n_samples]

    def _make_shape(self, n_samples: int) -> Shape:
        frontend = self.document.frontend
        height, width = self._needed_size(*self.document.input_size(n_samples))
        n_frames = frontend.n_frames(n_samples)
        if frontend.frames_stand_alone:
            _, n_frames = frontend.rows_and_frames(height, width)
        return n_samples, frontend.pad_left(n_samples), n_frames, height, width

    def _check_rate(self, sample_rate: int) -> None:
        pass  # any rate: the GPU resamples

    def _host_scores(self, waves: np.ndarray, sample_rate: int | None) -> np.ndarray:
        with self._in_use():
            if sample_rate is None:
                scorer, n_samples = self._scorer, waves.shape[1]
            else:
                scorer = self._pcm_scorer(sample_rate, waves.shape)
                n_samples = self.document.segments.n_samples
            scores, _ = scorer.run(waves, self._shape(n_samples))
            self._free_retired()
            return scores

    def _device_scores(self, waves: Any, out: Any, stream: Any, sample_rate: int | None) -> Any:
        address = None if stream is None else stream_address(stream, self._index)
        # The scope is also for the libraries that are asked meanwhile: some answer for the thread's GPU.
        with self._in_use(), self._module.DeviceScope(self._index):
            return self._enqueue(waves, out, address, sample_rate)

    def _enqueue(self, waves: Any, out: Any, stream: int | None, sample_rate: int | None) -> Any:
        """Put a run on ``stream``, or where that is None on the current stream of ``out``'s library, or of ``waves``'s.

        The run comes after the work that both libraries have put on their streams. Where the caller named no stream,
        both streams wait for it in turn.
        """
        cupy = _import_cupy() if out is None else None
        theirs = [current_stream(array, self._index) for array in (waves, out)]
        if cupy is not None:
            theirs[1] = plain_stream(int(cupy.cuda.get_current_stream().ptr))
        address = stream if stream is not None else next((s for s in reversed(theirs) if s is not None), 0)
        others = {s for s in theirs if s is not None} - {address}
        # Before anything reaches a stream, also from the arrays' libraries: a capture would take it up.
        for s in (address, *others):
            if self._module.is_capturing(s, self._index):
                raise DeviceError(_CAPTURING)
        source = device_array(waves, "waves", address, self._index)
        resample = sample_rate is not None
        if len(source.shape) not in ((2, 3) if resample else (2,)) or not source.rows_are_dense:
            expected = "[B, n_in] or [B, n_in, n_channels]" if resample else "[B, n_samples]"
            raise ValueError(f"waves: shape {list(source.shape)}; expected {expected}, rows without gaps")
        batch, n_tags = source.shape[0], len(self.document.tags)
        if batch > self.max_batch:
            raise ValueError(f"waves: {batch} segments; at most max_batch={self.max_batch} on the GPU in one call")
        n_samples = self.document.segments.n_samples
        if sample_rate is None:
            n_samples = source.shape[1]
            check_length(n_samples, self.document)
        else:
            self._check_pcm(sample_rate, source.shape)
        if out is None:
            out = _new_array(cupy, (batch, n_tags), self._index, address)
        elif is_device_array(out) and is_read_only(out):
            raise ValueError("out: is read-only")
        target = device_array(out, "out", address, self._index)
        if target.shape != (batch, n_tags) or not target.rows_are_dense or (batch > 1 and target.strides[0] != n_tags):
            raise ValueError(f"out: shape {list(target.shape)}; expected {[batch, n_tags]}, without gaps")
        scorer = self._scorer if sample_rate is None else self._pcm_scorer(sample_rate, source.shape)
        for other in others:
            self._module.wait_for(address, other, self._index)
        row = source.strides[0] if batch > 1 else math.prod(source.shape[1:])
        scorer.enqueue(source.address, row, batch, target.address, self._shape(n_samples), address)
        if stream is None:
            for other in others:
                self._module.wait_for(other, address, self._index)
        return out

    def _check_pcm(self, sample_rate: int, shape: tuple[int, ...]) -> None:
        """Raise ValueError where PCM [B, n_in, ...] at ``sample_rate`` is not as long as a segment."""
        n_in = shape[1]
        rate, n_samples = self.document.frontend.sample_rate, self.document.segments.n_samples
        needed = -(-n_samples * sample_rate // rate)
        if abs(n_in - needed) > 1 + sample_rate // rate:
            takes = f"{self.document.name} takes {needed} ({n_samples} at {rate} Hz)"
            raise ValueError(f"waves: {n_in} samples at {sample_rate} Hz; {takes}")

    def _pcm_scorer(self, sample_rate: int, shape: tuple[int, ...]) -> Any:
        """The scorer for PCM [B, n_in] or [B, n_in, n_channels] at ``sample_rate``, kept for the next call."""
        self._check_pcm(sample_rate, shape)
        n_in, n_channels = shape[1], shape[2] if len(shape) == 3 else 1
        key = (sample_rate, n_in, n_channels)
        if key not in self._resampling:
            while len(self._resampling) >= _RESAMPLERS:
                self._retired.append(self._resampling.popitem(last=False)[1])
            self._free_retired()
            try:
                self._resampling[key] = self._make_pcm_scorer(sample_rate, n_in, n_channels)
            except DeviceError:  # of memory, perhaps: there is no other way than to wait for what is retired
                if not self._retired:
                    raise
                self._retired.clear()
                self._resampling[key] = self._make_pcm_scorer(sample_rate, n_in, n_channels)
        self._resampling.move_to_end(key)
        return self._resampling[key][0]

    def _make_pcm_scorer(self, sample_rate: int, n_in: int, n_channels: int) -> tuple[Any, Any]:
        filters = resample_filter.design(sample_rate, self.document.frontend.sample_rate)
        resampler = self._module.Resampler(
            up=filters.up, down=filters.down, filter=filters.phases.ravel(), device=self._index
        )
        shape = self._shape(self.document.segments.n_samples)
        scorer = self._module.Scorer(
            self._melspec, self._network, shape, resampler=resampler, n_in=n_in, n_channels=n_channels
        )
        return scorer, resampler

    def _free_retired(self) -> None:
        """Free the buffers of PCM that is no longer kept, unless that would wait for the GPU."""
        if self._retired and self._network.idle:
            self._retired.clear()


def memory_needed(
    model: Model, *, index: int = 0, precision: str = "float32", max_batch: int = 64, reduce: bool = True
) -> int:
    """Bytes of device memory that a CudaEngine with these arguments takes, within 1 %; nothing is allocated.

    Raises the constructor's errors, but for a lack of memory.
    """
    module = cuda_core.core()
    if reason := module.unavailable():
        raise DeviceError(f"device='cuda': {reason}; use device='cpu'")
    document = model.document
    needed_model = reduce_model(model)[0] if reduce else model
    whole = document.input_size()
    height, width = needed_input(document, *whole) if reduce else whole
    network = module.Network.planned_bytes(
        block_dicts(needed_model),
        head_dict(needed_model),
        height=height,
        width=width,
        max_batch=max_batch,
        precision=precision,
        device=index,
    )
    frontend = document.frontend
    if frontend.frames_stand_alone:
        inputs, (_, n_frames) = height * width, frontend.rows_and_frames(height, width)
    else:
        inputs, (_, n_frames) = whole[0] * whole[1], frontend.rows_and_frames(*whole)
    stages = module.MelSpec.planned_bytes(
        melspec_config(model, height, width),
        double_precision=precision == "float32",
        batch=max_batch,
        n_frames=n_frames,
        device=index,
    )
    floats = document.segments.n_samples + inputs + 2 * len(document.tags)
    return int(network) + int(stages) + 4 * max_batch * floats


def _import_cupy() -> Any:
    """CuPy, or None where it is not installed."""
    try:
        import cupy
    except ImportError:
        return None
    return cupy


def _new_array(cupy: Any, shape: tuple[int, int], device: int, stream: int) -> Any:
    if cupy is None:
        raise DeviceError(
            "scores on the GPU need an array to go to: pass out=, or install CuPy (pip install 'fcntag[cuda13]')"
        )
    with contextlib.ExitStack() as stack:
        if cupy.cuda.runtime.getDevice() != device:  # leaving a Device makes a context on the GPU that was before
            stack.enter_context(cupy.cuda.Device(device))
        stack.enter_context(cupy.cuda.ExternalStream(stream))
        return cupy.empty(shape, dtype=cupy.float32)
