"""The GPU bench's ceilings and the driver's readings, without a GPU: stand-ins for nvidia-smi and PyTorch."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_bench_cuda_peers import FakeCuda

from fcntag.bench.cuda import clocks, gpu

# ---- ceilings ----


def test_the_vendors_peak_is_that_of_the_sampled_clock() -> None:
    """H100 SXM's datasheet: 989 TFLOP/s in bfloat16, half of it in tf32, 67 in float32, at its two boost clocks."""
    h100 = {"capability": (9, 0), "multiprocessors": 132}
    found = gpu.datasheet(h100, 1830.0)
    assert found["sampled_sm_mhz"] == 1830.0
    assert found["datasheet_tflops_bfloat16"] == pytest.approx(989.4, rel=1e-3)
    assert found["datasheet_tflops_tf32"] == pytest.approx(494.7, rel=1e-3)
    assert gpu.datasheet(h100, 1980.0)["datasheet_tflops_float32"] == pytest.approx(66.9, rel=1e-3)
    a100 = gpu.datasheet({"capability": (8, 0), "multiprocessors": 108}, 1410.0)
    assert (round(a100["datasheet_tflops_float16"]), round(a100["datasheet_tflops_float32"], 1)) == (312, 19.5)
    assert gpu.datasheet({"capability": (8, 9), "multiprocessors": 128}, 2520.0) == {}


def test_the_librarys_product_is_timed_by_events(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(gpu, "_LIBRARY_SIZE", 64)
    made, real = [], torch.randn
    monkeypatch.setattr(torch, "randn", lambda *size, device: made.append(device) or real(*size))
    fake = FakeCuda()
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(set_device=fake.log.append, Event=fake.Event))
    assert gpu.library_ceilings(1) == {"library_tflops_bfloat16": 2.0 * 64**3 * 1e-12}  # the stand-in's second
    assert made == ["cuda:1", "cuda:1"]
    assert fake.log[0] == 1


# ---- the driver's tool ----


def fake_smi(folder: Path, text: str) -> None:
    script = folder / "nvidia-smi"
    script.write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls\n{text}\n')
    script.chmod(0o755)


def test_clocks_are_read_and_nothing_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = ["X 100", "580.1", "1980 MHz", "2619 MHz", "40", "80000 MiB", "1980 MHz", "[N/A]"]
    values += ["[Not Supported]"] * (len(gpu._BASIC + gpu._MORE) - len(values))
    fake_smi(tmp_path, f'echo "{", ".join(values)}"')
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    state = gpu.state(1)
    assert state["clocks.sm"] == "1980 MHz"
    assert "clocks.max.mem" not in state
    calls = (tmp_path / "calls").read_text().split()
    assert calls[-2:] == ["-i", "5"]
    assert all(word.startswith(("--query-gpu=", "--format=", "-i")) for word in calls[:-1])


def test_an_old_driver_gives_what_it_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_smi(tmp_path, 'case "$1" in *compute_mode*) exit 2;; *) echo "X, 470, 1 MHz, 2 MHz, 30, 100 MiB";; esac')
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert gpu.state()["driver_version"] == "470"
    fake_smi(tmp_path, "exit 9")
    assert gpu.state() == {}


def test_clocks_are_sampled_while_something_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_smi(tmp_path, "echo 1980; echo '[N/A]'; echo 1755; echo 1770; echo $$ > pid; exec sleep 60")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    start = time.monotonic()
    with clocks.ClockSampler(2) as sampler:
        while len(sampler._readings) < 3:  # the reader is a thread
            assert time.monotonic() < start + 60
            time.sleep(0.01)
        found = sampler.between(start, time.monotonic())
    assert found == {"sm_mhz": 1770.0, "least": 1755.0, "greatest": 1980.0, "readings": 3}
    assert sampler.between(0.0, start) == {}
    arguments = (tmp_path / "calls").read_text().split()
    assert arguments[-3:-1] == ["-i", "2"]
    assert all(word.startswith(("--query-gpu=", "--format=", "-i", "--loop-ms=", "2")) for word in arguments)
    assert sampler._process is not None
    assert sampler._process.returncode is not None  # it does not outlive the block
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with clocks.ClockSampler() as sampler:
        assert sampler.between(0.0, time.monotonic()) == {}
