"""The GPU bench without a GPU: whole runs on the emulator, and what goes into their report."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.make_models import block, make_model

from fcntag import cli, oracle
from fcntag.bench import shared
from fcntag.bench.cuda import clocks, gpu, group, peers, text, work
from fcntag.bench.cuda import measure as bench
from fcntag.bench.peers import PeerEntry
from fcntag.bench.report import Report, Row
from fcntag.bench.timing import ProcessRun
from fcntag.bench.variants import Variant, original_variant, reduced_variant
from fcntag.engine import cuda_core
from fcntag.engine.cuda import CudaEngine
from fcntag.model.file import Model, read_model, write_model


def small_model(rng: np.random.Generator, **options: Any) -> Model:
    options.setdefault("blocks", [block(9, window=(2, 2)), block(8, activation="elu", affine=True, window=(4, 4))])
    return make_model(rng, options.pop("blocks"), n_samples=8000, **options)


def waves_of(model: Model, rng: np.random.Generator, batch: int) -> np.ndarray:
    return rng.uniform(-0.5, 0.5, (batch, model.document.segments.n_samples)).astype(np.float32)


# ---- work and ceilings ----


def test_the_stages_are_the_network(rng: np.random.Generator) -> None:
    model = small_model(rng)
    for variant in (original_variant(model), reduced_variant(model)):
        stages = [*(f"block {i + 1}" for i in range(len(model.document.blocks))), "head"]
        assert sum(work.flop(variant, stage, 3) for stage in stages) == work.flop(variant, "network", 3)
        assert work.flop(variant, "scores", 3) == 6.0 * variant.multiply_adds
        assert work.flop(variant, "h2d", 3) == 0
    waves = 4 * 3 * 8000
    assert work.bytes_moved(original_variant(model), "h2d", 3, "bfloat16") == waves
    height, width = model.document.input_size()
    assert work.bytes_moved(original_variant(model), "mel", 3, "bfloat16") == waves + 4 * 3 * height * width
    # maps and weights in two bytes, the log-mel in four: 9 channels of (h/2, w/2), 9 filters of 9 taps
    first = 2 * 9 * 9 + 4 * 3 * height * width + 2 * 3 * 9 * (height // 2) * (width // 2)
    assert work.bytes_moved(original_variant(model), "block 1", 3, "bfloat16") == first


def test_ceilings_are_of_the_unit_that_multiplies() -> None:
    report = Report({}, {}, dict(copy_gbytes=1.0, tflops_float32=50.0, tflops_float16=600.0, tflops_bfloat16=700.0))
    row = Row("net", "block 2", "fcntag", 1, (1.0,), precision="bfloat16")
    assert work.peak_tflops(report, row) == 700.0
    for stage in ("mel", "head"):
        assert work.peak_tflops(report, dataclasses.replace(row, stage=stage)) == 50.0
    first = dataclasses.replace(row, stage="block 1")
    assert work.peak_tflops(report, first) == 600.0
    assert work.peak_tflops(report, dataclasses.replace(first, precision="tf32")) == 50.0
    assert work.peak_tflops(report, dataclasses.replace(row, precision="tf32")) == 0.0


# ---- turns ----


class Clock:
    """A contender whose times are 1, 2, 3 ... and whose calls are logged."""

    stages = peers.STAGES

    def __init__(self, name: str, log: list[tuple[str, int]], fail_after: int = 99) -> None:
        self.name, self.log, self.left = name, log, fail_after

    def times(self, stage: str, repeats: int) -> list[float]:
        self.left -= 1
        if self.left < 0:
            raise MemoryError(f"{self.name} is out of memory")
        self.log.append((self.name, repeats))
        return [float(k + 1) for k in range(repeats)]


def test_contenders_take_turns() -> None:
    log: list[tuple[str, int]] = []
    pair = {("a", ""): Clock("a", log), ("b", ""): Clock("b", log)}
    rounds = group.alternate(pair, "scores", lambda once: 20, lambda key, error: pytest.fail(str(error)))
    assert log[:2] == [("a", 3), ("b", 3)]  # to see how long they take
    assert "".join(name for name, _ in log[2:]) == "abbaabba"
    assert {key: [len(part) for part in parts] for key, parts in rounds.items()} == {
        ("a", ""): [5] * 4,
        ("b", ""): [5] * 4,
    }


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_peer_that_fails_leaves_and_the_rest_goes_on(after: int) -> None:
    failed: list[str] = []
    pair = {("a", ""): Clock("a", []), ("b", ""): Clock("b", [], fail_after=after)}
    rounds = group.alternate(pair, "scores", lambda once: 8, lambda key, error: failed.append(str(error)))
    assert list(rounds) == [("a", "")]
    assert failed == ["b is out of memory"]


def test_our_own_failure_is_raised() -> None:
    with pytest.raises(MemoryError):
        group.alternate({("a", ""): Clock("a", [], 0)}, "scores", lambda once: 8, lambda key, error: None)


# ---- whole runs, on the emulator ----


class Echo:
    """A peer that computes the right thing: the oracle."""

    stages: tuple[str, ...] = ("network", "scores", "end to end")
    error = 0.0

    def __init__(self, variant: Variant, precision: str, batch: int, device: str) -> None:
        assert device == "cpu"
        self.variant, self.closed = variant, False

    def output(self, waves: np.ndarray) -> np.ndarray:
        return oracle.scores(self.variant.original, waves) + self.error

    def times(self, stage: str, repeats: int) -> list[float]:
        assert stage in self.stages
        return [0.5] * repeats

    def close(self) -> None:
        self.closed = True


class Liar(Echo):
    error = 0.2


class Broken(Echo):
    error = float("nan")


class MelEcho(Echo):
    stages = ("mel",)

    def output(self, waves: np.ndarray) -> np.ndarray:
        return oracle.network_input(self.variant.original, waves)[:, : self.variant.height, : self.variant.width]


@pytest.fixture
def settings(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, cuda_core: Any
) -> bench.Settings:
    """A small model in a file, of which a third can be reduced away; peers of the test's own; no new processes."""
    model = small_model(rng)
    model.tensors["blocks.0.bias"][3:6] = -1e9  # three channels that a ReLU holds at 0
    write_model(tmp_path / "small.safetensors", model.document, model.tensors)
    monkeypatch.setattr(shared, "run_process", lambda command, environment: ProcessRun(0.5, 0.5, 50_000_000))
    ceilings = {"copy_gb_s": 1000.0, "matrix_tflop_s": {"float32": 50.0, "bfloat16": 700.0}}
    monkeypatch.setattr(bench.gpu, "ceilings", lambda index: ceilings)
    # The emulator has no cache to clear or to outgrow, and is slow.
    monkeypatch.setattr(bench, "COLD_CACHE_BYTES", 1 << 20)
    monkeypatch.setattr(peers, "_ROTATED_BYTES", 1)
    for name, peer in {"echo": Echo, "liar": Liar, "broken": Broken, "mel": MelEcho, "ghost": Echo}.items():
        needs = ("no_such_module",) if name == "ghost" else ("numpy",)
        monkeypatch.setitem(peers.PEERS, name, PeerEntry(needs, peer))
    monkeypatch.setattr(peers, "FRONT_ENDS", ("mel",))
    return bench.Settings(
        models=(str(tmp_path / "small.safetensors"),),
        batches=(1, 3),
        precisions=("float32", "bfloat16"),
        repeats=12,
        seconds=0.05,
    )


def test_a_whole_run(settings: bench.Settings) -> None:
    saved: list[int] = []
    settings = dataclasses.replace(settings, peers=("ghost", "liar", "echo", "mel", "broken"), peers_reduced=True)
    report = bench.measure(settings, lambda _: None, lambda report: saved.append(len(report.rows)))
    assert saved == sorted(saved)
    assert saved[-1] == len(report.rows)
    (name,) = report.models
    info = report.models[name]
    assert info["float32_difference"] < 1e-6
    assert info["checked_against"] == "the float64 oracle"
    assert set(info["memory_bytes"]) == {"float32", "bfloat16"}
    parts = ["h2d", "mel", "block 1", "block 2", "head"]
    stages = [*parts, "network", "scores", "end to end", "scores, cold cache"]
    stages += [f"{stage}, device time" for stage in [*parts, "scores"]]
    for precision in settings.precisions:
        for batch in settings.batches:
            for stage in stages:
                (row,) = report.find(engine="fcntag", precision=precision, batch=batch, stage=stage)
                assert row.variant == "reduced"
                assert len(row.samples_s) >= 12
                assert min(row.samples_s) > 0
        for stage in ("load", "first"):
            assert len(report.find(stage=stage, precision=precision, batch=0)) == 1
    assert [row.precision for row in report.find(stage="cold")] == ["float32"]
    # the peers: on both networks, but for the front end; the wrong and the missing are named
    echoes = report.find(engine="echo", stage="scores", precision="bfloat16", batch=3)
    assert [row.variant for row in echoes] == ["original", "reduced"]
    assert echoes[1].flop < echoes[0].flop
    for row in echoes:
        (ours,) = report.find(engine="fcntag", stage="scores", precision="bfloat16", batch=3)
        assert row.ratio == pytest.approx(0.5 / ours.median_s, rel=0.5)
        assert 0 < row.max_score_difference < 0.01
    assert [row.variant for row in report.find(engine="mel", batch=1, precision="float32")] == ["original"]
    assert not report.find(engine="liar") + report.find(engine="broken") + report.find(engine="ghost")
    assert report.peers["ghost"] == "not installed"
    assert len([line for line in report.refused if line.startswith("liar on ")]) == 8
    assert any("its results differ by 2.0e-01, more than 1e-04" in line for line in report.refused)
    assert any("nan" in line for line in report.refused)
    for stage in ("block 2", "scores"):  # device time is the same work
        behind, idle = (report.find(engine="fcntag", stage=name)[0] for name in (f"{stage}, device time", stage))
        assert (behind.flop, behind.bytes) == (idle.flop, idle.bytes)
        assert work.peak_tflops(report, behind) == work.peak_tflops(report, idle)
    # to JSON and back, and to people
    again = Report.from_json(report.to_json())
    assert again.rows == report.rows
    assert json.loads(report.to_json())["bottlenecks"][name].startswith(f"{name}: ")
    printed = list(text.lines(report))
    assert "ghost: not installed" in "\n".join(printed)
    assert printed[-1] == report.bottleneck(name)
    assert "of a window in float32, batch 3" in printed[-1]
    assert len([line for line in printed if line.startswith("  echo ")]) == 3 * 2 * 2 * 2
    from fcntag.bench.compare import compare

    assert not compare(report, again).regressions


def test_without_peers_and_unreduced(settings: bench.Settings) -> None:
    report = bench.measure(dataclasses.replace(settings, reduce=False, batches=(2,), cold=False), lambda _: None)
    assert not report.refused
    assert {row.variant for row in report.rows if row.batch} == {"original"}
    assert not report.find(stage="cold")
    assert len(report.find(stage="scores")) == 2


def test_stages_are_timed_once_and_not_for_a_run_beside_peers(settings: bench.Settings) -> None:
    settings = dataclasses.replace(settings, peers=("echo",), batches=(3, 1), precisions=("float32",), alone=False)
    report = bench.measure(settings, lambda _: None)
    assert not report.refused
    assert {row.stage for row in report.rows if row.engine == "fcntag"} == {
        *("network", "scores", "scores, device time", "end to end")
    }
    assert len(report.find(engine="echo", stage="scores")) == 2


def test_slow_peers_take_the_first_batch_of_all_models_first(
    settings: bench.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a round beside no peer, which timed everything once more, is none."""
    monkeypatch.setitem(peers.PEERS, "torch-compile", PeerEntry(("numpy",), Echo))
    said: list[str] = []
    settings = dataclasses.replace(settings, peers=("torch-compile",), batches=(3, 1), alone=False)
    bench.measure(settings, said.append)
    groups = [text.partition(", ")[2] for text in said if ": beside" in text]
    assert groups == [
        f"{precision}, batch {batch}: beside torch-compile" for batch in (3, 1) for precision in ("float32", "bfloat16")
    ]


def test_scores_that_somebody_keeps_are_compared_with(settings: bench.Settings) -> None:
    settings = dataclasses.replace(settings, alone=False, precisions=("float32",), batches=(1,))
    (name,) = settings.models
    model = read_model(name)
    known = oracle.scores(model, group.random_clips(model)[:1])
    report = bench.measure(settings, lambda _: None, known={name: known})
    assert report.models[name]["checked_against"] == "the float64 oracle's stored scores"
    assert report.find(stage="scores")
    report = bench.measure(settings, lambda _: None, known={name: known + 1e-3})
    assert not report.rows
    assert "float32 scores differ from the float64 oracle's stored scores by 1.0e-03" in report.refused[0]


def test_ceilings_are_named_for_what_they_are(settings: bench.Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peers.PEERS, "echo", PeerEntry(("torch",), Echo))
    monkeypatch.setattr(gpu, "library_ceilings", lambda index: {"library_tflops_bfloat16": 790.0})
    reading = {"sm_mhz": 1755.0, "least": 1740.0, "greatest": 1980.0, "readings": 5}
    monkeypatch.setattr(clocks.ClockSampler, "between", lambda self, start, end: reading)
    settings = dataclasses.replace(settings, alone=False, precisions=("bfloat16",), batches=(1,), peers=("echo",))
    report = bench.measure(settings, lambda _: None)
    windows = report.environment["clock_windows"]
    assert [window["sm_mhz"] for window in windows] == [1755.0]
    assert windows[0]["when"].endswith("bfloat16, batch 1: beside echo")
    printed = "\n".join(text.lines(report))
    assert "ceiling of the library's large product: bfloat16 790 TFLOP/s" in printed
    assert "TFLOP/s of mma.sync (float32: fma) float32 50.0, bfloat16 700.0" in printed
    capability = report.environment["gpu_info"]["capability"]
    assert ("datasheet's peak at the sampled 1755 MHz" in printed) == (capability in gpu._DATASHEET)


def test_a_wrong_engine_is_not_timed(settings: bench.Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fast and wrong is worth nothing, in any precision."""
    correct = CudaEngine.scores

    def wrong(self: Any, waves: Any, **options: Any) -> Any:
        return correct(self, waves, **options) + np.float32(0.1 if self.precision == "bfloat16" else 0.0)

    monkeypatch.setattr(CudaEngine, "scores", wrong)
    report = bench.measure(settings, lambda _: None)
    assert [row.precision for row in report.find(stage="scores", batch=1)] == ["float32"]
    assert any("bfloat16: not timed: scores differ from float32's by 1.0e-01" in line for line in report.refused)
    monkeypatch.setattr(CudaEngine, "scores", lambda self, waves: np.full((len(waves), 7), np.nan, np.float32))
    report = bench.measure(settings, lambda _: None)
    assert not report.rows
    assert "float32 scores differ from the float64 oracle by nan" in report.refused[0]


def test_time_that_is_up_is_told(settings: bench.Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peers.PEERS, "torch-compile", PeerEntry(("numpy",), Echo))
    report = bench.measure(
        dataclasses.replace(settings, peers=("echo", "torch-compile"), minutes=0.9, batches=(1,)), lambda _: None
    )
    assert report.find(engine="echo")
    assert not report.find(engine="torch-compile")  # would have begun within a minute of the end
    assert [w for w in report.warnings if "no time left" in w and "torch-compile" in w]
    report = bench.measure(dataclasses.replace(settings, minutes=1e-9), lambda _: None)
    assert not report.rows
    assert len(report.warnings) == 2


def test_memory_that_does_not_suffice_costs_the_largest_batch_only(
    settings: bench.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 4 clips take 0.2 MB, 2000 more than 50; engines that other tests keep are there, too
    used = (16 << 30) - cuda_core.core().free_memory(0)
    monkeypatch.setenv("FCNTAG_EMULATED_MEMORY", str(used + (8 << 20)))
    report = bench.measure(dataclasses.replace(settings, batches=(1, 2000), precisions=("float32",)), lambda _: None)
    assert {row.batch for row in report.rows} == {0, 1}
    assert any("no memory for batch 2000" in warning for warning in report.warnings)
    assert not report.refused


def test_peers_are_made_as_many_at_once_as_fit(settings: bench.Settings, rng: np.random.Generator) -> None:
    model = small_model(rng)
    one = work.peer_bytes(original_variant(model), 64, "float32")
    assert one == 2 * work.peer_bytes(original_variant(model), 64, "bfloat16")
    maker = bench._CudaBench(settings, lambda _: None, lambda _: None, {})
    maker.report.environment["gpu_info"]["memory_bytes"] = 2.1 * one / 0.6
    assert maker.that_fit(["a", "b", "c"], original_variant(model), 64, "float32") == [["a", "b"], ["c"]]
    assert maker.that_fit(["a", "b"], original_variant(model), 6400, "float32") == [["a"], ["b"]]
    assert maker.that_fit([], original_variant(model), 1, "float32") == [[]]


# ---- the command ----


def test_options() -> None:
    parse = cli.build_parser().parse_args
    arguments = parse(["bench", "--precision", "tf32, bfloat16", "--peers", "torch-graph,jax", "--minutes", "2"])
    assert (arguments.precision, arguments.peers) == (("tf32", "bfloat16"), ("torch-graph", "jax"))
    for bad in (["--precision", "float8"], ["--precision", ""], ["--minutes", "0"]):
        with pytest.raises(SystemExit) as caught:
            parse(["bench", *bad])
        assert caught.value.code == 2
    from fcntag.cli.bench import CUDA_PEERS

    assert set(CUDA_PEERS) == set(peers.PEERS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "cuda", "--threads", "2"], "--threads: not with --device cuda"),
        (["--device", "cuda", "--audio", "x.wav"], "--audio: not with"),
        (["--device", "cuda", "--peers", "openvino"], "--peers openvino: not on cuda; there: torch, torch-graph"),
        (["--peers", "jax"], "--peers jax: not on cpu; there: torch, onnxruntime"),
        (["--precision", "float32,bfloat16"], "--precision: one on the CPU"),
        (["--minutes", "3"], "--minutes: goes with --device cuda"),
        (["--no-cold"], "--no-cold: goes with --device cuda"),
        (["--beside-only"], "--beside-only: goes with --device cuda"),
        (["--device", "cuda", "--batch", "9999"], "batch 9999: at most 4096"),
    ],
)
def test_what_does_not_go_together_is_named(
    arguments: list[str], message: str, settings: bench.Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--peers" not in arguments:
        arguments = [*arguments, "--peers", "none"]
    assert cli.main(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_command(settings: bench.Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gpu.json"
    command = [
        "bench",
        "-q",
        "--device",
        "cuda",
        "-m",
        settings.models[0],
        "-b",
        "1",
        "--precision",
        "float32,bfloat16",
    ]
    command += ["--peers", "none", "--repeats", "5", "--seconds", "0.02", "--json", str(out)]
    assert cli.main([*command, "--beside-only"]) == 0
    assert not Report.from_json(out.read_text()).find(stage="block 1")
    capsys.readouterr()
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert "ceilings (measured): copy 1000 GB/s" in printed
    report = Report.from_json(out.read_text())
    assert report.environment["gpu"] == "emulated"
    assert report.find(stage="scores", precision="bfloat16")
    assert cli.main([*command, "--compare", str(out)]) in (0, 1)
