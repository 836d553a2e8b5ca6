"""The CUDA engine on the emulator against the float64 oracle: every precision, shapes of its own, device arrays."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import sys

import numpy as np
import pytest
from support.make_models import block, make_model
from test_engine import NETWORKS, relative_l2

from fcntag import Tagger, oracle
from fcntag.engine import create_engine, cuda_core
from fcntag.engine.cuda import CudaEngine, memory_needed
from fcntag.errors import DeviceError
from fcntag.validate import tolerances

# Relative L2 of a block's output from the network's input. float32: as the CPU's. The others round every map once, and
# each further block adds its inputs' roundings: half a unit in the last place, 2^-12 or 2^-9, a few times over.
BLOCK_TOLERANCE = {"float32": 3e-6, "tf32": 2e-3, "float16": 2e-3, "bfloat16": 1.6e-2}
# The tolerances of docs/numerics.md, for networks whose logits are of order 1.
SCORE_TOLERANCE = tolerances.SCORES
PRECISIONS = tuple(BLOCK_TOLERANCE)

pytestmark = pytest.mark.usefixtures("cuda_core")


class Elsewhere:
    """Host memory that claims to lie on a GPU, as the emulator's does: ``__cuda_array_interface__``."""

    def __init__(self, array: np.ndarray, stream: int | None = None, readonly: bool = False) -> None:
        self.array, self.stream, self.readonly = array, stream, readonly

    @property
    def __cuda_array_interface__(self):
        a = self.array
        return {
            "shape": a.shape,
            "typestr": a.dtype.str,
            "data": (a.ctypes.data, self.readonly),
            "strides": None if a.flags.c_contiguous else a.strides,
            "version": 3,
            "stream": self.stream,
        }


@pytest.fixture(params=NETWORKS)
def model(request, rng):
    return make_model(rng, **NETWORKS[request.param])


def small_model(rng, **options):
    return make_model(
        rng, [block(12, window=(2, 2)), block(20, window=(2, 4), activation="elu", affine=True)], **options
    )


def waves_for(model, rng, batch):
    return rng.uniform(-0.5, 0.5, (batch, model.document.segments.n_samples)).astype(np.float32)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_blocks_and_scores_match_the_oracle(model, rng, precision):
    x = rng.standard_normal((3, *model.document.input_size())).astype(np.float32)
    with CudaEngine(model, precision=precision, max_batch=4) as engine:
        ours, theirs = engine.blocks(x), oracle.blocks(model, x)
        assert [a.shape for a in ours] == [b.shape for b in theirs]
        errors = [relative_l2(a, b) for a, b in zip(ours, theirs, strict=True)]
        assert max(errors) <= BLOCK_TOLERANCE[precision], errors
        logits = oracle.logits(model, x)
        assert relative_l2(engine.logits(x), logits) <= 2 * BLOCK_TOLERANCE[precision]
        scale = max(1.0, float(np.abs(logits).max()))
        np.testing.assert_allclose(
            engine.scores_of(x), oracle.scores_of(model, x), atol=scale * SCORE_TOLERANCE[precision], rtol=0
        )


def test_tf32x3_is_as_exact_as_float32(model, rng):
    x = rng.standard_normal((1, *model.document.input_size())).astype(np.float32)
    with CudaEngine(model, algorithm="tf32x3", max_batch=1) as engine:
        errors = [relative_l2(a, b) for a, b in zip(engine.blocks(x), oracle.blocks(model, x), strict=True)]
    assert max(errors) <= BLOCK_TOLERANCE["float32"], errors


@pytest.mark.parametrize("which", ["head", "blocks"])
def test_features_match_the_oracle(model, rng, which):
    waves = waves_for(model, rng, 2)
    expected = oracle.features(model, oracle.network_input(model, waves), which)
    with CudaEngine(model, max_batch=2) as engine:
        ours = engine.features(waves, which)
    assert ours.shape == expected.shape
    assert relative_l2(ours, expected) <= BLOCK_TOLERANCE["float32"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_scores_from_waves(model, rng, precision):
    waves = waves_for(model, rng, 5)
    expected = oracle.scores(model, waves)
    with CudaEngine(model, precision=precision, max_batch=4) as engine:  # five: a batch of four and one of one
        scores = engine.scores(waves)
        scale = max(1.0, float(np.abs(oracle.logits(model, oracle.network_input(model, waves))).max()))
        np.testing.assert_allclose(scores, expected, atol=scale * SCORE_TOLERANCE[precision], rtol=0)
        # bit-equal alone, in any batch and position, with recorded graphs and without
        for i in (0, 4):
            np.testing.assert_array_equal(engine.scores(waves[i : i + 1])[0], scores[i])
        np.testing.assert_array_equal(engine.scores(waves[::-1].copy()), scores[::-1])
        engine.use_graphs(False)
        np.testing.assert_array_equal(engine.scores(waves), scores)


@pytest.mark.parametrize(
    ("window", "precision", "found"),
    [
        ((2, 4), "float32", (2, 4)),
        ((4, 1), "tf32", (4, 1)),
        ((2, 3), "float32", "general"),  # slower: no kernel is built for this window
        ((2, 3), "bfloat16", "any"),
    ],
)
def test_the_plan_says_whether_the_first_window_is_built(rng, window, precision, found):
    model = make_model(rng, [block(12, window=window), block(20, window=(2, 2))])
    with CudaEngine(model, precision=precision, max_batch=2) as engine:
        first, second = engine.describe_plan(2)
        assert first["code"] == found
        assert "code" not in second
        assert all(set(plan) >= {"rows", "channels", "threads", "split", "tile", "ctas"} for plan in (first, second))


def test_empty_batches(rng):
    model = small_model(rng)
    with CudaEngine(model, max_batch=2) as engine:
        assert engine.scores(waves_for(model, rng, 0)).shape == (0, 7)
        assert engine.scores_of(np.zeros((0, *model.document.input_size()), np.float32)).shape == (0, 7)
        out = np.full((0, 7), np.nan, np.float32)
        assert engine.scores(Elsewhere(waves_for(model, rng, 0)), out=Elsewhere(out)) is not None


def test_the_reduced_network_gives_the_same_scores(rng):
    model = small_model(rng)
    dead = {name: value.copy() for name, value in model.tensors.items()}
    dead["blocks.0.bias"][:5] = -1000.0  # ReLU holds these channels at zero
    dead["blocks.0.weight"][:5] *= 1e-3
    model = type(model)(document=model.document, tensors=dead, sha256=model.sha256, path=model.path)
    waves = waves_for(model, rng, 2)
    with CudaEngine(model, max_batch=2) as reduced, CudaEngine(model, max_batch=2, reduce=False) as whole:
        assert reduced.reduction is not None
        assert reduced.reduction.blocks[0].channels_after < 12
        np.testing.assert_allclose(reduced.scores(waves), whole.scores(waves), atol=1e-6, rtol=0)
        np.testing.assert_allclose(reduced.features(waves), whole.features(waves), atol=1e-5, rtol=1e-5)


# ---- devices, memory, processes ----


def test_who_computed_is_said(rng):
    model = small_model(rng)
    with Tagger(model, device="cuda:0", precision="float16", max_batch=2) as tagger:
        assert (tagger.device, tagger.precision) == ("emulated:0", "float16")
        result = tagger.tag(rng.uniform(-0.5, 0.5, 9000).astype(np.float32), sample_rate=16000)
        assert result.to_dict()["engine"]["device"] == "emulated:0"
        assert tagger.memory_bytes > 0


def test_devices_that_are_not_there(rng, monkeypatch):
    model = small_model(rng)
    with pytest.raises(DeviceError, match=r"device='cuda:7': this machine has 1 GPU"):
        create_engine(model, device="cuda:7")
    monkeypatch.setenv("FCNTAG_EMULATED_DEVICES", "0")
    assert cuda_core.unavailable()
    assert cuda_core.devices() == []
    with pytest.raises(DeviceError, match=r"device='cuda': .*; use device='cpu'"):
        create_engine(model, device="cuda")


def test_no_kernels_in_this_build(rng, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntag._cuda", None)
    monkeypatch.delattr("fcntag._cuda")
    with pytest.raises(DeviceError, match="no CUDA kernels"):
        create_engine(small_model(rng), device="cuda")


@pytest.mark.parametrize("precision", ["bfloat16", "tf32"])
def test_old_gpus_name_what_they_lack(rng, monkeypatch, precision):
    monkeypatch.setenv("FCNTAG_EMULATED_CAPABILITY", "7.5")
    monkeypatch.setenv("FCNTAG_EMULATED_SHARED_BYTES", "65536")
    model = small_model(rng)
    with pytest.raises(DeviceError, match=rf"precision='{precision}' needs .* 8\.0; emulated has 7\.5"):
        create_engine(model, device="cuda", precision=precision)
    x = rng.standard_normal((1, *model.document.input_size())).astype(np.float32)
    with create_engine(model, device="cuda", precision="float16", max_batch=1) as engine:
        np.testing.assert_allclose(engine.scores_of(x), oracle.scores_of(model, x), atol=5e-3, rtol=0)


def test_out_of_memory_is_one_clear_error(rng, monkeypatch):
    model = small_model(rng)
    with CudaEngine(model, max_batch=2) as engine:
        scores = engine.scores(waves_for(model, rng, 2))
        # Engines that other tests keep hold some of the emulated memory, too.
        monkeypatch.setenv("FCNTAG_EMULATED_MEMORY", str(1 << 40))
        used = (1 << 40) - cuda_core.core().free_memory(0)
        monkeypatch.setenv("FCNTAG_EMULATED_MEMORY", str(used + (1 << 20)))
        with pytest.raises(
            DeviceError, match=r"max_batch=4096 needs \d+ MB, \d+ MB of emulated are free; lower max_batch"
        ):
            CudaEngine(model, max_batch=4096)
        again = engine.scores(waves_for(model, np.random.default_rng(1), 2))
        assert scores.shape == again.shape


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("max_batch", [1, 64])
def test_memory_is_known_before_it_is_taken(models, precision, max_batch):
    model = models("mtt-vgg")
    needed = memory_needed(model, precision=precision, max_batch=max_batch)
    with CudaEngine(model, precision=precision, max_batch=max_batch) as engine:
        assert abs(engine.memory_bytes - needed) <= 0.01 * needed


def test_a_forked_child_is_told(rng):
    model = small_model(rng)
    with CudaEngine(model, max_batch=1) as engine:
        waves = waves_for(model, rng, 1)
        engine.scores(waves)
        pid = os.fork()
        if pid == 0:
            found = []
            for attempt in (lambda: engine.scores(waves), lambda: CudaEngine(model, max_batch=1)):
                try:
                    attempt()
                except DeviceError as error:
                    found.append("forked child" in str(error) and "spawn" in str(error))
            os._exit(0 if found == [True, True] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("leave", ["close", "with", "del"])
def test_a_forked_child_may_let_go_of_the_engine(leave, rng):
    """Also while a thread of the parent has the engine's lock."""
    model = small_model(rng)
    waves = waves_for(model, rng, 1)
    holder = {"tagger": Tagger(model, device="cuda", max_batch=1)}
    expected = holder["tagger"].scores(waves)
    with holder["tagger"]._engine._lock:  # in the child nobody will ever release it
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(100)
            code = 1
            try:
                with pytest.raises(DeviceError, match=r"forked child .* start workers with .*spawn"):
                    holder["tagger"].scores(waves)
                if leave == "close":
                    holder["tagger"].close()
                    holder["tagger"].close()
                elif leave == "with":
                    with holder["tagger"]:
                        pass
                holder.clear()
                gc.collect()
                code = 0
            finally:
                os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    np.testing.assert_array_equal(holder["tagger"].scores(waves), expected)
    holder["tagger"].close()


def test_a_device_travels_with_a_pickled_tagger(rng):
    model = small_model(rng)
    waves = waves_for(model, rng, 1)
    with Tagger(model, device="cuda:0", max_batch=1) as tagger, pickle.loads(pickle.dumps(tagger)) as other:
        assert other.device == tagger.device
        np.testing.assert_array_equal(other.scores(waves), tagger.scores(waves))
        with pytest.raises(TypeError, match=r"CudaEngine: .* cannot be pickled"):
            pickle.dumps(tagger._engine)


def test_bad_arguments_are_named(rng):
    model = small_model(rng)
    with pytest.raises(ValueError, match="max_batch=0"):
        CudaEngine(model, max_batch=0)
    with pytest.raises(ValueError, match="max_batch=5000; allowed on a GPU: 1 to 4096"):
        CudaEngine(model, max_batch=5000)
    with pytest.raises(ValueError, match="algorithm='tf32x3' goes with precision='float32'"):
        CudaEngine(model, precision="bfloat16", algorithm="tf32x3")
    engine = CudaEngine(model, max_batch=1)
    engine.close()
    engine.close()
    with pytest.raises(ValueError, match="closed"):
        engine.scores(waves_for(model, rng, 1))


def test_bad_shapes_of_segments_are_named(rng):
    """Python's tuple of five is a struct with names in C++, and its errors say the names."""
    model = small_model(rng)
    waves = waves_for(model, rng, 1)
    with CudaEngine(model, max_batch=1) as engine:
        n_samples, pad_left, n_frames, height, width = engine._shape(waves.shape[1])
        for shape, message in (
            ((n_samples, pad_left, n_frames), r"shape has 3 values; expected \(n_samples, pad_left, n_frames, height"),
            ((n_samples, 0.5, n_frames, height, width), "shape's pad_left is 0.5; expected an integer of 64 bits"),
            ((n_samples, pad_left, n_frames, 2**40, width), f"shape's height is {2**40}; expected an integer of 32"),
            ((n_samples, pad_left, n_frames + 1, height, width), f"n_frames={n_frames + 1}; planned for {n_frames}"),
        ):
            with pytest.raises(ValueError, match=message):
                engine._scorer.run(waves, shape)
        too_long = np.zeros((1, n_samples + 1), np.float32)
        with pytest.raises(ValueError, match=f"n_samples={n_samples + 1}; planned for {n_samples}"):
            engine._scorer.run(too_long, (n_samples + 1, pad_left, n_frames, height, width))


def test_measurements_have_the_shape_that_bench_expects(rng):
    model = small_model(rng)
    with CudaEngine(model, max_batch=2) as engine:
        stages = engine.stage_times(2, 3)
        assert list(stages) == ["h2d", "mel", "block 1", "block 2", "head"]
        assert all(len(seconds) == 3 and min(seconds) >= 0 for seconds in stages.values())
        assert len(engine.replay_times(1, 4, inputs=2, flush_bytes=1024)) == 4
        behind_a_spin = engine.stage_times(1, 2, spin_s=1e-4)
        assert list(behind_a_spin) == list(stages)
        assert all(len(seconds) == 2 and min(seconds) >= 0 for seconds in behind_a_spin.values())
        assert len(engine.replay_times(2, 3, inputs=2, spin_s=1e-4)) == 3
        for seconds in (-1e-6, 0.02, float("nan")):
            with pytest.raises(ValueError, match=r"allowed: 0 to 0\.01"):
                engine.replay_times(1, 1, spin_s=seconds)
        assert len(engine.end_to_end_times(2, 3)) == 3
        plans = engine.describe_plan(2)
        assert len(plans) == 2
        assert all(plan["ctas"] >= 1 for plan in plans)
    assert cuda_core.devices()[0]["name"] == "emulated"


@pytest.mark.parametrize("precision", [*PRECISIONS, "tf32x3"])
def test_the_arithmetic_of_a_slow_device_is_measured_too(cuda_core, precision):
    """The steps of a launch grow until it takes long enough: on the emulator a few do, on a GPU thousands."""
    assert 0 < cuda_core.arithmetic_tflops(precision, 0) < 1
