"""``fcntag bench``: options, statistics, the noise rule, results as JSON and back, tiny real runs. No test times."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from fcntag import cli, oracle
from fcntag.bench import compare, machine, measure, networks, peers, text
from fcntag.bench.report import Report, Row
from fcntag.bench.samples import limit, median_ratio, percentile, spread
from fcntag.bench.timing import LONG_S, MIN_ROUNDS, ProcessRun, alternate, contention, run_process
from fcntag.engine import create_engine
from fcntag.errors import FcntagError, ModelError
from fcntag.modelfile import Model, write_model
from fcntag.networks import paper_model

QUIET = [1.0, 1.01, 0.99, 1.0, 1.02, 0.98, 1.0]  # robust spread 1.5 %: the limit is the 5 % floor, then 3 spreads
NOISY = [1.0, 1.3, 0.8, 1.1, 0.7, 1.2, 0.9]


def row(samples: list[float] = QUIET, **changes: Any) -> Row:
    return dataclasses.replace(Row("net", "network", "fcntag", 8, tuple(samples)), **changes)


def report(*rows: Row) -> Report:
    return Report({"cpu": "X", "threads": 2, "isa": "avx2"}, {"device": "cpu", "precision": "float32"}, rows=list(rows))


# ---- statistics ----


def test_percentiles_are_numpys(rng: np.random.Generator) -> None:
    for n in (1, 2, 7, 100):
        samples = rng.uniform(0, 1, n)
        for q in (0, 50, 90, 99, 100):
            assert percentile(list(samples), q) == pytest.approx(np.percentile(samples, q), rel=1e-12)


def test_the_spread_of_a_normal_sample_is_its_deviation_and_outliers_do_not_move_it(rng: np.random.Generator) -> None:
    samples = list(rng.normal(10, 0.5, 4001))
    assert spread(samples) == pytest.approx(0.05, rel=0.1)
    assert spread([*samples, *[1000.0] * 40]) == pytest.approx(0.05, rel=0.1)


def test_ratios_are_taken_round_by_round() -> None:
    baseline = [1.0, 5.0, 1.0, 9.0, 1.0]  # slow rounds hit both
    assert median_ratio([2.0 * s for s in baseline], baseline) == 2.0


def test_the_limit_is_five_per_cent_or_three_spreads() -> None:
    flat = [1.0] * 7
    assert limit(flat, flat) == pytest.approx(1.05)
    assert limit(flat, NOISY) == pytest.approx(1 + 3 * spread(NOISY))
    assert limit(NOISY, NOISY) == pytest.approx(1 + 3 * 2**0.5 * spread(NOISY))


# ---- timing ----


def test_alternate_takes_turns_and_warms_up(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    samples = alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3, pause=0.0)
    assert {name: len(values) for name, values in samples.items()} == {"a": 3, "b": 3}
    assert calls == list("aabbbbaaaabb")  # an untimed call before each timed one; every round starts elsewhere


def test_alternate_stops_after_its_time_and_does_not_warm_up_long_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0.0, 2 * LONG_S)
    monkeypatch.setattr("fcntag.bench.timing.time.perf_counter", lambda: next(clock))
    calls: list[None] = []
    samples = alternate({"a": lambda: calls.append(None)}, 100, seconds=1.0, pause=0.0)
    assert len(samples["a"]) == MIN_ROUNDS
    assert len(calls) == MIN_ROUNDS + 1  # warmed up once


def test_a_process_is_accounted_for_from_a_small_parent() -> None:
    ballast = np.ones(30_000_000)  # 240 MB here must not be found there
    run = run_process([sys.executable, "-S", "-c", "pass"])
    assert ballast[-1] == 1
    assert 1e6 < run.peak_rss_bytes < 100e6
    assert run.wall_s > 0
    with pytest.raises(FcntagError, match="exit code 3: last words"):
        run_process([sys.executable, "-S", "-c", "import sys; print('last words', file=sys.stderr); sys.exit(3)"])


def test_contention_ends_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    original = subprocess.Popen

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(original(*arguments, **options))
        return started[-1]

    monkeypatch.setattr("fcntag.bench.timing.subprocess.Popen", start)
    with contextlib.suppress(KeyboardInterrupt), contention(2):
        assert [process.poll() for process in started] == [None, None]
        raise KeyboardInterrupt
    assert len(started) == 2
    assert all(process.returncode is not None for process in started)


# ---- the result ----


def test_a_report_survives_json() -> None:
    one = row(max_score_difference=1e-7, ratio=3.2, contend=1, network="reduced", flop=1e9, bytes=1e6, audio_s=30.0)
    before = report(one, row(NOISY, stage="decode", batch=0))
    before.models["net"] = {"random_weights": True}
    before.peers["torch"] = "not installed"
    before.warnings.append("load")
    data = json.loads(before.to_json())
    assert data["rows"][0]["p50_s"] == 1.0
    assert data["rows"][0]["real_time_factor"] == 30.0
    assert data["rows"][0]["samples_s"] == QUIET
    assert data["bottlenecks"]["net"].startswith("net: decode takes 100 %")
    assert Report.from_json(before.to_json()) == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: [], "not a result of fcntag bench"),
        (lambda data: {**data, "tool": "another"}, "not a result of fcntag bench"),
        (lambda data: {**data, "format": 99}, "format 99"),
        (lambda data: {name: value for name, value in data.items() if name != "rows"}, "damaged: KeyError: 'rows'"),
        (lambda data: {**data, "rows": [{**data["rows"][0], "samples_s": []}]}, "no samples"),
        (lambda data: {**data, "rows": [{**data["rows"][0], "samples_s": ["slow"]}]}, "slow"),
        (lambda data: {**data, "rows": [{"samples_s": [1.0]}]}, "damaged"),
        (lambda data: {**data, "rows": 7}, "damaged"),
    ],
)
def test_what_is_no_result_is_refused(damage: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Report.from_json(json.dumps(damage(json.loads(report(row()).to_json()))))


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(ValueError, match="Expecting value"):
        Report.from_json("not JSON")


def test_the_bottleneck_is_the_longest_stage_of_a_clip() -> None:
    stages = {"decode": 0.062, "resample": 0.01, "mel": 0.008, "network": 0.02, "tag": 0.5}
    rows = [row([s], stage=stage, batch=0) for stage, s in stages.items()]
    sentence = report(*rows, row([9.0])).bottleneck("net")
    assert sentence.startswith("net: decode takes 62 % of tagging a clip (decode 62.0 ms")


# ---- comparison ----


def test_a_regression_is_found_and_noise_is_not() -> None:
    old = report(row(), row(NOISY, batch=1), row(batch=64))
    slower = [1.2 * s for s in QUIET]
    comparison = compare.compare(
        old, report(row(slower), row([1.3 * s for s in NOISY], batch=1), row([0.5 * s for s in QUIET], batch=64))
    )
    assert [change.row.batch for change in comparison.regressions] == [8]
    assert [change.faster for change in comparison.changes] == [False, False, True]
    assert "net, network, fcntag (original), batch 8" in str(comparison.regressions[0])
    assert not compare.compare(old, old).regressions


def test_a_peer_that_became_slower_is_no_regression() -> None:
    comparison = compare.compare(report(row(engine="torch")), report(row([2 * s for s in QUIET], engine="torch")))
    assert comparison.changes[0].slower
    assert not comparison.regressions


def test_rows_that_cannot_be_judged_are_named() -> None:
    old = report(row(), row([1.0, 1.0], batch=1), row(stage="mel", batch=0))
    new = report(row(), row([9.0, 9.0], batch=1), row(stage="decode", batch=0))
    new.environment["cpu"] = "Y"
    comparison = compare.compare(old, new)
    assert len(comparison.changes) == 1
    assert sorted(text.split(":")[0] for text in comparison.skipped) == [
        "fewer than 5 samples",
        "only in the new result",
        "only in the old result",
    ]
    assert comparison.warnings == ["cpu differs: 'X' before, 'Y' now"]
    with pytest.raises(ValueError, match="nothing to compare"):
        compare.compare(old, report(row(batch=2)))


# ---- networks and peers ----


def test_what_can_be_timed(tmp_path: Path) -> None:
    model, is_random = networks.load("fcn5-narrow")
    assert is_random is True
    write_model(tmp_path / "x.safetensors", model.document, model.tensors)
    assert networks.load(str(tmp_path / "x.safetensors"))[1] is True
    assert networks.load("mtt-vgg")[1] is False
    with pytest.raises(ModelError, match="with random weights: fcn3, fcn4"):
        networks.load("fcn9")


def test_random_scores_are_not_saturated(rng: np.random.Generator) -> None:
    """Sigmoids at 0 or 1 would hide every difference between engines."""
    model = paper_model("fcn5-narrow")
    waves = rng.uniform(-0.5, 0.5, (2, model.document.segments.n_samples)).astype(np.float32)
    with create_engine(model) as engine:
        scores = engine.scores(waves)
    assert scores.min() > 0.01
    assert scores.max() < 0.99
    assert scores.std() > 0.02


@pytest.mark.parametrize("name", list(peers.PEERS))
@pytest.mark.parametrize("flatten", ["chw", "hwc", "max"])
def test_peers_compute_the_models_scores(name: str, flatten: Any, rng: np.random.Generator) -> None:
    """Against the oracle, not against the engine: a mistake in the graph must not look like one of ours."""
    from support.make_models import block, make_model

    try:
        peers.version(name)
    except ImportError as error:
        pytest.skip(f"{name}: {error}")
    blocks = [block(6, activation="elu", affine=True, window=(2, 3)), block(8, kernel=1), block(5, window=(3, 2))]
    model = make_model(rng, blocks, flatten=flatten)
    height, width = model.document.input_size()
    x = rng.standard_normal((3, height, width)).astype(np.float32)
    try:
        peer = peers.make(name, model, 3, height, width, threads=1)
    except RuntimeError as error:
        if "bfloat16" in str(error):
            pytest.skip(str(error))
        raise
    tolerance = 0.05 if name == "openvino-bf16" else 1e-5  # 8 bits; float32 rounding, for scores between 0 and 1
    assert np.abs(peer.run(x) - oracle.run(model, x)).max() < tolerance


# ---- the command ----


def test_options() -> None:
    parse = cli.build_parser().parse_args
    arguments = parse(["bench", "-m", "a, b", "--model", "c", "--batch", "1,16", "--peers", "none"])
    assert (arguments.model, arguments.batch, arguments.peers) == ([("a", "b"), ("c",)], (1, 16), ())
    assert parse(["bench"]).peers == tuple(peers.PEERS)
    assert parse(["bench", "--peers", "torch,openvino"]).peers == ("torch", "openvino")
    for bad in (["--peers", "tflite"], ["--batch", "0"], ["--batch", ""], ["-m", ","], ["--seconds", "0"], ["-t", "x"]):
        with pytest.raises(SystemExit) as caught:
            parse(["bench", *bad])
        assert caught.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--device", "cuda"], 4, "CUDA" if importlib.util.find_spec("fcntag._cuda") is None else "cuda"),
        (["--model", "no-such-model"], 3, "no-such-model"),
        (["--precision", "float16"], 4, "float16"),
        (["--compare", "{tmp}/none.json"], 2, "none.json: No such file"),
        (["--compare", "{tmp}/text.json"], 2, "text.json"),
        (["--compare", "{tmp}/song.mp3"], 2, "song.mp3: not a bench report"),
        (["--compare", "{tmp}/song.txt"], 2, "song.txt: not a bench report"),
        (["--audio", "{tmp}/song.mp3", "--json", "{tmp}/song.mp3"], 2, "is an input"),
        (["--plot", "{tmp}/a.png", "--json", "{tmp}/a.png"], 2, "is what --json writes, too"),
        (["--threads", "5000"], 2, "threads=5000"),
        (["--json", "{tmp}/no/out.json"], 2, "no such folder"),
        (["--plot", "{tmp}/out.txt"], 2, "end the name in .png"),
        (["--audio", "{tmp}/none.mp3"], 1, "none.mp3"),
    ],
)
def test_exit_codes(
    arguments: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of these before anything is timed."""
    (tmp_path / "text.json").write_text("{}")
    (tmp_path / "song.mp3").write_bytes(b"\xff\xfb\x90\x00")
    (tmp_path / "song.txt").write_text("la la")
    filled = [argument.format(tmp=tmp_path) for argument in arguments]
    assert cli.main(["bench", "--peers", "none", *filled]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize(("gflop", "told"), [(50.0, False), (143.0, True)])
def test_more_than_the_peak_is_explained(gflop: float, told: bool) -> None:
    environment = {
        "fcntag": "1",
        "commit": "",
        "cpu": "X",
        "isa": "a",
        "threads": 1,
        "cpus": 1,
        "python": "3",
        "numpy": "2",
    }
    settings = {"device": "cpu", "precision": "float32", "audio": "demo", "audio_s": 30.0}
    ceilings = {"fma_gflops": 100.0, "copy_gbytes": 10.0}
    rows = [row([1.0], flop=gflop * 1e9), row([1.0])]
    found = [line for line in text.lines(Report(environment, settings, ceilings, rows=rows)) if "Winograd" in line]
    assert len(found) == told


def test_a_tiny_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The command from start to end; then against itself, then against a result that was three times as fast."""
    monkeypatch.setattr(machine, "ceilings", lambda threads: {"fma_gflops": 100.0, "copy_gbytes": 10.0})
    command = ["bench", "-q", "--peers", "none", "--batch", "2", "--seconds", "0.5", "--threads", "1"]
    out = tmp_path / "now.json"
    plot = ["--plot", str(tmp_path / "now.png")] if importlib.util.find_spec("matplotlib") else []
    assert cli.main([*command, "--repeats", "2", "--json", str(out), *plot]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1].startswith("mtt-vgg: ")
    assert " of tagging a clip (decode " in printed.splitlines()[-1]
    if plot:
        assert (tmp_path / "now.png").read_bytes().startswith(b"\x89PNG")
    result = Report.from_json(out.read_text())
    for stage in ("cold", "load", "first", "decode", "resample", "mel", "tag"):
        assert len(result.find(stage=stage, batch=0)) == 1, stage
    assert [len(result.find(stage=f"block {i}", batch=2)) for i in range(5)] == [1] * 5
    assert len(result.find(stage="head", batch=2)) == 1
    assert {r.batch for r in result.find(stage="network")} == {0, 2}
    assert all(r.median_s > 0 for r in result.rows)
    assert 20e6 < result.find(stage="cold")[0].peak_rss_bytes < 2e9
    assert result.environment["threads"] == 1
    assert "load_before" in result.environment
    assert result.models["mtt-vgg"]["windows_per_clip"] == 10

    slow = [dataclasses.replace(r, samples_s=tuple([r.median_s] * 5)) for r in result.rows]
    fast = [dataclasses.replace(r, samples_s=tuple(s / 3 for s in r.samples_s)) for r in slow]
    monkeypatch.setattr(measure, "measure", lambda settings, say: dataclasses.replace(result, rows=slow))
    for rows, code in ((slow, 0), (fast, 1)):
        out.write_text(dataclasses.replace(result, rows=rows).to_json())
        assert cli.main([*command, "--compare", str(out)]) == code
    assert "slower: mtt-vgg, network, fcntag" in capsys.readouterr().err


class Echo:
    """A peer that computes the right thing: the engine itself."""

    error = 0.0

    def __init__(self, model: Model, batch: int, height: int, width: int, threads: int) -> None:
        self.shape = (batch, height, width)
        self.engine = create_engine(model, threads=threads)

    def run(self, x: np.ndarray) -> np.ndarray:
        assert x.shape == self.shape
        return self.engine.run(x) + np.float32(self.error)


class Liar(Echo):
    """One whose scores are off by more than rounding."""

    error = 2e-4


class Broken(Echo):
    """One that gives NaN."""

    error = float("nan")


@pytest.fixture
def small(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> measure.Settings:
    """Settings that take no time: a small model in a file, of which a third can be reduced away; no new processes."""
    from support.make_models import block, make_model

    model = make_model(rng, [block(9, window=(2, 2)), block(8, window=(4, 4))], n_samples=8000)
    model.tensors["blocks.0.bias"][3:6] = -1e9  # three channels that a ReLU holds at 0
    write_model(tmp_path / "small.safetensors", model.document, model.tensors)
    soundfile.write(tmp_path / "noise.wav", rng.uniform(-0.5, 0.5, 20000), 16000)
    monkeypatch.setattr(machine, "ceilings", lambda threads: {"fma_gflops": 100.0, "copy_gbytes": 10.0})
    monkeypatch.setattr(measure, "run_process", lambda command, environment: ProcessRun(0.5, 0.5, 50_000_000))
    for name, peer in {"echo": Echo, "liar": Liar, "broken": Broken, "ghost": Echo}.items():
        monkeypatch.setitem(peers.PEERS, name, peer)
        monkeypatch.setitem(peers._NEEDS, name, ("no_such_module",) if name == "ghost" else ("numpy",))
    return measure.Settings(
        models=(str(tmp_path / "small.safetensors"),),
        batches=(1, 3),
        threads=1,
        repeats=2,
        seconds=0.5,
        audio=str(tmp_path / "noise.wav"),
    )


def test_missing_and_wrong_peers_are_named_and_not_timed(small: measure.Settings) -> None:
    settings = dataclasses.replace(small, peers=("echo", "ghost", "liar", "broken"), reduce=False)
    result = measure.measure(settings, lambda _: None)
    assert {r.network for r in result.find(stage="network")} == {"original"}
    assert result.peers["ghost"] == "not installed"
    assert result.peers["echo"] == np.__version__
    timed = result.find(stage="network")
    assert {r.engine for r in timed} == {"fcntag", "echo"}
    assert len(result.refused) == 4  # two batches
    assert any("liar" in line and "scores differ by 2.0e-04, more than 1e-04" in line for line in result.refused)
    assert any("broken" in line and "nan" in line for line in result.refused)
    for one in timed:
        assert (one.ratio is not None) == (one.engine == "echo")
    printed = "\n".join(text.lines(result))
    assert "ghost: not installed" in printed
    assert "liar" in printed


def test_peers_get_the_reduced_network_and_the_cropped_input(small: measure.Settings) -> None:
    settings = dataclasses.replace(small, peers=("echo",), peers_reduced=True, contend=1)
    result = measure.measure(settings, lambda _: None)
    assert not result.refused
    (name,) = result.models
    assert {r.network for r in result.find(stage="network", engine="fcntag")} == {"reduced"}
    assert result.models[name]["reduced_multiply_adds"] < result.models[name]["multiply_adds"]
    rows = result.find(stage="network", engine="echo", batch=3)
    assert [(r.network, r.contend) for r in rows] == [
        ("original", 0),
        ("reduced", 0),
        ("original", 1),
        ("reduced", 1),
    ]
    assert rows[1].flop < rows[0].flop
    assert rows[1].max_score_difference is not None
    assert rows[1].max_score_difference < 1e-6


def test_load_of_others_is_told(small: measure.Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (1.4, 0.0, 0.0))
    monkeypatch.setattr(machine.OthersCpu, "cores", lambda self: 0.0)
    result = measure.measure(small, lambda _: None)
    assert result.warnings == ["load average 1.4 before the start: other processes disturb the times"]
    assert result.environment["load_after"] == pytest.approx(0.4)  # one of them is our own thread
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (1.0, 0.0, 0.0))
    monkeypatch.setattr(machine.OthersCpu, "cores", lambda self: 0.9)
    assert "warning: other processes kept up to 0.9 cores busy" in "\n".join(
        text.lines(measure.measure(small, lambda _: None))
    )
