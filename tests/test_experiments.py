"""recipes/experiments.py: what it trains, and its tables from runs whose scores are known."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "recipes"))

import experiments

from fcntag.model.document import ModelDocument
from fcntag.model.paper import document

N_CLIPS, N_TAGS = 40, 3


@pytest.mark.parametrize(("kind", "rows"), [("stft", 128), ("mfcc", 90)])
def test_narrow_networks_on_other_inputs(kind: str, rows: int) -> None:
    """FCN-4's pools for that input, narrow FCN-4's widths."""
    made = ModelDocument.from_json(experiments.narrow_document(kind))
    assert made.name == f"fcn4-narrow-{kind}"
    assert made.input_size() == (rows, 1366)
    assert [block.pool for block in made.blocks] == [block.pool for block in document(f"fcn4-{kind}").blocks]
    assert [block.out_channels for block in made.blocks] == [32, 128, 192, 256]
    assert made.map_sizes()[-1] == (1, 1)


def test_a_subset_keeps_every_clip_that_is_not_trained_on(tmp_path: Path) -> None:
    rows = [f"{i}.flac,{'train' if i < 20 else 'validation' if i < 25 else 'test'},1,0" for i in range(30)]
    whole = tmp_path / "dataset.csv"
    whole.write_text("\n".join(["path,split,a,b", *rows]) + "\n", encoding="utf-8")
    lines = experiments.subset(whole, tmp_path / "few.csv", 5).read_text().splitlines()
    assert lines[0] == "path,split,a,b"
    assert [line.split(",")[0] for line in lines[1:6]] == ["0.flac", "4.flac", "8.flac", "12.flac", "16.flac"]
    assert lines[6:] == rows[20:]
    with pytest.raises(experiments.FcntagError, match=r"--clips 21: .* has 20"):
        experiments.subset(whole, tmp_path / "many.csv", 21)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The part of a rendered dataset that the report reads: two clips a piece."""
    folder = tmp_path / "data"
    folder.mkdir()
    clips = [{"path": f"test/{i}.flac", "piece": f"piece {i // 2}"} for i in range(N_CLIPS)]
    (folder / "clips.jsonl").write_text("".join(json.dumps(clip) + "\n" for clip in clips), encoding="utf-8")
    known = ("rendered", "pieces", "train_soundfont", "test_soundfont", "versions", "seed")
    (folder / "manifest.json").write_text(json.dumps(dict.fromkeys(known)), encoding="utf-8")
    return folder


def write_run(folder: Path, labels: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """A run that has ended with these scores; its ROC-AUC and PR-AUC."""
    folder.mkdir(parents=True)
    roc, pr = (
        float(np.mean([metric(labels[:, k], scores[:, k]) for k in range(N_TAGS)]))
        for metric in (roc_auc_score, average_precision_score)
    )
    np.savez(
        folder / "scores.npz",
        paths=[f"test/{i}.flac" for i in range(N_CLIPS)],
        labels=labels,
        pytorch=scores,
        fcntag=scores,
    )
    log: dict[str, Any] = {
        "test": {"roc_auc": roc, "pr_auc": pr, "n_tags": N_TAGS},
        "epochs": [{"roc_auc": 0.5, "seconds": 1.0}, {"roc_auc": 0.75, "seconds": 2.0}],
        "best_epoch": 1,
        "check": {"roc_auc_error": 1e-7, "max_abs_error": 2e-7},
        "parameters": 1000,
        "clips": {"test": N_CLIPS},
        "settings": {"lr": 0.1, "seed": 0, "document": {}},
        "environment": {},
    }
    (folder / "log.json").write_text(json.dumps(log), encoding="utf-8")
    (folder / "a.safetensors").touch()
    return roc, pr


def test_the_report_is_of_the_scores(data: Path, tmp_path: Path, rng: np.random.Generator, capsys: Any) -> None:
    labels = (rng.random((N_CLIPS, N_TAGS)) < 0.4).astype(np.float32)
    runs = tmp_path / "runs"
    values = {}
    for name, noise in (("fcn4-narrow", 0.3), ("fcn3-narrow", 3.0)):
        for seed in (0, 1, 4):
            scores = labels + noise * rng.standard_normal(labels.shape)
            values[name, seed] = write_run(runs / f"{name}-{seed}", labels, scores)
    write_run(runs / "fcn4-narrow-7", labels, rng.standard_normal(labels.shape))  # fcn3-narrow has no such seed
    (runs / "fcn5-narrow-0").mkdir()
    (runs / "fcn5-narrow-0" / "a.unchecked.safetensors").touch()  # failed its check
    out = tmp_path / "results.json"
    arguments = ["report", str(data), "--out", str(runs), "--json", str(out), "--resamples", "200"]
    assert experiments.main(arguments) == 0
    found = json.loads(out.read_text())["networks"]
    assert set(found) == {"fcn4-narrow", "fcn3-narrow"}
    three = found["fcn3-narrow"]
    assert list(three["seeds"]) == ["0", "1", "4"]
    assert three["seeds"]["4"]["roc_auc"] == values["fcn3-narrow", 4][0]
    assert three["seeds"]["4"]["best_epoch"] == 2
    assert three["seeds"]["4"]["validation_roc_auc"] == 0.75
    mean = np.mean([values["fcn3-narrow", seed] for seed in (0, 1, 4)], 0)
    assert three["test"]["roc_auc"]["value"] == pytest.approx(mean[0])
    assert three["test"]["pr_auc"]["value"] == pytest.approx(mean[1])
    assert three["test"]["roc_auc"]["low"] < mean[0] < three["test"]["roc_auc"]["high"]
    difference = three["difference"]
    assert difference["from"] == "fcn4-narrow"
    assert difference["seeds"] == [0, 1, 4]
    expected = mean - np.mean([values["fcn4-narrow", seed] for seed in (0, 1, 4)], 0)
    assert difference["roc_auc"]["value"] == pytest.approx(expected[0])
    assert difference["roc_auc"]["high"] < 0  # ten times the noise
    assert "difference" not in found["fcn4-narrow"]
    text = capsys.readouterr().out
    assert f"| fcn3-narrow | 0.00 M | 3 | {mean[0]:.3f} (" in text
    assert "from fcn4-narrow |" in text


def test_runs_that_failed_are_no_results(data: Path, tmp_path: Path, capsys: Any) -> None:
    assert experiments.main(["report", str(data), "--out", str(tmp_path)]) == 2
    assert "no run has ended" in capsys.readouterr().err


def test_what_has_ended_is_not_trained_again(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    class Done:
        returncode = 1

    monkeypatch.setattr(experiments.subprocess, "run", lambda command, check: commands.append(command) or Done)
    (tmp_path / "fcn3-narrow-0").mkdir()
    (tmp_path / "fcn3-narrow-0" / "a.safetensors").touch()
    arguments = ["train", str(data), "--out", str(tmp_path), "--networks", "fcn3-narrow,fcn4-narrow-mfcc"]
    assert experiments.main([*arguments, "--seeds", "0,3"]) == 1  # the runs failed
    assert [(c[c.index("--out") + 1], c[c.index("--seed") + 1]) for c in commands] == [
        (str(tmp_path / name), seed)
        for name, seed in (("fcn4-narrow-mfcc-0", "0"), ("fcn3-narrow-3", "3"), ("fcn4-narrow-mfcc-3", "3"))
    ]
    assert "--patience" in commands[0]
    network = Path(commands[0][commands[0].index("--network") + 1])
    assert ModelDocument.from_json(network.read_text()).frontend.kind == "mfcc"


def test_the_committed_results_are_those_that_the_page_shows() -> None:
    docs = Path(__file__).resolve().parent.parent / "docs"
    found = json.loads((docs / "experiments.json").read_text(encoding="utf-8"))["networks"]
    page = (docs / "experiments.md").read_text(encoding="utf-8").splitlines()
    for line in experiments.table(found):
        assert line in page
    for name, result in found.items():
        assert all(seed["fcntag_roc_auc_error"] < 1e-4 for seed in result["seeds"].values()), name
