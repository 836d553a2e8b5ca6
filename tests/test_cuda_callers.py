"""Device arrays of other libraries: whose stream the engine works on, who waits for whom, what is refused in time.

On the emulated module, with stand-ins for the libraries and streams that run late (support/foreign_arrays.py).
"""

from __future__ import annotations

import gc
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from support import foreign_arrays
from support.foreign_arrays import Array, Capsule, Streams
from support.make_models import block, make_model

from fcntag import Tagger
from fcntag.engine import CudaEngine, create_engine
from fcntag.engine.device_arrays import stream_address
from fcntag.errors import AudioError, DeviceError

N_TAGS = 7


@pytest.fixture
def model(rng):
    return make_model(rng, [block(12, window=(2, 2)), block(20, window=(2, 4), activation="elu", affine=True)])


@pytest.fixture
def streams(cuda_core) -> Streams:
    return Streams(cuda_core)


@pytest.fixture
def late(monkeypatch):
    monkeypatch.setenv("FCNTAG_EMULATED_LATE_STREAMS", "1")


class Producers:
    """Every kind of library, each with a current stream of its own."""

    def __init__(self, core, streams, monkeypatch) -> None:
        self.core = core
        names = ("torch", "cupy", "old-cupy", "numba", "warp", "dlpack")
        self.stream = {name: streams.new() for name in names}
        self.stream["numba-default"] = 0
        torch, self.tensor = foreign_arrays.torch_library({0: self.stream["torch"]})
        cupy, self.old_cupy = foreign_arrays.library(
            "cupy",
            cuda=SimpleNamespace(get_current_stream=lambda: SimpleNamespace(ptr=self.stream["old-cupy"])),
        )
        numba, self.numba = foreign_arrays.library("numba", config=SimpleNamespace(CUDA_PER_THREAD_DEFAULT_STREAM=0))
        warp, self.warp = foreign_arrays.library(
            "warp", get_stream=lambda device: SimpleNamespace(cuda_stream={"cuda:0": self.stream["warp"]}[device])
        )
        for module in (torch, cupy, numba, warp):
            monkeypatch.setitem(sys.modules, module.__name__, module)

    def array(self, name, values):
        if name == "torch":
            return self.tensor(values)
        if name in ("cupy", "numba"):
            return Array(values, stream=self.stream[name])
        if name == "numba-default":
            return self.numba(values, stream=None)
        if name == "dlpack":
            return Capsule(values, self.core, self.stream[name])
        return {"old-cupy": self.old_cupy, "warp": self.warp}[name](values)


@pytest.fixture
def producers(cuda_core, streams, monkeypatch) -> Producers:
    return Producers(cuda_core, streams, monkeypatch)


KNOWN = ("torch", "cupy", "old-cupy", "numba", "numba-default", "warp")


@pytest.mark.parametrize(
    ("source", "target"),
    [(name, name) for name in KNOWN]
    + [("torch", "cupy"), ("cupy", "torch"), ("torch", "numba-default"), ("numba-default", "torch"), ("warp", "torch")]
    + [("dlpack", "torch"), ("dlpack", "cupy"), ("torch", "dlpack"), ("dlpack", "dlpack")],
)
def test_a_run_lies_between_what_both_libraries_did_and_do_next(model, rng, late, streams, producers, source, target):
    ready = rng.uniform(-0.5, 0.5, (2, model.document.segments.n_samples)).astype(np.float32)
    spoiled, old = np.full_like(ready, 7.0), np.full((2, N_TAGS), 9.0, np.float32)
    before, after = producers.stream[source], producers.stream[target]
    if target == "dlpack":  # it cannot say where its next work will be: the run is where `source` works, or on 0
        after = 0 if source == "dlpack" else before
    with CudaEngine(model, max_batch=2) as engine:
        expected = engine.scores(ready)
        put_on, scorer = [], engine._scorer
        engine._scorer = SimpleNamespace(
            enqueue=lambda *arguments: put_on.append(arguments[-1]) or scorer.enqueue(*arguments)
        )
        for first, second in ((before, after), (after, before)):  # whoever is waited for first
            waves, out, copied = np.full_like(ready, np.nan), np.full_like(old, np.nan), np.zeros_like(old)
            streams.copy(before, waves, ready)  # what makes the waves
            streams.copy(producers.stream[target], out, old)  # what was still to happen to the output
            engine.scores(producers.array(source, waves), out=producers.array(target, out))
            streams.copy(after, copied, out)  # the scores are used
            if source != "dlpack":
                streams.copy(before, waves, spoiled)  # and the waves' memory is used again
            streams.synchronize(first)
            streams.synchronize(second)
            np.testing.assert_array_equal(copied, expected)
        assert put_on == [after, after]


def test_a_stream_that_is_named_waits_for_the_libraries(model, rng, late, streams, producers):
    ready = rng.uniform(-0.5, 0.5, (1, model.document.segments.n_samples)).astype(np.float32)
    named = streams.new()
    with CudaEngine(model, max_batch=2) as engine:
        expected = engine.scores(ready)
        for source, target in (("torch", "cupy"), ("cupy", "torch"), ("dlpack", "torch")):
            waves, out = np.zeros_like(ready), np.full((1, N_TAGS), np.nan, np.float32)
            streams.copy(producers.stream[source], waves, ready)
            engine.scores(producers.array(source, waves), out=producers.array(target, out), stream=named)
            assert np.isnan(out).all()  # nobody has waited yet
            streams.synchronize(named)
            np.testing.assert_array_equal(out, expected)


def test_a_new_array_is_ready_on_the_stream_that_cupy_works_on(model, rng, late, streams, producers, monkeypatch):
    made = []

    class External:
        def __init__(self, pointer):
            made.append(pointer)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    cupy = sys.modules["cupy"]
    cupy.cuda.ExternalStream, cupy.float32 = External, np.float32
    cupy.cuda.runtime = SimpleNamespace(getDevice=producers.core.current_device)
    cupy.empty = lambda shape, dtype: producers.old_cupy(np.full(shape, np.nan, dtype))
    ready = rng.uniform(-0.5, 0.5, (1, model.document.segments.n_samples)).astype(np.float32)
    waves, copied = np.zeros_like(ready), np.zeros((1, N_TAGS), np.float32)
    with CudaEngine(model, max_batch=1) as engine:
        expected = engine.scores(ready)
        streams.copy(producers.stream["torch"], waves, ready)
        out = engine.scores(producers.array("torch", waves))
        streams.copy(producers.stream["old-cupy"], copied, out.array)
        streams.synchronize(producers.stream["old-cupy"])
        np.testing.assert_array_equal(copied, expected)
        assert made == [producers.stream["old-cupy"]]


def test_pytorchs_dlpack_is_left_alone(model, rng, producers):
    """It refuses tensors on another GPU than PyTorch's current one, and the per-thread default stream."""
    waves = rng.uniform(-0.5, 0.5, (1, model.document.segments.n_samples)).astype(np.float32)
    out = np.zeros((1, N_TAGS), np.float32)
    with CudaEngine(model, max_batch=1) as engine:
        engine.scores(producers.tensor(waves), out=producers.tensor(out), stream=2)
        np.testing.assert_array_equal(out, engine.scores(waves))
    assert producers.tensor.asked == []


# ---- refused, and nothing left behind ----


@pytest.mark.parametrize("captured", ["waves", "out", "stream"])
def test_a_refused_call_leaves_nothing_in_a_capture(model, rng, streams, producers, captured):
    waves = rng.uniform(-0.5, 0.5, (1, model.document.segments.n_samples)).astype(np.float32)
    out = np.full((1, N_TAGS), np.nan, np.float32)
    named = streams.new()
    where = {"waves": producers.stream["torch"], "out": producers.stream["cupy"], "stream": named}[captured]
    with CudaEngine(model, max_batch=1) as engine:
        call = dict(out=producers.array("cupy", out), stream=named if captured == "stream" else None)
        streams.begin_capture(where)
        with pytest.raises(DeviceError, match="the stream is being captured"):
            engine.scores(producers.tensor(waves), **call)
        capsule = producers.array("dlpack", waves)
        if captured != "waves":
            with pytest.raises(DeviceError, match="the stream is being captured"):
                engine.scores(capsule, **call)
        assert capsule.asked == []  # its library would have put an event there
        assert streams.end_capture(where) == 0
        assert np.isnan(out).all()
        engine.scores(producers.tensor(waves), **call)
        np.testing.assert_array_equal(out, engine.scores(waves))


def misaligned(shape, by):
    raw = np.zeros(int(np.prod(shape)) * 4 + 8, np.uint8)
    start = -raw.ctypes.data % 4 + by
    return raw[start : start + int(np.prod(shape)) * 4].view(np.float32).reshape(shape)


@pytest.mark.parametrize("kind", [Array, Capsule])
@pytest.mark.parametrize("by", [1, 2, 3])
def test_misaligned_arrays_are_refused_before_anything_is_enqueued(model, monkeypatch, streams, kind, by):
    n_samples = model.document.segments.n_samples
    with CudaEngine(model, max_batch=2) as engine:
        enqueued = []

        class Spy:
            def __getattr__(self, name):
                if name == "wait_for":
                    return lambda *arguments: enqueued.append(arguments)
                return getattr(engine_module, name)

        engine_module = engine._module
        monkeypatch.setattr(engine, "_module", Spy())
        good = Array(np.zeros((2, n_samples), np.float32), stream=streams.new())
        out = Array(np.zeros((2, N_TAGS), np.float32), stream=streams.new())
        for waves, target, name in (
            (kind(misaligned((2, n_samples), by)), out, "waves"),
            (good, kind(misaligned((2, N_TAGS), by)), "out"),
        ):
            with pytest.raises(ValueError, match=rf"^{name}: lies at address 0x[0-9a-f]+; .* multiples of 4$"):
                engine.scores(waves, out=target)
        with pytest.raises(ValueError, match=r"^waves: shape \[1, 4000\] at address 0; it has no memory$"):
            engine.scores(Array(np.zeros((1, n_samples), np.float32), data=(0, False)), out=out)
        assert enqueued == []


def test_what_a_library_does_not_hand_over_is_one_line(model, streams, producers, monkeypatch):
    waves = np.zeros((1, model.document.segments.n_samples), np.float32)
    out = np.zeros((1, N_TAGS), np.float32)
    trained = producers.tensor(waves)
    trained.requires_grad = True
    deleted = Capsule(waves)
    deleted.__class__ = type("Deleted", (Capsule,), {"__dlpack__": lambda self, stream: self.array.missing(stream)})
    _, jax = foreign_arrays.library("jaxlib")

    def fail(self, stream):
        raise RuntimeError("Array has been deleted with shape=float32[1,4000].\nSecond line")

    monkeypatch.setattr(type(deleted), "__dlpack__", fail)
    with CudaEngine(model, max_batch=1) as engine:
        for bad, target, message in (
            (trained, Array(out), r"^waves: requires a gradient, which no score has; pass its \.detach\(\)$"),
            (deleted, Array(out), r"^waves: Deleted: Array has been deleted with shape=float32\[1,4000\]\.$"),
            (Array(waves), jax(out), r"^out: is read-only$"),
        ):
            with pytest.raises(ValueError, match=message):
                engine.scores(bad, out=target)
        trained_out = producers.tensor(out)
        trained_out.requires_grad = True
        with pytest.raises(ValueError, match=r"^out: requires a gradient"):
            engine.scores(Array(waves), out=trained_out)
        assert engine.scores(Capsule(waves, kind=13), out=Array(out)) is not None  # managed memory


def test_an_output_in_host_memory_is_named(model, cuda_core):
    """Of a real library: its current stream must not be asked for, where it knows no GPU."""
    import torch

    waves, out = np.zeros((1, model.document.segments.n_samples), np.float32), torch.zeros(1, N_TAGS)
    with CudaEngine(model, max_batch=1) as engine:
        for bad in (out, out.clone().requires_grad_(), np.zeros((1, N_TAGS), np.float32)):
            with pytest.raises(TypeError, match=r"^out: \w+ is no array on a GPU"):
                engine.scores(Array(waves), out=bad)
        np.testing.assert_array_equal(engine.scores(torch.from_numpy(waves)), engine.scores(waves))


def test_interfaces_that_are_none_are_one_line(model, cuda_core):
    waves = np.zeros((1, model.document.segments.n_samples), np.float32)
    out = Array(np.zeros((1, N_TAGS), np.float32))
    whole = Array(waves).__cuda_array_interface__
    no_capsule = type("NoCapsule", (Capsule,), {"__dlpack__": lambda self, stream: 3})
    with CudaEngine(model, max_batch=1) as engine:
        for field, value in (
            ("shape", (-1, 4000)),
            ("shape", (2**70, 4000)),
            ("shape", "ab"),
            ("data", (-4, False)),
            ("data", ()),
            ("strides", (2**66, 4)),
            ("strides", (4,)),
        ):
            with pytest.raises(ValueError, match=r"^waves: its __cuda_array_interface__ is not that of an array$"):
                engine.scores(Array(waves, **{field: value}), out=out)
        for missing in ("shape", "typestr", "data"):
            rest = {k: v for k, v in whole.items() if k != missing}
            with pytest.raises(ValueError, match=r"^waves: its __cuda_array_interface__ is not that of an array$"):
                engine.scores(SimpleNamespace(__cuda_array_interface__=rest), out=out)
        with pytest.raises(ValueError, match=r"^Array: its stream is 'x'; expected an address$"):
            engine.scores(Array(waves, stream="x"), out=out)
        with pytest.raises(ValueError, match=r"^waves: __dlpack__ gave int; expected a capsule$"):
            engine.scores(no_capsule(waves), out=out)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_rate_is_a_whole_number(model, cuda_core, device):
    pcm = np.zeros((1, 12000, 2), np.float32)
    with create_engine(model, device=device, max_batch=1) as engine:
        for rate in (0, -48000, 48000.5, "48000", True, float("nan"), [48000]):
            with pytest.raises(ValueError, match=r"^sample_rate=.*; allowed: a whole number of Hz$"):
                engine.scores(pcm, sample_rate=rate)
        if device == "cuda":
            expected = engine.scores(pcm, sample_rate=48000)
            for rate in (48000.0, np.float32(48000), np.int16(24000)):
                np.testing.assert_array_equal(
                    engine.scores(pcm[:, :: int(48000 / rate)].copy(), sample_rate=rate), expected
                )


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_only_scores_takes_arrays_on_the_gpu(model, cuda_core, device):
    waves = np.zeros((1, model.document.segments.n_samples), np.float32)
    x = np.zeros((1, *model.document.input_size()), np.float32)
    with create_engine(model, device=device, max_batch=1) as engine:
        for kind in (Array, Capsule):
            for method in (engine.features, engine.log_mel):
                with pytest.raises(ValueError, match=r"^waves: an array on the GPU, .* copy it to host memory$"):
                    method(kind(waves))
            for method in (engine.scores_of, engine.logits, engine.blocks, engine.hidden):
                with pytest.raises(ValueError, match=r"^x: an array on the GPU"):
                    method(kind(x))
    with Tagger(model, device=device, max_batch=1) as tagger:
        for kind in (Array, Capsule):
            for method in (tagger.tag, tagger.embed):
                with pytest.raises(
                    AudioError, match="a source is a path, bytes, a binary file object or a NumPy array"
                ):
                    method(kind(waves[0]), sample_rate=16000)


def test_streams_of_every_library_have_an_address():
    class Protocol:
        def __cuda_stream__(self):
            return 0, 48

    class Draft:
        __cuda_stream__ = (0, 64)

    class Numba:
        __module__ = "numba.cuda.cudadrv.driver"

        def __int__(self):
            return 80

    for stream, address in (
        (SimpleNamespace(ptr=16, device_id=-1), 16),
        (SimpleNamespace(cuda_stream=32, device_index=1), 32),
        (Protocol(), 48),
        (SimpleNamespace(native_handle=96, device=SimpleNamespace(type="cuda"), device_index=1), 96),
        (Draft(), 64),
        (Numba(), 80),
        (1, 0),  # two names of the legacy default stream
        (2, 2),
    ):
        assert stream_address(stream, 1) == address
    for stream, error, message in (
        (SimpleNamespace(cuda_stream=32, device_index=0), ValueError, "stream: belongs to GPU 0; .* on GPU 1"),
        (SimpleNamespace(ptr=32, device_id=3), ValueError, "stream: belongs to GPU 3; .* on GPU 1"),
        (-1, ValueError, "stream: -1 is no address"),
        (1 << 64, ValueError, "is no address of a stream"),
        (SimpleNamespace(native_handle=96, device=SimpleNamespace(type="cpu")), TypeError, "stream: SimpleNamespace"),
        (True, TypeError, "stream: bool"),
        (1.0, TypeError, "stream: float"),
    ):
        with pytest.raises(error, match=message):
            stream_address(stream, 1)


# ---- the other GPUs, and the host ----


def test_an_engine_uses_its_own_gpu_only(model, rng, monkeypatch, cuda_core, streams):
    monkeypatch.setenv("FCNTAG_EMULATED_DEVICES", "3")
    gc.collect()
    streams.forget_contexts()
    asked = []
    torch, tensor = foreign_arrays.torch_library({2: 0})
    cupy, cupys = foreign_arrays.library("cupy")
    current = lambda: asked.append(cuda_core.current_device()) or SimpleNamespace(ptr=0)  # noqa: E731
    cupy.cuda = SimpleNamespace(get_current_stream=current)
    for module in (torch, cupy):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    waves = rng.uniform(-0.5, 0.5, (3, model.document.segments.n_samples)).astype(np.float32)
    pcm = np.zeros((1, 12000, 2), np.float32)
    engines = [create_engine(model, device="cuda:2", max_batch=2) for _ in range(2)]
    for engine in engines:
        scores = engine.scores(waves)
        out = np.zeros((2, N_TAGS), np.float32)
        engine.scores(tensor(waves[:2], device=2), out=cupys(out))
        np.testing.assert_array_equal(out, scores[:2])
        engine.scores(pcm, sample_rate=48000)
        engine.features(waves)
        engine.blocks(np.zeros((1, *model.document.input_size()), np.float32))
        engine.stage_times(1, 1)
        assert engine.memory_bytes > 0
        del engine
    assert asked == [2, 2]  # CuPy answers for the thread's GPU
    engines.pop().close()
    thread = threading.Thread(target=engines.clear)
    thread.start()
    thread.join()
    gc.collect()
    assert [cuda_core.has_context(i) for i in range(3)] == [False, False, True]
    assert cuda_core.current_device() == 0


def test_kinds_of_pcm_change_without_waiting_for_the_gpu(model, rng, late, monkeypatch, streams):
    rates = (44100, 48000, 32000, 22050, 24000, 8000, 11025)
    pcm = [rng.uniform(-0.5, 0.5, (1, -(-4000 * rate // 16000))).astype(np.float32) for rate in rates]
    outs = [np.full((1, N_TAGS), np.nan, np.float32) for _ in rates]
    stream = streams.new()
    with CudaEngine(model, max_batch=1) as engine:
        expected = [engine.scores(clip, sample_rate=rate) for clip, rate in zip(pcm, rates, strict=True)]
        engine._resampling.clear()
        for clip, rate, out in zip(pcm, rates, outs, strict=True):
            engine.scores(Array(clip), out=Array(out), stream=stream, sample_rate=rate)
        assert len(engine._resampling) == 4
        assert all(np.isnan(out).all() for out in outs)  # nobody waited
        streams.synchronize(stream)
        np.testing.assert_array_equal(outs, expected)
        held = engine.memory_bytes
        engine.scores(pcm[0], sample_rate=rates[0])
        assert engine._retired == []
        assert engine.memory_bytes < held


def test_a_lack_of_memory_is_a_reason_to_wait(model, late, monkeypatch, streams):
    stream = streams.new()
    with CudaEngine(model, max_batch=1) as engine:
        for rate in (44100, 48000, 32000, 22050, 24000):
            clip = np.zeros((1, -(-4000 * rate // 16000)), np.float32)
            out = np.zeros((1, N_TAGS), np.float32)
            engine.scores(Array(clip), out=Array(out), stream=stream, sample_rate=rate)
        assert len(engine._retired) == 1
        made, make = [], engine._make_pcm_scorer

        def fail_at_first(*arguments):
            made.append(len(engine._retired))
            if len(made) == 1:
                raise DeviceError("cannot allocate 1 MB on the device: 0 MB are free")
            return make(*arguments)

        monkeypatch.setattr(engine, "_make_pcm_scorer", fail_at_first)
        clip, out = np.zeros((1, 2000), np.float32), np.full((1, N_TAGS), np.nan, np.float32)
        engine.scores(Array(clip), out=Array(out), stream=stream, sample_rate=8000)
        assert made == [2, 0]
        streams.synchronize(stream)
        assert np.isfinite(out).all()
