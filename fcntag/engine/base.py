"""The promise that an engine of every device keeps: methods, shapes, errors, locking, and the one check of waves."""

from __future__ import annotations

import contextlib
import numbers
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np

from .. import process
from ..model.file import check_shapes
from ..reduce import Reduction, needed_input, reduce_model
from .device_arrays import is_device_array

if TYPE_CHECKING:
    from ..model.document import ModelDocument
    from ..model.file import Model


class Engine(ABC):
    """One model's front end and network on one device, planned once and run many times.

    Arrays in and out are float32 and C-contiguous; B may be 0 and may exceed ``max_batch``. Scores of a segment are
    bit-equal for every batch size, position in the batch and number of threads, on one machine. Methods may be called
    from several threads: one call runs at a time. Use as a context manager, or call :meth:`close`, to give threads and
    memory back.

    With ``reduce`` the core runs the model without the work that cannot change a score (``fcntag.reduce``); inputs and
    outputs keep their shapes. :meth:`blocks` and block features need every channel and pixel: the first call plans the
    whole network beside the needed one.

    A child of a fork has an engine of its own with the same scores, or DeviceError on a GPU, whatever other threads
    were doing with the parent's; closing it does not touch the parent's.

    Attributes
    ----------
    device : "cpu", "cuda:N", or "emulated:N" where the CPU emulator stands in for the GPU (in the tests)
    precision : "float32", "tf32", "float16" or "bfloat16"
    threads : CPU threads of the network, the caller's included; 0 on a GPU
    isa : the instruction set in use, a value of FCNTAG_FORCE_ISA; on a GPU its compute capability, e.g. "sm_90"
    max_batch : most segments that one call of the core takes
    reduction : the work that is left out, or None
    device_info : name, capability, memory and versions of the GPU; empty on a CPU
    """

    device: str
    isa: str
    threads: int
    device_info: dict[str, Any]

    def __init__(self, model: Model, precision: str, max_batch: int, reduce: bool) -> None:
        if max_batch < 1:
            raise ValueError(f"max_batch={max_batch}; must be at least 1")
        check_shapes(model.document, model.tensors)
        self.whole_model = self.needed_model = model
        self.document: ModelDocument = model.document
        self.precision = precision
        self.max_batch = max_batch
        self.device_info = {}
        self.reduction: Reduction | None = None
        if reduce:
            self.needed_model, self.reduction = reduce_model(model)
        self._process = process.here()
        self._locks = {self._process: threading.Lock()}
        self._closed = False
        self._melspec: Any = None
        self._network: Any = None
        self._whole_melspec: Any = None
        self._whole_network: Any = None

    # ---- what a device brings ----

    @property
    @abstractmethod
    def algorithms(self) -> list[str]:
        """How each block is computed, e.g. "direct" or "winograd"."""

    @abstractmethod
    def describe_plan(self, batch: int = 1) -> list[dict[str, Any]]:
        """How each block of a batch is computed, one dict a block, in the words of the device's kernels.

        "code", where a dict has it, is the pool window whose own code the block runs, "general" where no fast code is
        built for its window, or "any" where the kernel takes all windows alike.
        """

    @abstractmethod
    def _make_melspec(self, height: int, width: int) -> Any:
        """The core's front end for the first rows and frames of an input [height, width]."""

    @abstractmethod
    def _make_network(self, model: Model, height: int, width: int) -> Any:
        """The core's network of ``model`` for inputs [height, width]."""

    @abstractmethod
    def _host_scores(self, waves: np.ndarray, sample_rate: int | None) -> np.ndarray:
        """Scores of checked waves; ``sample_rate`` is None where they are at the model's rate."""

    def _device_scores(self, waves: Any, out: Any, stream: Any, sample_rate: int | None) -> Any:
        """Scores of waves on the GPU."""
        raise ValueError("waves: an array on the GPU; this engine computes on the CPU (device='cuda' takes it)")

    def _check_rate(self, sample_rate: int) -> None:
        """Raise ValueError where the device does not resample PCM at ``sample_rate``."""
        raise ValueError(f"sample_rate={sample_rate}: needs device='cuda'; tag() resamples on the CPU")

    def _release(self) -> None:
        """Drop everything that the core holds; called once, with the lock held."""
        self._network = self._melspec = self._whole_network = self._whole_melspec = None

    def _parts(self) -> list[Any]:
        """Everything of the core's that has ``memory_bytes``, or None in its place."""
        return [self._melspec, self._network, self._whole_melspec, self._whole_network]

    def _begin_in_child(self, torn: bool) -> None:  # noqa: B027 (a device may have nothing to do)
        """Make the engine ready in the child of a fork; called once, with the lock held.

        ``torn``: another thread was using the core when the process was forked, and left it half changed.
        """

    # ---- what every device does alike ----

    @property
    def memory_bytes(self) -> int:
        """Bytes of weights and buffers held by the core, on its device."""
        with self._in_use():
            return sum(int(part.memory_bytes) for part in self._parts() if part is not None)

    def scores(
        self,
        waves: Any,
        *,
        out: Any = None,
        stream: Any = None,
        sample_rate: int | None = None,
        check_finite: bool = False,
    ) -> Any:
        """Sigmoid scores [B, n_tags] of segments.

        Parameters
        ----------
        waves : float32 [B, n_samples] at the model's rate; a GPU also takes, with ``sample_rate``, PCM [B, n_in] or
            [B, n_in, n_channels] at that rate, which it mixes and resamples. A NumPy array, or for a GPU an array on it
            (CuPy, PyTorch, anything with ``__cuda_array_interface__`` or DLPack) of at most ``max_batch`` rows.
        out : array on the GPU, float32 [B, n_tags], for the scores of waves on the GPU; None: a new CuPy array
        stream : stream of CuPy, PyTorch, Warp, Numba or ``__cuda_stream__``, or its address. The run waits for what the
            arrays' libraries have put on their current streams; the scores are ready when ``stream`` is. None: the
            current stream of ``out``'s library, else of ``waves``'s, else the legacy default stream. Both libraries'
            current streams then wait for the run, so that whatever either does next comes after it. A library that has
            only DLPack names no stream: where neither array does, pass ``stream``. The host waits for nothing.
        sample_rate : rate of PCM, a whole number of Hz; None: the model's, mono
        check_finite : refuse waves in host memory with a value that is not finite, which costs a look at each

        Returns
        -------
        A NumPy array for NumPy waves, else ``out``.

        Raises
        ------
        ValueError : shape, type, length, address or values; an argument that this device does not take
        TypeError : ``out`` is no array on a GPU, ``stream`` no stream
        DeviceError : a stream is being captured; no room for a new array or for the first run of a size
        """
        if sample_rate is not None:
            sample_rate = whole_rate(sample_rate)
            if sample_rate == self.document.frontend.sample_rate:
                sample_rate = None
        if is_device_array(waves):
            return self._device_scores(waves, out, stream, sample_rate)
        if out is not None or stream is not None:
            raise ValueError("out and stream go with waves on the GPU; these are in host memory")
        if sample_rate is not None:
            self._check_rate(sample_rate)
        waves = check_waves(waves, self.document, pcm=sample_rate is not None, finite=check_finite)
        return self._host_scores(waves, sample_rate)

    def log_mel(self, waves: np.ndarray) -> np.ndarray:
        """The network's input [B, H, W] (normalised) of segments [B, n_samples] at the model's rate."""
        waves = check_waves(waves, self.document)
        with self._in_use():
            if self._whole_melspec is None:
                self._whole_melspec = self._make_melspec(*self.document.input_size())
            return self._run_melspec(self._whole_melspec, waves, self.document.frontend.n_frames(waves.shape[1]))

    def features(self, waves: np.ndarray, which: Literal["head", "blocks"] = "head") -> np.ndarray:
        """Features [B, F] of segments [B, n_samples].

        "head": the values that enter the last dense layer: the last hidden layer's output, or without hidden layers the
        last map in the document's flatten order. "blocks": the mean over (H, W) of every block's pooled output, in
        block order; for choi2017-compact these are the 160 features of its paper.
        """
        if which not in ("head", "blocks"):
            raise ValueError(f"which={which!r}; allowed: 'head', 'blocks'")
        waves = check_waves(waves, self.document)
        if which == "blocks":
            parts = [self._run_whole(self.log_mel(part), block_means=True) for part in self._batches(waves)]
            return np.concatenate([part["block_means"] for part in parts])
        found = [self._run_needed(self._needed_rows(part), features=True)["features"] for part in self._batches(waves)]
        features = np.concatenate(found)
        return features if self.reduction is None else self.reduction.restore_features(features)

    def scores_of(self, x: np.ndarray) -> np.ndarray:
        """Sigmoid scores [B, n_tags] of network inputs [B, H, W]."""
        return self._outputs_of(x, "scores")

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Logits [B, n_tags] of network inputs [B, H, W]."""
        return self._outputs_of(x, "logits")

    def blocks(self, x: np.ndarray) -> list[np.ndarray]:
        """Pooled output [B, C, H, W] of every block, for network inputs [B, H, W]."""
        x = check_inputs(x)
        parts = [self._run_whole(part, blocks=True)["blocks"] for part in self._batches(x)]
        return [np.concatenate(maps) for maps in zip(*parts, strict=True)]

    def hidden(self, x: np.ndarray) -> list[np.ndarray]:
        """Output [B, out_features] of every hidden layer of the head, for network inputs [B, H, W]."""
        x = check_inputs(x)
        parts = [self._run_whole(part, hidden=True)["hidden"] for part in self._batches(x)]
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]

    def close(self) -> None:
        """Give threads and memory back; the engine cannot be used afterwards. May be called twice."""
        lock = self._lock
        # While the interpreter shuts down, a daemon thread may have the lock that will never run again.
        if not lock.acquire(blocking=not sys.is_finalizing()):
            return
        try:
            self._closed = True
            self._release()
        finally:
            lock.release()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__}: an engine has threads and memory of its process and cannot be pickled or copied; "
            "pickle or copy the Tagger, or make another engine of the model"
        )

    # ---- for the devices ----

    @property
    def _lock(self) -> threading.Lock:
        """The lock of this process. In a forked child the parent's may be held by a thread that is not there."""
        here = process.here()
        return self._locks.get(here) or self._locks.setdefault(here, threading.Lock())

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[None]:
        """Use the core, one caller at a time. ValueError if the engine is closed."""
        with self._lock:
            self._check_open()
            here = process.here()
            if self._process != here:
                # The others are copies that a fork made. A locked one had a holder, who was inside the core.
                self._begin_in_child(torn=any(lock.locked() for place, lock in self._locks.items() if place != here))
                self._process, self._locks = here, {here: self._locks[here]}
            yield

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("this engine is closed")

    def _needed_size(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) of the part of an input of that size that the needed network reads."""
        return needed_input(self.document, height, width) if self.reduction is not None else (height, width)

    def _needed_part(self, x: np.ndarray) -> np.ndarray:
        height, width = self._needed_size(*x.shape[1:])
        return np.ascontiguousarray(x[:, :height, :width])

    def _needed_rows(self, waves: np.ndarray) -> np.ndarray:
        """The part of the log-mel that the needed network reads.

        The frames behind it are not computed, unless they change this part (a maximum or mean over the segment).
        """
        frontend = self.document.frontend
        if not frontend.frames_stand_alone:
            return self._needed_part(self.log_mel(waves))
        needed = self._needed_size(*self.document.input_size(waves.shape[1]))
        with self._in_use():
            return self._run_melspec(self._melspec, waves, needed[frontend.time_axis])

    def _run_melspec(self, melspec: Any, waves: np.ndarray, n_frames: int) -> np.ndarray:
        return melspec.run(waves, pad_left=self.document.frontend.pad_left(waves.shape[1]), n_frames=n_frames)

    def _batches(self, array: np.ndarray) -> list[np.ndarray]:
        return [array[i : i + self.max_batch] for i in range(0, max(len(array), 1), self.max_batch)]

    def _outputs_of(self, x: np.ndarray, output: str) -> np.ndarray:
        x = check_inputs(x)
        return np.concatenate([self._run_needed(self._needed_part(part))[output] for part in self._batches(x)])

    def _run_needed(self, x: np.ndarray, **wanted: bool) -> dict[str, Any]:
        """Run the needed network on x [B, H', W'] and return the outputs named in ``wanted``."""
        with self._in_use():
            found: dict[str, Any] = self._network.run(x, **wanted)
            return found

    def _run_whole(self, x: np.ndarray, **wanted: bool) -> dict[str, Any]:
        """Run the whole network on x [B, H, W] and return the outputs named in ``wanted``."""
        with self._in_use():
            if self._whole_network is None:
                self._whole_network = self._make_network(self.whole_model, *self.document.input_size())
            found: dict[str, Any] = self._whole_network.run(x, **wanted)
            return found


def check_waves(waves: Any, document: ModelDocument, *, pcm: bool = False, finite: bool = False) -> np.ndarray:
    """``waves`` as a C-contiguous float32 array, if they are segments of ``document`` (or PCM); else ValueError.

    Parameters
    ----------
    waves : float32 [B, n_samples] at the model's rate; with ``pcm`` [B, n_in] or [B, n_in, n_channels] at another
    pcm : the length is not that of a segment, and channels are allowed
    finite : refuse a value that is not finite
    """
    waves = plain_array(waves, "waves")
    if waves.ndim not in ((2, 3) if pcm else (2,)) or waves.dtype != np.float32:
        expected = "[B, n_in] or [B, n_in, n_channels]" if pcm else "[B, n_samples]"
        raise ValueError(f"waves: {waves.dtype} {list(waves.shape)}; expected float32 {expected}")
    if not pcm:
        check_length(waves.shape[1], document)
    if finite and not np.isfinite(waves).all():
        raise ValueError("waves: contains values that are not finite")
    return np.require(waves, np.float32, ["C", "A"])


def whole_rate(sample_rate: Any) -> int:
    """``sample_rate`` as an int; ValueError where it is no whole number of Hz."""
    real = isinstance(sample_rate, numbers.Real) and not isinstance(sample_rate, bool)
    if not (real and sample_rate % 1 == 0 and sample_rate > 0):
        raise ValueError(f"sample_rate={sample_rate!r}; allowed: a whole number of Hz")
    return int(sample_rate)


def check_length(n_samples: int, document: ModelDocument) -> None:
    """Raise ValueError where a segment of ``n_samples`` is none that the model takes."""
    low, high = document.segments.min_samples or document.segments.n_samples, document.segments.n_samples
    if not low <= n_samples <= high:
        allowed = f"{low} to {high}" if low < high else f"{high}"
        raise ValueError(f"waves: n_samples={n_samples}; {document.name} takes {allowed}")


def check_inputs(x: Any) -> np.ndarray:
    """Network inputs as a C-contiguous float32 array; ValueError where they are not real numbers [B, H, W]."""
    x = plain_array(x, "x")
    if x.ndim != 3:
        raise ValueError(f"x has shape {x.shape}; it must be [B, H, W]")
    if x.dtype.kind not in "fiub":
        raise ValueError(f"x: {x.dtype} {list(x.shape)}; expected float32 [B, H, W]")
    return np.require(x, np.float32, ["C", "A"])


def plain_array(values: Any, what: str) -> np.ndarray:
    """``values`` as an array without a mask; ValueError, which begins with ``what``, where some of them are masked."""
    if is_device_array(values):
        raise ValueError(
            f"{what}: an array on the GPU, which only scores() of device='cuda' takes; copy it to host memory"
        )
    if np.ma.is_masked(values):
        raise ValueError(f"{what}: has masked values; fill them first (numpy.ma.filled)")
    return np.asarray(values)
