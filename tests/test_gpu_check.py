"""benchmarks/gpu_check.sh without a GPU: correctness on the emulator, the steps and the JSON with stand-ins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from gpu import cases, check, correctness, measurements, record, steps

from fcntag.engine.cuda import CudaEngine

BENCHMARKS = Path(check.__file__).resolve().parent.parent
GPU = {"name": "NVIDIA H100 80GB HBM3", "driver_version": "580.1", "compute_cap": "9.0"}


# ---- correctness, on the emulator ----


def test_the_engine_passes(emulated_core: Any) -> None:
    saved: list[int] = []
    found = correctness.check(
        emulated_core,
        precisions=("float32", "bfloat16"),
        say=lambda _: None,
        save=lambda result: saved.append(len(result["rows"])),
    )
    assert not [row for row in found["rows"] if not row["passed"]]
    assert found["failed"] == 0
    assert not found["left_out"]
    assert len(saved) > 5
    assert saved == sorted(saved)
    names = {row["case"] for row in found["rows"]}
    assert {*cases.SMALL, "tiny, same bits"} <= names
    assert len([case for case in names if case.startswith("front end, ")]) == len(cases.FRONT_ENDS)
    assert {row["precision"] for row in found["rows"]} == {"float32", "bfloat16"}
    assert {kernel["precision"] for kernel in found["kernels"]} == {"float32", "bfloat16"}
    json.dumps(found, allow_nan=False)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """One network, one front end."""
    monkeypatch.setattr(correctness, "SMALL", dict(list(cases.SMALL.items())[:1]))
    monkeypatch.setattr(cases, "FRONT_ENDS", dict(list(cases.FRONT_ENDS.items())[:1]))


def failures(core: Any, **options: Any) -> list[dict[str, Any]]:
    found = correctness.check(core, precisions=("float32",), say=lambda _: None, **options)
    assert found["failed"] == sum(not row["passed"] for row in found["rows"])
    return [row for row in found["rows"] if not row["passed"]]


@pytest.mark.parametrize(
    ("method", "damage", "what"),
    [
        ("blocks", lambda maps: [maps[0], maps[1] * np.float32(1 + 1e-5)], "block 2, relative L2"),
        ("scores_of", lambda scores: scores + np.float32(1e-3), "scores, maximum"),
        ("logits", lambda logits: logits * np.float32(np.nan), "logits, relative L2"),
        ("log_mel", lambda x: x * np.float32(1.0001), "log-mel, relative L2"),
    ],
)
def test_what_is_wrong_is_found(
    method: str, damage: Any, what: str, emulated_core: Any, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    correct = getattr(CudaEngine, method)
    monkeypatch.setattr(CudaEngine, method, lambda self, x: damage(correct(self, x)))
    assert what in {row["what"] for row in failures(emulated_core)}


def test_bits_that_depend_on_the_batch_are_found(
    emulated_core: Any, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    correct = CudaEngine.scores

    def scores(self: Any, waves: np.ndarray, **options: Any) -> np.ndarray:
        found = correct(self, waves, **options)
        return np.nextafter(found, np.float32(1)) if len(waves) == 1 else found

    monkeypatch.setattr(CudaEngine, "scores", scores)
    found = {row["what"]: row for row in failures(emulated_core)}
    assert found["alone, values of other bits"]["value"] > 0
    assert "backwards, values of other bits" not in found


def test_an_error_is_a_failure_and_the_rest_goes_on(
    emulated_core: Any, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, x: np.ndarray) -> Any:
        raise RuntimeError("unspecified launch failure")

    monkeypatch.setattr(CudaEngine, "blocks", broken)
    (row,) = failures(emulated_core)
    assert row["note"] == "RuntimeError: unspecified launch failure"
    assert row["value"] == "inf"


def test_what_there_is_no_time_for_is_named(emulated_core: Any, short: None) -> None:
    found = correctness.check(emulated_core, precisions=("float32",), minutes=0.0, say=lambda _: None)
    assert not found["rows"]
    assert "tiny, same bits, float32" in found["left_out"]


def test_the_module_that_was_there_is_put_back(emulated_core: Any) -> None:
    import fcntag

    before = sys.modules.get("fcntag._cuda"), getattr(fcntag, "_cuda", None)
    with cases.installed(emulated_core):
        assert sys.modules["fcntag._cuda"] is emulated_core
    assert (sys.modules.get("fcntag._cuda"), getattr(fcntag, "_cuda", None)) == before


def test_without_a_gpu_the_reason_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntag._cuda", None)
    monkeypatch.delattr("fcntag._cuda", raising=False)
    for run in (correctness.check, correctness.once):
        with pytest.raises(SystemExit, match="correctness: this build of fcntag has no CUDA kernels"):
            run()


def test_every_network_is_one() -> None:
    """Those for hardware: valid, with finite logits."""
    rng = np.random.default_rng(0)
    assert set(cases.ONCE) <= set(cases.NETWORKS)
    for name in cases.ONCE:
        model = cases.network(name)
        x = rng.standard_normal((1, *model.document.input_size())).astype(np.float32)
        maps = cases.rounded_blocks(model, x, "bfloat16")
        assert np.isfinite(cases.logits_of(model, maps[-1])).all()
    assert len({cases.network(name).document.blocks for name in cases.NETWORKS}) > 60


# ---- references ----


def test_rounding_is_that_of_the_types(rng: np.random.Generator) -> None:
    import torch

    values = np.concatenate([rng.standard_normal(2000) * 10.0 ** rng.uniform(-7, 4, 2000), [0.0, 65520.0, -1e9]])
    values = values.astype(np.float32)
    half = np.clip(values, -65504, 65504).astype(np.float16)
    np.testing.assert_array_equal(cases.rounded_to(values, "float16"), half.astype(np.float64))
    theirs = torch.from_numpy(values).to(torch.bfloat16).double().numpy()
    np.testing.assert_array_equal(cases.rounded_to(values, "bfloat16"), theirs)
    tf32 = cases.rounded_to(values, "tf32").astype(np.float32)
    assert not (tf32.view(np.uint32) & 0x1FFF).any()  # 13 bits less than float32
    assert np.abs(tf32 - values).max() <= 2.0**-11 * np.abs(values).max()


def test_deltas_are_fits_of_windows(rng: np.random.Generator) -> None:
    log_mel = rng.standard_normal((2, 12, 20)).astype(np.float32)
    found = cases.mfcc_reference(log_mel, 5)
    assert found.shape == (2, 15, 20)
    c0 = log_mel[1].astype(np.float64).mean(axis=0) * np.sqrt(12)  # the orthonormal DCT's first row
    np.testing.assert_allclose(found[1, 0], c0, atol=1e-12)
    for frame, start in ((10, 6), (0, 0), (3, 0), (19, 11)):  # the edges take the nearest whole window
        line = np.polyfit(np.arange(9), c0[start : start + 9], 1)
        parabola = np.polyfit(np.arange(9), c0[start : start + 9], 2)
        assert found[1, 5, frame] == pytest.approx(line[0], abs=1e-12)
        assert found[1, 10, frame] == pytest.approx(2 * parabola[0], abs=1e-12)


def test_nan_and_shapes_never_pass() -> None:
    good = np.ones((2, 3), np.float32)
    for measure in (measurements.max_abs, measurements.relative_l2, measurements.unequal):
        assert measure(good, good) == 0
        assert measure(good[:1], good) == float("inf")
    assert measurements.max_abs(good * np.float32(np.nan), good) == float("inf")
    assert measurements.unequal(good, -good) == 6
    assert measurements.unequal(np.float32([0.0]), np.float32([-0.0])) == 1
    assert not measurements.Row("", "", "", float("nan"), 1.0, 0.0).passed
    assert cases.largest_logit(cases.sigmoid(np.array([[0.5, -7.0], [3.0, 0.0]]))) == pytest.approx(7.0)
    assert cases.largest_logit(np.array([1.0, 0.5])) == pytest.approx(36.84, abs=0.01)
    assert cases.top_gap(np.array([0.1, 0.5, 0.4]), np.array([0.1, 0.4, 0.5]), 2) == pytest.approx(0.1)


# ---- steps and verdicts ----


@pytest.mark.parametrize(
    ("code", "text", "verdict"),
    [
        (0, "2 engines ran\n========= ERROR SUMMARY: 0 errors\n", "passed"),
        (0, "2 engines ran\n========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n", "passed"),
        (86, "2 engines ran\n========= ERROR SUMMARY: 3 errors\n", "failed"),
        (0, "2 engines ran\n========= RACECHECK SUMMARY: 1 hazard displayed (0 errors, 1 warning)\n", "failed"),
        (86, "Internal trouble\n", "failed"),
        (1, "Traceback\nRuntimeError: x\n========= ERROR SUMMARY: 0 errors\n", "failed"),
        (1, "========= Error: Device not supported. Please refer to the documentation\n", "not run"),
        (0, "========= ERROR SUMMARY: 0 errors\n", "failed"),  # the program did not come to its end
        (None, "2 engines ran\n", "timed out"),
    ],
)
def test_sanitizers_verdicts(code: int | None, text: str, verdict: str) -> None:
    assert steps.sanitizer_verdict(code, text)[0] == verdict


@pytest.mark.parametrize(
    ("code", "refused", "verdict"),
    [
        (0, [], "passed"),
        (1, ["torch-graph on fcn4 (original), float32, batch 1: not timed: OutOfMemoryError"], "passed"),
        (1, ["torch on fcn4: not timed", "fcn4, float32: not timed: scores differ"], "failed"),
        (2, [], "failed"),
        (None, [], "timed out"),
    ],
)
def test_a_peers_failure_is_not_ours(code: int | None, refused: list[str], verdict: str) -> None:
    status, why = steps.bench_verdict(code, {"refused": refused})
    assert status == verdict
    assert all(line in why for line in refused)


def test_architectures() -> None:
    assert [steps.architecture(c) for c in ("7.5", "8.6", "9.0", "12.0")] == ["75", "86", "90a", "120"]


def test_a_process_that_does_not_end_is_ended_with_its_children(tmp_path: Path) -> None:
    script = f"sleep 60 & echo $! > {tmp_path}/child; echo begun; wait"
    start = time.monotonic()
    code, text, _ = steps.run(["sh", "-c", script], 1.0)
    assert time.monotonic() - start < 20
    assert (code, text) == (None, "begun\n")
    child = int((tmp_path / "child").read_text())
    for _ in range(50):  # until it is reaped
        try:
            state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            break
        if state == "Z":
            break
        time.sleep(0.1)
    else:
        pytest.fail("the child is still there")


def test_a_process_gets_the_checkout(capfd: pytest.CaptureFixture[str]) -> None:
    code, text, _ = steps.run(
        [sys.executable, "-c", "import support.make_models, fcntag; print(fcntag.__file__)"], 60.0
    )
    assert code == 0
    assert text.strip() == str(BENCHMARKS.parent / "fcntag" / "__init__.py")
    assert text in capfd.readouterr().out  # shown as well
    assert steps.run(["sh", "-c", "exit 3"], 60.0)[0] == 3


# ---- the JSON ----


def test_json_has_a_line_a_row() -> None:
    data = {"a": [{"x": [1.5, 2]}, {"x": []}], "b": {"c": {}, "d": [1, 2], "e": "\u00e9"}, "f": None}
    text = record.dumps(data)
    assert json.loads(text) == data
    assert '{"x": [1.5, 2]}' in text
    with pytest.raises(ValueError, match="not JSON compliant"):
        record.dumps({"a": float("nan")})


def test_rows_are_summed_up_by_their_worst() -> None:
    def row(what: str, value: Any, allowed: float, case: str = "net") -> dict[str, Any]:
        passed = isinstance(value, float) and value <= allowed
        return {
            "case": case,
            "precision": "float32",
            "what": what,
            "value": value,
            "allowed": allowed,
            "passed": passed,
        }

    rows = [row("block 1", 1e-7, 1e-6), row("bits", 0.0, 0.0), row("scores", 5e-6, 1e-5)]
    rows += [row("bits", 3.0, 0.0, "other"), row("block 1", "inf", 1e-6, "third")]
    found = record.summary({"rows": rows, "failed": 2, "left_out": [], "kernels": []})
    assert [(r["case"], r["worst"], r["failed"]) for r in found["table"]] == [
        ("net", "scores", 0),
        ("other", "bits", 1),
        ("third", "block 1", 1),
    ]
    assert [r["case"] for r in found["failures"]] == ["other", "third"]


def test_samples_are_thinned_and_percentiles_are_not() -> None:
    samples = [1e-3 + 1e-6 * k for k in range(200)]
    report = {"rows": [{"samples_s": samples, "p50_s": 1.123456789e-3, "stage": "mel"}]}
    (row,) = record.thinned(report)["rows"]
    assert row["n"] == 200
    assert len(row["samples_s"]) == record.MAX_SAMPLES
    assert row["samples_s"][1] == 1.008e-3
    assert row["p50_s"] == 1.1235e-3


def test_two_runs_of_a_day_are_one_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCNTAG_RESULTS_DIR", str(tmp_path / "copy"))
    monkeypatch.setenv("FCNTAG_COMMIT", "abc")
    first = record.Record(tmp_path, GPU)
    assert first.path.name.startswith("gpu-nvidia-h100-80gb-hbm3-2")
    first.add("correctness", "failed", 1.0, tail=["x"])
    assert first.finish() == 1
    second = record.Record(tmp_path, GPU)
    second.add("memcheck", "not run", 0.0, why="compute-sanitizer is not installed")
    assert second.finish() == 0  # of this run
    data = json.loads(second.path.read_text())
    assert list(data["steps"]) == ["correctness", "memcheck"]
    assert data["machine"]["commit"] == "abc"
    assert data["machine"]["gpu"] == GPU
    assert json.loads((tmp_path / "copy" / second.path.name).read_text()) == data
    second.path.write_text("{ damaged")
    assert record.Record(tmp_path, GPU).data["steps"] == {}


# ---- the command ----


@pytest.fixture
def with_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A GPU in name: nvidia-smi lists one; steps are logged and succeed with the results that they would write."""
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text(f'#!/bin/sh\necho "{", ".join(GPU.values())}"\n')
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{smi.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(steps, "tool", lambda name: f"/toolkit/{name}")
    log: list[list[str]] = []

    def run(command: list[str], seconds: float, **environment: str) -> tuple[int | None, str, float]:
        assert seconds > 0
        log.append(command)
        if "--json" in command:
            rows: list[dict[str, Any]] = []
            data = {"rows": rows, "failed": 0, "left_out": [], "kernels": [], "refused": []}
            Path(command[command.index("--json") + 1]).write_text(json.dumps(data))
        return 0, "3 engines ran\n========= ERROR SUMMARY: 0 errors\n", 1.0

    monkeypatch.setattr(steps, "run", run)
    return log


def test_every_step_is_run_and_recorded(
    with_gpu: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check.main(["--results", str(tmp_path / "results")]) == 0
    (path,) = (tmp_path / "results").iterdir()
    assert str(path) in capsys.readouterr().out
    data = json.loads(path.read_text())
    assert list(data["steps"]) == [
        "build",
        "correctness",
        *steps.SANITIZERS,
        "bench alone",
        "bench beside",
        "bench compiled",
    ]
    assert {step["status"] for step in data["steps"].values()} == {"passed"}
    assert set(data["benchmark"]) == {"alone", "beside", "compiled"}
    assert data["steps"]["build"]["architectures"] == "90a"
    commands = [" ".join(command) for command in with_gpu]
    assert any("-DFCNTAG_CUDA=1 -DFCNTAG_CUDA_ARCHS=90a" in command for command in commands)
    assert sum("/toolkit/compute-sanitizer --tool" in command for command in commands) == 4
    # what is asked of `fcntag bench` is understood by it
    from fcntag import cli

    for command in with_gpu:
        if command[1:4] == ["-m", "fcntag", "bench"]:
            arguments = cli.build_parser().parse_args(command[3:])
            assert arguments.device == "cuda"
            assert arguments.minutes > 0


def test_parts_and_what_a_failed_build_means(
    with_gpu: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check.main(["bench", "--peers", "torch", "--results", str(tmp_path / "a")]) == 0
    (path,) = (tmp_path / "a").iterdir()
    assert list(json.loads(path.read_text())["steps"]) == ["build", "bench alone", "bench beside"]
    monkeypatch.setattr(steps, "run", lambda command, seconds, **environment: (2, "no such file\n", 1.0))
    assert check.main(["check", "--results", str(tmp_path / "b")]) == 1
    (path,) = (tmp_path / "b").iterdir()
    found = json.loads(path.read_text())["steps"]
    assert list(found) == ["build"]
    assert (found["build"]["status"], found["build"]["tail"]) == ("failed", ["no such file"])


def test_a_limit_leaves_what_was_saved(
    with_gpu: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = steps.run
    monkeypatch.setattr(steps, "run", lambda *a, **k: (None if "-m" in a[0] else 0, *write(*a, **k)[1:]))
    assert check.main(["bench", "--results", str(tmp_path / "results")]) == 1
    (path,) = (tmp_path / "results").iterdir()
    data = json.loads(path.read_text())
    assert data["steps"]["bench alone"]["status"] == "timed out"
    assert data["benchmark"]["alone"]["rows"] == []


def test_without_a_gpu_it_is_said_in_a_line(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHON": sys.executable}
    environment["PATH"] = os.pathsep.join(
        part for part in environment["PATH"].split(os.pathsep) if not (Path(part) / "nvidia-smi").exists()
    )
    done = subprocess.run(
        [str(BENCHMARKS / "gpu_check.sh"), "--results", str(tmp_path / "no")],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == "gpu_check: no NVIDIA GPU found: nvidia-smi is missing or lists none\n"
    assert not (tmp_path / "no").exists()
    with pytest.raises(SystemExit):
        check.main(["everything"])
