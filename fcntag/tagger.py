"""``Tagger``: a model on a device, ready to tag. The one class that most users meet."""

from __future__ import annotations

import logging
import numbers
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from . import pipeline
from .errors import FcntagError
from .pipeline.segments import SegmentPlan, check_options, plan_segments
from .result import EmbedResult, EngineInfo, ModelInfo, Result

if TYPE_CHECKING:
    import numpy as np

    from .model.file import Model
    from .pipeline.batch import Function


logger = logging.getLogger("fcntag")

OnError = Literal["record", "raise"]
RANDOM_WEIGHTS = "the model's weights are random: the results mean nothing"


class Tagger:
    """Tags music with one model on one device.

    ::

        with Tagger("mtt-vgg") as tagger:
            tagger.tag("song.mp3").top(3)  # [("guitar", 0.93), ("rock", 0.71), ...]

    A source is a path, ``bytes`` of a sound file, a binary file object, or an array ``[n]`` or ``[n, n_channels]``
    (float, or integer PCM) with ``sample_rate=``. Methods may be called from several threads at once: decoding then
    runs in parallel, the network takes one batch at a time. Scores of a segment are bit-equal for every batch size,
    thread count and neighbour in the batch.

    Parameters
    ----------
    model : name in the catalogue (``fcntag models list``), path of a model file, or a loaded ``Model``.
        Never downloads: a model that is not embedded has to be pulled first.
    device : "auto", "cpu", "cuda" or "cuda:N". "auto" is the CPU for now, and logs it.
    precision : "float32"; "bfloat16" where the CPU has it (AVX512_BF16), or on a GPU; on a GPU also "tf32", "float16"
    max_batch : int >= 1, windows in one run of the network
    threads : int >= 0, CPU threads of the network; 0: as many as the process may use
    reduce : leave out channels, rows and frames that cannot change a score (``fcntag models info`` lists them)

    Raises
    ------
    ModelError : unknown, missing or damaged model
    DeviceError : the device or precision is not available
    ValueError : max_batch or threads out of range
    TypeError : model, device or precision is of another type
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Model = "mtt-vgg",
        *,
        device: str = "auto",
        precision: str = "float32",
        max_batch: int = 64,
        threads: int = 0,
        reduce: bool = True,
    ) -> None:
        max_batch = _at_least("max_batch", max_batch, 1)
        threads = _at_least("threads", threads, 0)
        for name, value in (("device", device), ("precision", precision)):
            if not isinstance(value, str):
                raise TypeError(f"{name}: {value!r} is of type {type(value).__name__}; it must be a str")
        from .model.file import Model

        if isinstance(model, (str, os.PathLike)):
            from .catalogue.store import load_model

            model = load_model(model)
        elif not isinstance(model, Model):
            raise TypeError(
                f"model: got an object of type {type(model).__name__}; it must be a name, a path or a loaded Model"
            )
        from . import __version__, engine

        self._engine = engine.create_engine(
            model, device=device, precision=precision, max_batch=max_batch, threads=threads, reduce=reduce
        )
        if device == "auto":
            logger.info(
                "device auto: %s (a GPU is used when asked for: device='cuda'); %s, %s, %d threads",
                self._engine.device,
                self._engine.isa,
                self._engine.precision,
                self._engine.threads,
            )
        self._model = model
        self._max_batch = max_batch
        self._closed = False
        # What every result of this model has to say before it can be misread.
        self._warnings = (RANDOM_WEIGHTS,) if model.document.random_weights else ()
        self._model_info = ModelInfo(model.document.name, model.sha256)
        self._engine_info = EngineInfo(__version__, self._engine.device, self._engine.precision)

    # ---- what it is ----

    @property
    def model(self) -> Model:
        """The model: its document (``.document``), tensors and sha256."""
        return self._model

    @property
    def model_info(self) -> ModelInfo:
        """Name and sha256 of the model, as every result carries them."""
        return self._model_info

    @property
    def engine_info(self) -> EngineInfo:
        """Version, device and precision, as every result carries them."""
        return self._engine_info

    @property
    def tags(self) -> tuple[str, ...]:
        """Labels, [n_tags], in the order of the scores."""
        return self._model.document.tags

    @property
    def sample_rate(self) -> int:
        """Rate that the model works at, in Hz. ``scores`` wants it; ``tag`` resamples to it."""
        return self._model.document.frontend.sample_rate

    @property
    def device(self) -> str:
        """The device really used, e.g. "cpu"."""
        return self._engine.device

    @property
    def precision(self) -> str:
        """The precision really used, e.g. "float32"."""
        return self._engine.precision

    @property
    def threads(self) -> int:
        """CPU threads of the network."""
        return self._engine.threads

    @property
    def memory_bytes(self) -> int:
        """Bytes that the engine holds: packed weights and planned buffers."""
        self._check_open()
        return self._engine.memory_bytes

    # ---- tagging ----

    def tag(
        self, source: Any, *, sample_rate: int | None = None, hop: float | None = None, segments: str | None = None
    ) -> Result:
        """Tag one track.

        Parameters
        ----------
        source : path, bytes, binary file object or array (see the class)
        sample_rate : int, Hz: required with an array, forbidden otherwise
        hop : float > 0, seconds from one window to the next, rounded to whole frames; None: the model's rule
        segments : "default" or None: the model's rule; "center", "first": one window; "all": the whole track;
            "dense": the whole track through the network at once, a score at every step of its strides (fcntag.dense)

        Returns
        -------
        Result : scores [n_tags], segments [n_segments, n_tags] with their start and end in seconds

        Raises
        ------
        AudioError : unreadable or empty; the message starts with the track's name
        ValueError : hop or segments out of range
        """
        outcome = self._one(source, sample_rate, hop, segments, self._scoring(segments))
        return self._result(outcome)

    def tag_many(
        self,
        sources: Iterable[Any],
        *,
        sample_rate: int | None = None,
        hop: float | None = None,
        segments: str | None = None,
        workers: int | None = None,
        on_error: OnError = "record",
    ) -> Iterator[Result]:
        """Tag many tracks: yields one Result a source, in order, as soon as each is finished.

        Lazy: nothing happens before the first ``next``. ``workers`` threads decode, batches take windows from several
        tracks, the scores are bit-equal to those of ``tag``. Memory is bounded for any number and length of tracks;
        ``sources`` may be a generator (some are taken ahead of the results).

        Parameters
        ----------
        sources : as for ``tag``, mixed at will
        sample_rate : int, Hz, of those sources that are arrays
        hop, segments : as for ``tag``
        workers : int >= 1, decoding threads; None: the CPUs of this process, at most 4
        on_error : "record": a track that fails gives a Result with ``error`` and without scores; "raise": it raises

        Raises
        ------
        ValueError : an option is out of range (at once, before the first result)
        TypeError : ``sources`` is itself one source (at once)
        AudioError : with ``on_error="raise"``, in the place of the failed track's result
        """
        outcomes = self._many(sources, sample_rate, hop, segments, workers, on_error, self._scoring(segments))
        return (self._result(outcome) for outcome in outcomes)

    def scores(self, waves: Any, *, out: Any = None, stream: Any = None, sample_rate: int | None = None) -> Any:
        """Scores of windows that are decoded already.

        Parameters
        ----------
        waves : float32 [B, n_samples] at ``self.sample_rate``, mono, -1 to 1; n_samples as
            ``model.document.segments.n_samples`` (or a natural length that the model allows). With ``device="cuda"``
            also an array on the GPU (CuPy, PyTorch, anything with ``__cuda_array_interface__`` or DLPack; at most
            max_batch rows, taken as they are, without a copy and without a look at their values)
        out : array on the GPU, float32 [B, n_tags], for waves on the GPU; None: a new CuPy array
        stream : CuPy or PyTorch stream, or its address, for waves on the GPU: the scores are ready when it is
        sample_rate : int, Hz, with ``device="cuda"``: waves are PCM [B, n_in] or [B, n_in, n_channels] at that rate,
            mixed and resampled on the GPU; scores differ by up to 1e-3 from those of ``tag``, which resamples with soxr

        Returns
        -------
        float32 [B, n_tags], 0 to 1; ``out`` for waves on the GPU

        Raises
        ------
        ValueError : shape, dtype or a value that is not finite; an argument that this device does not take
        """
        import numpy as np

        from .cuda import is_device_array

        self._check_open()
        on_gpu = hasattr(self._engine, "device_info")
        if is_device_array(waves):
            if not on_gpu:
                raise ValueError("waves: an array on the GPU; this Tagger computes on the CPU (device='cuda' takes it)")
            return self._while_open(
                lambda: self._engine.scores(waves, out=out, stream=stream, sample_rate=sample_rate)  # type: ignore[call-arg]
            )
        if out is not None or stream is not None:
            raise ValueError("out and stream go with waves on the GPU; these are in host memory")
        waves = np.asarray(waves)
        resample = sample_rate is not None and sample_rate != self.sample_rate
        if resample and not on_gpu:
            raise ValueError(f"sample_rate={sample_rate}: needs device='cuda'; tag() resamples on the CPU")
        segments = self._model.document.segments
        if waves.ndim not in ((2, 3) if resample else (2,)) or waves.dtype != np.float32:
            expected = "[B, n_in] or [B, n_in, n_channels]" if resample else "[B, n_samples]"
            raise ValueError(f"waves: {waves.dtype} {list(waves.shape)}; expected float32 {expected}")
        low = segments.min_samples or segments.n_samples
        if not resample and not low <= waves.shape[1] <= segments.n_samples:
            allowed = f"{low} to {segments.n_samples}" if low < segments.n_samples else f"{segments.n_samples}"
            raise ValueError(f"waves: n_samples={waves.shape[1]}; {self._model_info.name} takes {allowed}")
        if not np.isfinite(waves).all():
            raise ValueError("waves: contains values that are not finite")
        waves = np.ascontiguousarray(waves)
        if resample:
            return self._while_open(lambda: self._engine.scores(waves, sample_rate=sample_rate))  # type: ignore[call-arg]
        return self._scores(waves)

    # ---- features ----

    def embed(
        self,
        source: Any,
        which: Literal["head", "blocks", "auto"] = "auto",
        *,
        sample_rate: int | None = None,
        hop: float | None = None,
        segments: str | None = None,
    ) -> EmbedResult:
        """Features of one track.

        Parameters
        ----------
        which : "head": what enters the dense layer; "blocks": the mean over (H, W) of every block's pooled output,
            one block after the other (choi2017-compact: 160 values); "auto": "blocks" for choi2017 models, whose
            published feature it is, else "head"
        source, sample_rate, hop, segments : as for ``tag``

        Returns
        -------
        EmbedResult : mean [F] over the segments, segments [n_segments, F]

        Raises
        ------
        AudioError, ValueError : as for ``tag``
        """
        which = self.feature(which)
        _check_features(segments)
        outcome = self._one(source, sample_rate, hop, segments, self._features(which))
        return self._embedding(outcome, which)

    def embed_many(
        self,
        sources: Iterable[Any],
        which: Literal["head", "blocks", "auto"] = "auto",
        *,
        sample_rate: int | None = None,
        hop: float | None = None,
        segments: str | None = None,
        workers: int | None = None,
        on_error: OnError = "record",
    ) -> Iterator[EmbedResult]:
        """Features of many tracks, in order; arguments and errors as for ``embed`` and ``tag_many``."""
        which = self.feature(which)
        _check_features(segments)
        outcomes = self._many(sources, sample_rate, hop, segments, workers, on_error, self._features(which))
        return (self._embedding(outcome, which) for outcome in outcomes)

    # ---- life ----

    def warmup(self) -> None:
        """Run one silent window, so that the first track does not pay for first use of memory and threads."""
        import numpy as np

        self.scores(np.zeros((1, self._model.document.segments.n_samples), np.float32))

    def close(self) -> None:
        """Free the engine. A closed Tagger cannot be used again: methods, and iterators in progress when they need the
        engine, raise FcntagError. Closing twice is harmless."""
        if not self._closed:
            self._closed = True
            self._engine.close()

    def __enter__(self) -> Tagger:
        self._check_open()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Tagger({self._model_info.name!r}, device={self.device!r}, precision={self.precision!r})"

    # ---- inside ----

    def _check_open(self) -> None:
        if self._closed:
            raise FcntagError(f"{self!r} is closed")

    def feature(self, which: str) -> Literal["head", "blocks"]:
        """What ``which`` (see ``embed``) stands for with this model; raises ValueError if it is none of the three."""
        if which == "auto":
            return "blocks" if self._model_info.name.startswith("choi2017") else "head"
        if which not in ("head", "blocks"):
            raise ValueError(f"which: {which!r} is not one of head, blocks, auto")
        return which  # type: ignore[return-value]

    def _scores(self, waves: np.ndarray) -> np.ndarray:
        return self._while_open(lambda: self._engine.scores(waves))

    def _scoring(self, segments: str | None) -> Function:
        if segments != "dense":
            return self._scores
        import numpy as np

        # A row a track: its positions one after the other, which _result takes apart.
        return lambda waves: self._while_open(lambda: np.stack([self._engine.dense(wave).ravel() for wave in waves]))

    def _features(self, which: Literal["head", "blocks"]) -> Function:
        return lambda waves: self._while_open(lambda: self._engine.features(waves, which))

    def _while_open(self, call: Callable[[], np.ndarray]) -> np.ndarray:
        self._check_open()
        try:
            return call()
        except ValueError:
            self._check_open()  # closed by another thread meanwhile: the engine's own error would name the engine
            raise

    def _planner(self, hop: float | None, segments: str | None) -> Callable[[int], SegmentPlan]:
        check_options(segments, hop)
        document = self._model.document
        if segments == "dense":
            from .dense import check_device
            from .pipeline.dense_plan import check_dense, plan_track

            check_device(self._engine)
            check_dense(document)
            return lambda n_total: plan_track(document, n_total)
        return lambda n_total: plan_segments(document.segments, document.frontend, n_total, rule=segments, hop_s=hop)

    def _one(
        self, source: Any, sample_rate: int | None, hop: float | None, segments: str | None, function: Function
    ) -> pipeline.Outcome:
        self._check_open()
        run = pipeline.run_pipeline(
            [source],
            function,
            plan=self._planner(hop, segments),
            rate=self.sample_rate,
            sample_rate=lambda _: sample_rate,
            max_batch=self._max_batch,
            workers=1,
        )
        (outcome,) = run
        if outcome.error is not None:
            raise outcome.error
        return outcome

    def _many(
        self,
        sources: Iterable[Any],
        sample_rate: int | None,
        hop: float | None,
        segments: str | None,
        workers: int | None,
        on_error: str,
        function: Function,
    ) -> Iterator[pipeline.Outcome]:
        self._check_open()
        if isinstance(sources, (str, bytes, bytearray, memoryview, os.PathLike)) or hasattr(sources, "read"):
            raise TypeError(f"sources: {type(sources).__name__} is one source; pass a list, or use tag()")
        if on_error not in ("record", "raise"):
            raise ValueError(f"on_error: {on_error!r} is not one of record, raise")
        workers = pipeline.default_workers() if workers is None else _at_least("workers", workers, 1)
        run = pipeline.run_pipeline(
            sources,
            function,
            plan=self._planner(hop, segments),
            rate=self.sample_rate,
            sample_rate=lambda source: sample_rate if pipeline.is_array(source) else None,
            max_batch=self._max_batch,
            workers=workers,
        )
        return run if on_error == "record" else (_raise_error(outcome) for outcome in run)

    def _result(self, outcome: pipeline.Outcome) -> Result:
        common: dict[str, Any] = {
            "path": outcome.path,
            "tags": self.tags,
            "model": self._model_info,
            "engine": self._engine_info,
            "duration_s": outcome.duration_s,
            "warnings": (*outcome.warnings, *self._warnings),
        }
        if outcome.error is not None:
            return Result(**common, error=str(outcome.error))
        assert outcome.plan is not None
        assert outcome.values is not None
        values = outcome.values.reshape(-1, len(self.tags))
        return Result(
            **common,
            scores=mean_of(values),
            segments=values,
            start_s=outcome.plan.start_s,
            end_s=outcome.plan.end_s,
        )

    def _embedding(self, outcome: pipeline.Outcome, which: Literal["head", "blocks"]) -> EmbedResult:
        common: dict[str, Any] = {
            "path": outcome.path,
            "which": which,
            "model": self._model_info,
            "engine": self._engine_info,
            "duration_s": outcome.duration_s,
            "warnings": (*outcome.warnings, *self._warnings),
        }
        if outcome.error is not None:
            return EmbedResult(**common, error=str(outcome.error))
        assert outcome.plan is not None
        assert outcome.values is not None
        return EmbedResult(
            **common,
            mean=mean_of(outcome.values),
            segments=outcome.values,
            start_s=outcome.plan.start_s,
            end_s=outcome.plan.end_s,
        )


def mean_of(values: np.ndarray) -> np.ndarray:
    """Mean over the segments, [n_segments, K] -> float32 [K].

    In float64, segment after segment: the result cannot depend on how the segments were batched.
    """
    import numpy as np

    total = np.zeros(values.shape[1], np.float64)
    for value in values:
        total += value
    return (total / len(values)).astype(np.float32)


def _check_features(segments: str | None) -> None:
    if segments == "dense":
        raise ValueError("segments: 'dense' gives scores, not features")


def _raise_error(outcome: pipeline.Outcome) -> pipeline.Outcome:
    if outcome.error is not None:
        raise outcome.error
    return outcome


def _at_least(name: str, value: int, low: int) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < low:
        raise ValueError(f"{name}: {value!r} must be an integer, {low} or more")
    return int(value)
