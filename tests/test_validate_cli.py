"""``fcntag validate`` on the command line: tables, JSON, exit codes, and one line for what is wrong."""

from __future__ import annotations

import json

import pytest
import soundfile
from support.cli_runner import run
from test_validate import STAGES, corrupt

from fcntag import demo
from fcntag.model.file import write_model


@pytest.fixture
def model_file(three_blocks, tmp_path):
    path = tmp_path / "model.safetensors"
    write_model(path, three_blocks.document, three_blocks.tensors)
    return path


@pytest.fixture
def track(tmp_path):
    path = tmp_path / "piece.wav"
    soundfile.write(path, demo.synthesise()[: 3 * demo.SAMPLE_RATE], demo.SAMPLE_RATE)
    return path


def test_command_line_clean(capsys, tmp_path, model_file, track) -> None:
    report = tmp_path / "report.json"
    code, out, err = run(
        capsys, "validate", model_file, track, "--device", "cpu", "--json", report, "--windows", "3", "--top", "3"
    )
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line for line in lines if not line.startswith(" ")][:-1] == [
        "noise",
        "random input",
        "synthetic piece",
        str(track),
    ]
    assert lines[-1].startswith("random on cpu (")
    assert lines[-1].endswith("float32, against oracle (float64 loops): ok")
    data = json.loads(report.read_text())
    assert (data["ok"], data["failures"], data["model"], data["against"]) == (True, [], "random", "oracle")
    assert [stage["name"] for stage in data["cases"][3]["stages"]] == STAGES
    assert all(0 <= stage["max_abs"] < 1e-3 for case in data["cases"] for stage in case["stages"])
    assert data["cases"][3]["stages"][-1]["n_top"] == 3


def test_command_line_failing(capsys, tmp_path, model_file, track, monkeypatch) -> None:
    corrupt(monkeypatch, 2, weight=0.01)
    report = tmp_path / "report.json"
    code, out, err = run(capsys, "validate", model_file, track, "--device", "cpu", "--json", report)
    assert code == 1
    assert err.startswith("fcntag: noise: block 3 relative L2 ")
    assert "allowed 1e-06" in err.splitlines()[0]
    assert f"fcntag: {track}: block 3 relative L2 " in err
    assert "FAILS" in out
    assert json.loads(report.read_text())["ok"] is False
    code, out, err = run(capsys, "validate", model_file, "--device", "cpu", "-q")
    assert (code, out) == (1, "")
    assert "block 3" in err


def test_command_line_stored(capsys, tmp_path, model_file, track) -> None:
    golden = tmp_path / "golden.npz"
    assert run(capsys, "validate", model_file, "--device", "cpu", "--save", golden)[0] == 0
    code, out, _ = run(capsys, "validate", model_file, "--device", "cpu", "--against", golden)
    assert (code, out.splitlines()[0]) == (0, str(golden))
    code, _, err = run(capsys, "validate", model_file, track, "--device", "cpu", "--against", golden)
    assert (code, "holds its own waves" in err) == (2, True)


def test_a_bad_file_does_not_stop_the_others(capsys, tmp_path, model_file, track) -> None:
    bad = tmp_path / "bad.mp3"
    bad.write_text("not music")
    code, out, err = run(capsys, "validate", model_file, bad, track, "--device", "cpu")
    assert code == 1
    assert [line.split(":")[1].strip() for line in err.splitlines()] == [str(bad)]
    assert out.splitlines()[-1].endswith("FAILS")
    assert str(track) in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["no-such-model"], 3, "no-such-model"),
        (["mtt-vgg", "--against", "tensorflow"], 2, "allowed: oracle, torch, onnxruntime, or a file that ends in .npz"),
        (["mtt-vgg", "--against", "x.npz", "--save", "y.npz"], 2, "--save"),
        (["mtt-vgg", "--against", "x.npz"], 2, "x.npz: No such file"),
        (["mtt-vgg", "--save", "y.txt"], 2, "end the name in .npz"),
        (["mtt-vgg", "--precision", "float16", "--device", "cpu"], 4, "float16"),
        (["mtt-vgg", "--threads", "2000"], 2, "threads=2000"),
        (["mtt-vgg", "--json", "nowhere/report.json"], 2, "no such folder"),
    ],
)
def test_mistakes(capsys, arguments, code, message) -> None:
    actual, _, err = run(capsys, "validate", *arguments)
    assert actual == code
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("against", "module", "held"),
    [
        ("oracle", "numba", "fcntag.oracle"),
        ("torch", "torch", "fcntag.export.torch"),
        ("onnxruntime", "onnxruntime", "onnxruntime"),
    ],
)
def test_a_missing_package_names_the_extra(capsys, monkeypatch, against, module, held) -> None:
    import sys

    import fcntag
    import fcntag.export

    monkeypatch.delitem(sys.modules, held, raising=False)
    monkeypatch.delattr(fcntag, "oracle", raising=False)
    monkeypatch.delattr(fcntag.export, "torch", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    code, _, err = run(capsys, "validate", "mtt-vgg", "--against", against)
    assert code == 2
    assert 'pip install "fcntag[validate]"' in err
