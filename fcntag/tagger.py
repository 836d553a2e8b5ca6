"""``Tagger``: a model on a device, ready to tag. The one class that most users meet."""

from __future__ import annotations

import logging
import numbers
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from . import pipeline
from .errors import FcntagError, ModelError
from .pipeline.dense_plan import planner
from .result import EmbedResult, EngineInfo, ModelInfo, Result, embedding_of, result_of

if TYPE_CHECKING:
    import numpy as np

    from .model.file import Model
    from .pipeline.batch import Function


logger = logging.getLogger("fcntag")

OnError = Literal["record", "raise"]
RANDOM_WEIGHTS = "the model's weights are random: the results mean nothing"


# What ``__init__`` makes; attributes besides are a subclass's.
_OWN = frozenset(["_engine", "_options", "_model", "_origin", "_closed", "_warnings", "_model_info", "_engine_info"])


class Tagger:
    """Tags music with one model on one device.

    ::

        with Tagger("mtt-vgg") as tagger:
            tagger.tag("song.mp3").top(3)  # [("guitar", 0.93), ("rock", 0.71), ...]

    A source is a path, ``bytes`` of a sound file, a binary file object, or an array ``[n]`` or ``[n, n_channels]``
    (float, or integer PCM) with ``sample_rate=``. Methods may be called from several threads at once: decoding then
    runs in parallel, the network takes one batch at a time. Scores of a segment are bit-equal for every batch size,
    thread count and neighbour in the batch.

    In a forked child a Tagger of the parent works on, with as many threads of its own; on a GPU it raises DeviceError
    there. Pickled, it is its model and its arguments: the process that unpickles makes another one. A model that was
    given by name or path travels as that, and has to be the same file there; a loaded ``Model`` travels whole. A copy
    is another Tagger with the same ``Model``. ``device="auto"`` and ``threads=None`` are decided anew each time.

    Parameters
    ----------
    model : name in the catalogue (``fcntag models list``), path of a model file, or a loaded ``Model``.
        Never downloads: a model that is not embedded has to be pulled first.
    device : "auto", "cpu", "cuda" or "cuda:N". "auto" is the CPU for now, and logs it.
    precision : "float32"; "bfloat16" where the CPU has it (AVX512_BF16), or on a GPU; on a GPU also "tf32", "float16"
    max_batch : int >= 1, windows in one run of the network
    threads : int >= 0, CPU threads of the network; None or 0: as many as the process may use
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
        threads: int | None = None,
        reduce: bool = True,
    ) -> None:
        max_batch = _at_least("max_batch", max_batch, 1)
        threads = None if threads is None else _at_least("threads", threads, 0)
        for name, value in (("device", device), ("precision", precision)):
            if not isinstance(value, str):
                raise TypeError(f"{name}: {value!r} is of type {type(value).__name__}; it must be a str")
        from .model.file import Model

        origin = None  # where another process finds the model; None: nowhere, it was made in memory
        if isinstance(model, (str, os.PathLike)):
            from .catalogue.store import lasting_name, load_model

            origin = lasting_name(model)
            model = load_model(model)
        elif not isinstance(model, Model):
            raise TypeError(
                f"model: got an object of type {type(model).__name__}; it must be a name, a path or a loaded Model"
            )
        from . import __version__, engine

        self._options: dict[str, Any] = {
            "device": device,
            "precision": precision,
            "max_batch": max_batch,
            "threads": threads,
            "reduce": reduce,
        }
        self._engine = engine.create_engine(model, **self._options)
        if device == "auto":
            logger.info(
                "device auto: %s (a GPU is used when asked for: device='cuda'); %s, %s, %d threads",
                self._engine.device,
                self._engine.isa,
                self._engine.precision,
                self._engine.threads,
            )
        self._model, self._origin = model, origin
        self._closed = False
        # Every result of a model with random weights says so, before it can be misread.
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
            "dense": the whole track through the network at once, a score at every step of its strides
            (``fcntag.engine.dense``)

        Returns
        -------
        Result : scores [n_tags], segments [n_segments, n_tags] with their start and end in seconds

        Raises
        ------
        AudioError : unreadable or empty; the message starts with the track's name
        ValueError : hop or segments out of range
        """
        how = self._how(hop, segments)
        return self._result(pipeline.run_one(source, self._scoring(segments), **how, sample_rate=sample_rate))

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
        tracks, the scores are bit-equal to those of ``tag``. Memory is bounded for any number and length of tracks.

        ``sources`` may be a generator, and a source may wait for the result of the one before. It is read ahead, by at
        most ``workers + max_batch`` sources, in a thread of its own (but for a list or another plain collection), in a
        copy of the caller's :mod:`contextvars` context. A generator that is left early is closed in that thread. What
        belongs to the thread that made it, as an sqlite3 cursor, cannot be read there: pass a list.

        Parameters
        ----------
        sources : as for ``tag``, mixed at will; an exception that they raise comes after the results before it
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
        how = self._how(hop, segments)
        outcomes = self._many(
            sources, self._scoring(segments), how, workers, sample_rate=sample_rate, on_error=on_error
        )
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
        stream : for waves on the GPU, a CuPy or PyTorch stream (or any with ``__cuda_stream__``), or its address: the
            scores are ready when it is. None: the current stream of ``out``'s library, else of ``waves``'s; what either
            library does next comes after the run. Pass it where both arrays have nothing but DLPack.
        sample_rate : int, Hz, with ``device="cuda"``: waves are PCM [B, n_in] or [B, n_in, n_channels] at that rate,
            mixed and resampled on the GPU; scores differ by up to 1e-3 from those of ``tag``, which resamples with soxr

        Returns
        -------
        float32 [B, n_tags], 0 to 1; ``out`` for waves on the GPU

        Raises
        ------
        ValueError : shape, dtype or a value that is not finite; an argument that this device does not take
        DeviceError : a stream is being captured into a graph, or the GPU has no memory left
        """
        return self._while_open(
            lambda: self._engine.scores(waves, out=out, stream=stream, sample_rate=sample_rate, check_finite=True)
        )

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
        which : "head": the values that enter the last dense layer; "blocks": the mean over (H, W) of every block's
            pooled output, one block after the other (choi2017-compact: 160 values); "auto": the one that the model's
            document names as ``head.default_features`` ("blocks" for the choi2017 models, which are published for them)
        source, sample_rate, hop, segments : as for ``tag``

        Returns
        -------
        EmbedResult : mean [F] over the segments, segments [n_segments, F]

        Raises
        ------
        AudioError, ValueError : as for ``tag``
        """
        which = self.feature_kind(which)
        _check_features(segments)
        how = self._how(hop, segments)
        return self._embedding(pipeline.run_one(source, self._features(which), **how, sample_rate=sample_rate), which)

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
        which = self.feature_kind(which)
        _check_features(segments)
        how = self._how(hop, segments)
        outcomes = self._many(sources, self._features(which), how, workers, sample_rate=sample_rate, on_error=on_error)
        return (self._embedding(outcome, which) for outcome in outcomes)

    def feature_kind(self, which: str) -> Literal["head", "blocks"]:
        """The features that ``which`` (see ``embed``) stands for with this model.

        Raises
        ------
        ValueError : it is none of "head", "blocks", "auto"
        """
        if which == "auto":
            return self._model.document.head.default_features
        if which not in ("head", "blocks"):
            raise ValueError(f"which: {which!r} is not one of head, blocks, auto")
        return which  # type: ignore[return-value]

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

    def __getstate__(self) -> dict[str, Any]:
        """The arguments that make this Tagger, and what a subclass has added."""
        self._check_open()
        model = self._model if self._origin is None else None
        origin = {"origin": self._origin, "sha256": self._model.sha256, "model": model}
        return {**origin, "options": self._options, "added": self._added()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        origin, model = state["origin"], state["model"]
        if model is None:
            from .catalogue.store import load_model

            model = load_model(origin)
            if model.sha256 != state["sha256"]:
                raise ModelError(
                    f"{origin}: the pickled Tagger's model has sha256 {state['sha256'][:12]}; "
                    f"the one here has {model.sha256[:12]}"
                )
        self._start_as(model, origin, state["options"], state["added"])

    def __copy__(self) -> Tagger:
        self._check_open()
        twin = self.__class__.__new__(self.__class__)
        twin._start_as(self._model, self._origin, self._options, self._added())
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Tagger:
        import copy

        twin = copy.copy(self)
        memo[id(self)] = twin
        twin.__dict__.update(copy.deepcopy(self._added(), memo))
        return twin

    # ---- inside ----

    def _added(self) -> dict[str, Any]:
        """The attributes that a subclass has added."""
        return {key: value for key, value in self.__dict__.items() if key not in _OWN}

    def _start_as(self, model: Model, origin: str | None, options: dict[str, Any], added: dict[str, Any]) -> None:
        Tagger.__init__(self, model, **options)
        self._origin = origin
        self.__dict__.update(added)

    def _check_open(self) -> None:
        if self._closed:
            raise FcntagError(f"{self!r} is closed")

    def _scores(self, waves: np.ndarray) -> np.ndarray:
        return self._while_open(lambda: self._engine.scores(waves))

    def _scoring(self, segments: str | None) -> Function:
        if segments != "dense":
            return self._scores
        import numpy as np

        from .engine.dense import dense_scores

        # A row is a track: the scores of its positions one after the other, which result_of takes apart.
        return lambda waves: self._while_open(
            lambda: np.stack([dense_scores(self._engine, wave).ravel() for wave in waves])
        )

    def _features(self, which: Literal["head", "blocks"]) -> Function:
        return lambda waves: self._while_open(lambda: self._engine.features(waves, which))

    def _while_open(self, call: Callable[[], np.ndarray]) -> np.ndarray:
        self._check_open()
        try:
            return call()
        except ValueError:
            self._check_open()  # closed by another thread meanwhile: the engine's own error would name the engine
            raise

    def _how(self, hop: float | None, segments: str | None) -> dict[str, Any]:
        """The arguments of ``run_one`` and ``run_many`` that are alike for scores and features."""
        self._check_open()
        plan = planner(self._model.document, segments, hop)
        if segments == "dense":
            from .engine.dense import check_engine

            check_engine(self._engine)
        return {"plan": plan, "rate": self.sample_rate, "max_batch": self._options["max_batch"]}

    def _many(
        self, sources: Iterable[Any], function: Function, how: dict[str, Any], workers: int | None, **more: Any
    ) -> Iterator[pipeline.Outcome]:
        workers = None if workers is None else _at_least("workers", workers, 1)
        return pipeline.run_many(sources, function, **how, workers=workers, **more)

    def _result(self, outcome: pipeline.Outcome) -> Result:
        return result_of(outcome, self.tags, self._model_info, self._engine_info, self._warnings)

    def _embedding(self, outcome: pipeline.Outcome, which: str) -> EmbedResult:
        return embedding_of(outcome, which, self._model_info, self._engine_info, self._warnings)


def _check_features(segments: str | None) -> None:
    if segments == "dense":
        raise ValueError("segments: 'dense' gives scores, not features")


def _at_least(name: str, value: int, low: int) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < low:
        raise ValueError(f"{name}: {value!r} must be an integer, {low} or more")
    return int(value)
