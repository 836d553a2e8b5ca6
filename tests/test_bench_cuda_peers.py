"""The peers of the GPU bench without a GPU: on the CPU against the oracle, with stand-ins for what only a GPU has."""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.make_models import block
from test_bench_cuda import small_model, waves_of

from fcntag import oracle
from fcntag.bench.cuda import frontends, peers
from fcntag.bench.variants import original_variant
from fcntag.model.document import Log

FRONTENDS = {
    "centre, floor below the maximum": dict(log=Log(kind="db", amin=1e-10, ref="max", top_db=30.0)),
    "log10p1 of float16, valid": dict(
        framing="valid",
        rounding="float16",
        log=Log(kind="log10p1", gain=1e4),
        layout="time_mel",
        normalization="scalar",
    ),
    "zeros, HTK, squared": dict(pad_mode="constant", mel_scale="htk", mel_norm="none", power_exponent=2),
    "Theano": dict(framing="same_theano", window="hann_reversed", pad_mode="constant", normalization="per_mel"),
    "TensorFlow": dict(framing="same_tensorflow", pad_mode="constant", normalization="per_frame"),
    "standardised": dict(normalization="standardize", log=Log(kind="db", amin=1e-7, top_db=60.0)),
    "400 points, magnitudes, ln": dict(
        n_fft=400, win_length=320, hop_length=160, spectrum="magnitude", log=Log(kind="ln", amin=1e-5)
    ),
    "an odd length, log10": dict(n_fft=441, window="hamming", mel_norm="sum", log=Log(kind="log10", offset=1e-3)),
    "VGGish, log1p": dict(
        framing="valid",
        win_length=400,
        win_position="start",
        spectrum="magnitude",
        mel_scale="tensorflow",
        mel_norm="none",
        log=Log(kind="log1p", gain=100.0),
        layout="time_mel",
    ),
    "TensorFlow's end, each band by itself": dict(
        n_fft=600, framing="pad_end", window="hann_symmetric", normalization="standardize_per_mel"
    ),
    "no logarithm, gaps between frames": dict(n_fft=100, n_mels=10, hop_length=150, log=Log(kind="none")),
}
# No such padding, window, or mel matrix there.
NOT_IN_TORCHAUDIO = (
    "Theano",
    "TensorFlow",
    "an odd length, log10",
    "VGGish, log1p",
    "TensorFlow's end, each band by itself",
)


def importable(library: str) -> bool:
    try:
        importlib.import_module(library)
    except (ImportError, OSError):  # torchaudio's wheels load CUDA libraries: beside a CPU-only PyTorch they cannot
        return False
    return True


# JAX starts threads, and other tests of this process fork: its cases run in a process of their own, by the test below.
WITH_JAX = ["jax"] if os.environ.get("FCNTAG_TEST_JAX") else []
# PyTorch comes with the test extra, as does JAX; torchaudio's cases exist where it can be imported.
LIBRARIES = ["torch", *WITH_JAX, *(["torchaudio"] if importable("torchaudio") else [])]


@pytest.mark.parametrize("kind", FRONTENDS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_front_ends_are_the_documents(kind: str, library: str, rng: np.random.Generator) -> None:
    """Against the oracle, in float32: what they are compared with must be the same thing."""
    model = small_model(rng, **FRONTENDS[kind])
    waves = waves_of(model, rng, 3)
    height, width = (n - 1 for n in model.document.input_size())  # cut, as a reduced network reads it
    expected = oracle.network_input(model, waves)[:, :height, :width]
    if library == "jax":
        ours = np.asarray(frontends.jax_frontend(model, height, width)(waves))
    else:
        import torch

        if library == "torchaudio" and kind in NOT_IN_TORCHAUDIO:
            with pytest.raises(ValueError, match="torchaudio has no"):
                frontends.TorchaudioFrontend(model, height, width, "cpu")
            return
        kinds = {"torch": frontends.TorchFrontend, "torchaudio": frontends.TorchaudioFrontend}
        ours = kinds[library](model, height, width, "cpu")(torch.from_numpy(waves)).numpy()
    assert ours.shape == expected.shape
    assert np.linalg.norm(ours - expected) <= 1e-4 * np.linalg.norm(expected)  # a float16 may round the other way


@pytest.mark.parametrize("name", ["torch", *WITH_JAX])
@pytest.mark.parametrize("flatten", ["chw", "hwc", "max", "mean"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_peers_compute_the_models_scores(name: str, flatten: Any, precision: str, rng: np.random.Generator) -> None:
    blocks = [block(6, activation="elu", affine=True, window=(2, 3)), block(8, kernel=1), block(5, window=(3, 2))]
    hidden = [(9, "elu"), (7, "none"), (5, "relu")] if flatten == "mean" else []
    model = small_model(rng, blocks=blocks, flatten=flatten, hidden=hidden)
    waves = waves_of(model, rng, 3)
    peer = peers.make(name, original_variant(model), precision, 3, "cpu")
    tolerance = 1e-5 if precision == "float32" else 0.05  # 8 bits; float32 rounding, for scores between 0 and 1
    assert np.abs(peer.output(waves) - oracle.scores(model, waves)).max() < tolerance
    for stage in peer.stages:
        assert len(peer.times(stage, 2)) == 2
    peer.close()


def test_jax_in_a_process_of_its_own() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-k", "jax and not own", __file__]
    variables = {**os.environ, "FCNTAG_TEST_JAX": "1", "PYTEST_ADDOPTS": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout or "[100%]" in done.stdout


def test_torchs_settings_are_put_back() -> None:
    import torch

    before = torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32
    with contextlib.suppress(KeyboardInterrupt), peers.torch_settings("tf32"):
        assert (torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32) == (True, True)
        raise KeyboardInterrupt
    with peers.torch_settings("float32"):
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
    assert (torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32) == before


# ---- graphs and times ----


class FakeCuda:
    """The part of torch.cuda that ``record`` and ``event_times`` use; a clock that each event advances by a second."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.clock = 0
        self.CUDAGraph = object

    def Stream(self) -> Any:
        return SimpleNamespace(wait_stream=lambda other: self.log.append("side waits"))

    def current_stream(self) -> Any:
        return SimpleNamespace(wait_stream=lambda other: self.log.append("main waits"))

    @contextlib.contextmanager
    def stream(self, stream: Any) -> Any:
        self.log.append("side")
        yield
        self.log.append("end of side")

    def synchronize(self) -> None:
        self.log.append("synchronize")

    @contextlib.contextmanager
    def graph(self, graph: Any, pool: Any) -> Any:
        self.log.append(f"record in {pool}")
        yield
        self.log.append("end of record")

    def _sleep(self, cycles: int) -> None:
        self.log.append(f"sleep {cycles}")

    def Event(self, enable_timing: bool) -> Any:
        assert enable_timing
        event = SimpleNamespace(at=0, synchronize=lambda: self.log.append("wait"))

        def record() -> None:
            self.clock += 1
            event.at = self.clock

        event.record = record
        event.elapsed_time = lambda end: 1000.0 * (end.at - event.at)
        return event


def test_graphs_are_recorded_after_a_warm_up_on_a_side_stream() -> None:
    fake = FakeCuda()
    _, result = peers.record(fake, lambda: fake.log.append("call") or "result", "pool")
    calls = ["call"] * peers.WARM_UP
    side = ["side waits", "side", *calls, "end of side", "main waits", "synchronize"]
    assert fake.log == [*side, "record in pool", "call", "end of record"]
    assert result == "result"


def test_events_time_every_call_from_an_idle_gpu_and_inputs_rotate() -> None:
    fake = FakeCuda()
    used: list[int] = []
    assert peers.event_times(fake, used.append, 3, 4) == [1.0] * 4
    assert used[-4:] == [0, 1, 2, 0]
    assert set(used[:-4]) == {0, 1, 2}  # every input was seen before the clock ran
    assert fake.log == ["wait"] * len(used)
    fake.log.clear()
    assert peers.event_times(fake, used.append, 1, 2, 777) == [1.0] * 2
    assert fake.log == ["sleep 777", "wait"] * (peers.WARM_UP + 1 + 2)  # in front of the first event


def test_real_torch_has_what_the_stand_in_stands_for() -> None:
    import torch

    for name in ("Stream", "current_stream", "stream", "synchronize", "graph", "Event", "CUDAGraph"):
        assert hasattr(torch.cuda, name), name
    for name in ("graph_pool_handle", "empty_cache", "set_device", "_sleep"):
        assert hasattr(torch.cuda, name), name


@pytest.mark.parametrize(("batch", "expected"), [(1, 8), (8, 8), (64, 3), (256, 2)])
def test_inputs_are_beyond_the_caches(batch: int, expected: int) -> None:
    assert peers.n_inputs(batch, 349_440) == expected
