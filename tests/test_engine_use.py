"""An engine from the outside: its arguments, callers, threads and memory, whatever network it computes."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest
from support.make_models import make_model
from test_engine import NETWORKS

from fcntag import _C
from fcntag.engine import create_engine
from fcntag.errors import DeviceError


@pytest.fixture(params=NETWORKS)
def model(request, rng):
    return make_model(rng, **NETWORKS[request.param])


def test_concurrent_callers_get_their_own_results(rng):
    model = make_model(rng, **NETWORKS["overlap"])
    waves = rng.standard_normal((8, model.document.segments.n_samples)).astype(np.float32)
    with create_engine(model, threads=2) as engine:
        expected = [engine.scores(w[None]) for w in waves]
        wrong: list[int] = []

        def caller(i: int) -> None:
            wrong.extend(i for _ in range(20) if not np.array_equal(engine.scores(waves[i][None]), expected[i]))

        threads = [threading.Thread(target=caller, args=(i,)) for i in range(len(waves))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_threads_stay_free_to_move(rng):
    """A worker that slept is woken away from its caller's core; afterwards it may run wherever the process may."""
    model = make_model(rng, **NETWORKS["winograd"])
    x = rng.standard_normal((8, *model.document.input_size())).astype(np.float32)
    with create_engine(model, threads=3) as engine:
        for _ in range(20):
            time.sleep(0.005)
            engine.scores_of(x)
        deadline = time.monotonic() + 10
        allowed = set()
        while allowed != {frozenset(os.sched_getaffinity(0))} and time.monotonic() < deadline:
            time.sleep(0.05)
            allowed = {frozenset(os.sched_getaffinity(int(task))) for task in os.listdir("/proc/self/task")}
    assert allowed == {frozenset(os.sched_getaffinity(0))}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_engine_survives_fork(rng):
    """The child has no worker threads; the loop must not wait for them."""
    model = make_model(rng, **NETWORKS["odd"])
    waves = rng.standard_normal((3, model.document.segments.n_samples)).astype(np.float32)
    with create_engine(model, threads=3) as engine:
        expected = engine.scores(waves)
        pid = os.fork()
        if pid == 0:
            os._exit(0 if np.array_equal(engine.scores(waves), expected) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_bad_arguments_are_named(model):
    with pytest.raises(ValueError, match=r"device='gpu'; allowed: auto, cpu, cuda"):
        create_engine(model, device="gpu")
    with pytest.raises(DeviceError, match=r"cuda.*(no CUDA kernels|device='cpu'|GPU\(s\))|no CUDA kernels"):
        create_engine(model, device="cuda:99")
    with pytest.raises(DeviceError, match=r"tf32.*built: float32, bfloat16"):
        create_engine(model, precision="tf32")
    with pytest.raises(ValueError, match=r"precision='int8'"):
        create_engine(model, precision="int8")
    with pytest.raises(ValueError, match=r"max_batch=0"):
        create_engine(model, max_batch=0)
    with pytest.raises(ValueError, match=r"threads=-1"):
        create_engine(model, threads=-1)
    with create_engine(model) as engine:
        with pytest.raises(ValueError, match=r"waves: float32 \[4000\]; expected float32 \[B, n_samples\]"):
            engine.scores(np.zeros(4000, np.float32))
        with pytest.raises(ValueError, match=r"waves: n_samples=100; random takes"):
            engine.scores(np.zeros((1, 100), np.float32))
        with pytest.raises(ValueError, match=r"x has shape"):
            engine.scores_of(np.zeros((1, 1, 2, 2), np.float32))
    with pytest.raises(ValueError, match="closed"):
        engine.scores(np.zeros((1, model.document.segments.n_samples), np.float32))


def test_thread_count_from_the_environment(monkeypatch, model):
    monkeypatch.setenv("FCNTAG_NUM_THREADS", "3")
    assert create_engine(model).threads == 3
    monkeypatch.setenv("FCNTAG_NUM_THREADS", "many")
    with pytest.raises(ValueError, match="FCNTAG_NUM_THREADS='many'"):
        create_engine(model)


def test_unknown_isa_names_what_is_available(monkeypatch, model):
    monkeypatch.setenv("FCNTAG_FORCE_ISA", "sse9")
    with pytest.raises(ValueError, match=r"FCNTAG_FORCE_ISA='sse9'.*available: generic"):
        create_engine(model)


def test_bfloat16_refused_where_the_cpu_has_none(monkeypatch, model):
    monkeypatch.setenv("FCNTAG_FORCE_ISA", "generic")
    with pytest.raises(DeviceError, match="AVX512_BF16; instruction set here: generic"):
        create_engine(model, precision="bfloat16")


def test_block_times_cover_every_block(model, rng):
    x = rng.standard_normal((3, *model.document.input_size())).astype(np.float32)
    with create_engine(model, max_batch=2) as engine:
        times = engine.block_times(x)
    assert len(times) == len(model.document.blocks) + 1
    assert min(times) >= 0
    assert sum(times) > 0


def test_ceilings_are_measured():
    assert _C.fma_peak(1) > 0.1
    assert _C.copy_bandwidth(1) > 0.01


def test_memory_is_flat(model, rng):
    waves = rng.standard_normal((4, model.document.segments.n_samples)).astype(np.float32)
    with create_engine(model) as engine:
        engine.scores(waves)
        planned = engine.memory_bytes
        for _ in range(50):
            engine.scores(waves)
        assert engine.memory_bytes == planned
