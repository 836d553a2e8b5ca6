"""``fcntag eval``: reports, exit codes, messages, and runs that are killed."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score
from support.cli_runner import environment, run, start
from support.eval_sets import write_clips, write_mtt

from fcntag import Tagger

pytestmark = pytest.mark.usefixtures("home")

CLIPS = {
    "d/one.wav": ["rock", "guitar"],
    "d/zwei – Lärm.wav": ["guitar"],
    "e/three.wav": ["techno"],
    "f/four.wav": ["guitar", "techno"],
    "f/five.wav": [],
    "0/train.wav": ["rock"],  # not in the test split: needs no file
}
TEST = [name for name in CLIPS if name[0] in "def"]


@pytest.fixture
def mtt(tmp_path) -> Path:
    write_clips(tmp_path / "mtt", TEST)
    write_mtt(tmp_path / "annotations_final.csv", CLIPS)
    return tmp_path


def mtt_arguments(folder: Path) -> list:
    return ["eval", "magnatagatune", folder / "annotations_final.csv", "--audio", folder / "mtt", "--bootstrap", "50"]


def truth(tag: str) -> list[bool]:
    return [tag in CLIPS[name] for name in TEST]


def test_json_is_what_scikit_learn_says(capsys, mtt):
    code, out, err = run(capsys, *mtt_arguments(mtt), "-f", "json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    with Tagger() as tagger:
        scores = np.array([tagger.tag(mtt / "mtt" / name).scores for name in TEST])
        sha256, tags = tagger.model.sha256, tagger.tags
    figures = {"roc_auc": [], "pr_auc": []}
    assert [tag["label"] for tag in report["tags"]] == ["rock", "guitar", "techno"]  # the dataset's order
    for tag in report["tags"]:
        y, s = truth(tag["label"]), scores[:, tags.index(tag["label"])]
        assert tag["positives"] == sum(y)
        for name, function in (("roc_auc", roc_auc_score), ("pr_auc", average_precision_score)):
            assert tag[name]["value"] == pytest.approx(function(y, s), abs=1e-12)
            figures[name].append(tag[name]["value"])
    for name, values in figures.items():
        assert report["macro"][name]["value"] == pytest.approx(np.mean(values), abs=1e-12)
        assert report["macro"][name]["low"] <= report["macro"][name]["value"] <= report["macro"][name]["high"]
    assert report["scores"]["model"] == {"name": "mtt-vgg", "sha256": sha256}
    assert report["left_out"] == [{"label": "no vocals", "positives": 0}]
    assert report["only_in_dataset"] == ["hip hop beats"]
    assert len(report["only_in_model"]) == 46
    assert report["clips"] == {"evaluated": 5, "from_cache": 0, "untagged": 0, "missing": 0, "failed": 0}
    assert report["settings"] == {"resamples": 50, "seed": 0, "confidence": 0.95}
    assert report["published"] == []  # they are for other clips
    assert report["notes"] == [
        "the published figures of mtt-vgg are not shown: they are for a test set of 5329 clips, these are 5"
    ]


def test_table_and_csv_say_the_same(capsys, mtt):
    code, table, err = run(capsys, *mtt_arguments(mtt))
    assert (code, err) == (0, "")
    code, text, _ = run(capsys, *mtt_arguments(mtt), "-f", "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["label"] for row in rows] == ["(macro)", "rock", "guitar", "techno", "no vocals"]
    assert rows[-1]["roc_auc"] == ""
    lines = table.splitlines()
    assert lines[0] == "MagnaTagATune, test: 5 clips"
    macro = next(line for line in lines if line.startswith("  macro"))
    for name in ("roc_auc", "roc_auc_low", "roc_auc_high", "pr_auc", "pr_auc_low", "pr_auc_high"):
        assert f"{float(rows[0][name]):.4f}" in macro
    assert any(line.startswith("note: the published figures of mtt-vgg are not shown: ") for line in lines)
    assert "left out: no vocals: no clip has it" in lines


def test_missing_and_broken_clips_are_listed_and_do_not_stop(capsys, mtt):
    (mtt / "mtt" / "d" / "one.wav").unlink()
    (mtt / "mtt" / "e" / "three.wav").write_text("not music")
    code, out, err = run(capsys, *mtt_arguments(mtt), "-o", mtt / "report.json")
    assert (code, out) == (1, "")
    report = json.loads((mtt / "report.json").read_text(encoding="utf-8"))
    assert report["missing"] == [str(mtt / "mtt" / "d" / "one.wav")]
    assert [failed["path"] for failed in report["failed"]] == ["e/three.wav"]
    assert report["clips"]["evaluated"] == 3
    broken, missing, summary = err.splitlines()
    assert broken.startswith(f"fcntag: {mtt / 'mtt' / 'e' / 'three.wav'}: ")
    assert missing == f"fcntag: 1 file is not there: {mtt / 'mtt' / 'd' / 'one.wav'}"
    assert summary.startswith("fcntag: macro over ")
    code, out, _ = run(capsys, *mtt_arguments(mtt), "-q")
    assert code == 1
    assert f"missing: {mtt / 'mtt' / 'd' / 'one.wav'}" in out
    assert "three.wav" in out


def test_no_clip_at_all(capsys, mtt):
    code, out, err = run(capsys, "eval", "magnatagatune", mtt / "annotations_final.csv", "--audio", mtt / "nowhere")
    assert (code, out) == (1, "")
    first = mtt / "nowhere" / "d" / "one.wav"
    assert err.splitlines()[-1].startswith(
        f"fcntag: MagnaTagATune: no clip has scores: 5 missing, 0 failed; {first} is not there"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "csv", "gone.csv"], "gone.csv: No such file or directory"),
        (["eval", "msd", "a.csv", "--split", "test"], "--split: goes with magnatagatune, jamendo, csv only"),
        (["eval", "csv", "a.csv", "--split", "test"], "a.csv: the split 'test' needs a second column: path,split,..."),
        (["eval", "csv", "a.csv", "--split", "dev"], "split: 'dev' is not one of train, validation, test, all"),
        (["eval", "csv", "a.csv", "--split", "all", "--list", "l"], "--split: not with --list"),
        (["eval", "csv", "a.csv", "--labels", "y.npy"], "--labels: goes with msd only"),
        (["eval", "csv", "a.csv", "--plot", "x.pdf"], "--plot x.pdf: the picture is written as PNG"),
        (["eval", "csv", "a.csv", "-o", "a.csv"], "a.csv: is an input, and would be overwritten"),
        (["eval", "csv", "a.csv", "--scores", "s.csv", "--cache", "c"], "--cache: not with --scores"),
        (["eval", "csv", "a.csv", "--scores", "s.csv"], "s.csv: No such file or directory"),
        (["eval", "csv", "a.csv", "--tag-names", "t"], "--tag-names: goes with msd"),
        (["eval", "csv", "a.csv", "--map", "m.json"], "m.json: No such file or directory"),
        (["eval", "csv", "a.csv"], "a.csv: none of its tags (zither) is one of the model's"),
        (["eval", "magnatagatune", "a.csv", "--split", "dev"], "split: 'dev' is not one of train, validation"),
        (["eval", "csv", "a.csv", "-m", "no-such-model"], "no-such-model"),
    ],
)
def test_usage_errors_are_one_line(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("x.mp3,zither\n")
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (3 if "no-such-model" in arguments else 2, "")
    (line,) = err.splitlines()
    assert message in line
    assert (tmp_path / "a.csv").read_text() == "x.mp3,zither\n"


@pytest.mark.parametrize("value", ["0", "1", "nan", "x"])
def test_confidence_is_a_share(capsys, value):
    with pytest.raises(SystemExit) as exit_:
        run(capsys, "eval", "csv", "a.csv", "--confidence", value)
    assert exit_.value.code == 2
    assert f"'{value}' is not a number" in capsys.readouterr().err


def test_plot(capsys, mtt):
    write_mtt(mtt / "annotations_final.csv", CLIPS, ["rock", "guitar", "no vocals", "techno"])
    code, _, err = run(capsys, *mtt_arguments(mtt), "--plot", mtt / "tags.png")
    assert (code, err) == (0, "")
    data = (mtt / "tags.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) > 10_000


def test_list_map_top_tags_and_skip_untagged(capsys, mtt):
    (mtt / "list.tsv").write_text(
        "4\td/one.wav\n5\tf/four.wav\n6\tf/five.wav\n7\td/zwei – Lärm.wav\n", encoding="utf-8"
    )
    (mtt / "map.json").write_text('{"hip hop beats": "beats", "techno": null}')
    write_mtt(mtt / "annotations_final.csv", {**CLIPS, "f/four.wav": ["guitar", "hip hop beats"]})
    arguments = [*mtt_arguments(mtt), "--list", mtt / "list.tsv", "--map", mtt / "map.json", "-f", "json"]
    code, out, _ = run(capsys, *arguments, "--top-tags", "0", "--skip-untagged")
    assert code == 0
    report = json.loads(out)
    assert {tag["label"]: (tag["annotated_as"], tag["positives"]) for tag in report["tags"]} == {
        "rock": (["rock"], 1),
        "beats": (["hip hop beats"], 1),
    }
    assert report["left_out"] == [{"label": "guitar", "positives": 3}, {"label": "no vocals", "positives": 0}]
    assert report["clips"]["untagged"] == 1
    assert report["dataset"]["list"] == str(mtt / "list.tsv")


def test_jamendo_and_msd(capsys, tmp_path):
    write_clips(tmp_path / "audio", ["15/215.low.wav", "34/2634.low.wav", "A/B/C/TRABC1.wav", "X/Y/Z/TRXYZ2.wav"])
    (tmp_path / "test.tsv").write_text(
        "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS\n"
        "track_0000215\ta\tb\t15/215.mp3\t3.2\tgenre---metal\n"
        "track_0002634\ta\tb\t34/2634.mp3\t3.2\tgenre---folk\n"
    )
    (tmp_path / "map.json").write_text('{"genre---metal": "metal", "genre---folk": "folk"}')
    common = ["--audio", tmp_path / "audio", "--bootstrap", "0", "-m", "msd-vgg", "-f", "json"]
    jamendo = ["eval", "jamendo", tmp_path / "test.tsv", "--suffix", ".wav", "--map", tmp_path / "map.json"]
    code, out, _ = run(capsys, *jamendo, *common)
    assert code == 0
    assert [tag["label"] for tag in json.loads(out)["tags"]] == ["folk", "metal"]
    (tmp_path / "ids.txt").write_text("TRABC1\nTRXYZ2\n")
    labels = np.zeros((2, 50), int)
    labels[0, 0] = labels[1, 1] = 1
    np.save(tmp_path / "y.npy", labels)
    msd = ["eval", "msd", tmp_path / "ids.txt", "--labels", tmp_path / "y.npy", "--tag-names", "model"]
    code, out, _ = run(capsys, *msd, "--suffix", ".wav", *common)
    assert code == 0
    report = json.loads(out)
    with Tagger("msd-vgg") as tagger:
        assert [tag["label"] for tag in report["tags"]] == list(tagger.tags[:2])
    assert len(report["left_out"]) == 48


def test_csv_with_splits(capsys, mtt):
    """A dataset.csv of recipes/train.py: its test clips alone are looked for, unless another split is asked for."""
    splits = ["test"] * len(TEST) + ["train"]
    rows = [f"{name},{split},{';'.join(CLIPS[name])}\n" for name, split in zip(CLIPS, splits, strict=True)]
    (mtt / "dataset.csv").write_text("path,split,tags\n" + "".join(rows), encoding="utf-8")
    arguments = ["eval", "csv", mtt / "dataset.csv", "--audio", mtt / "mtt", "--bootstrap", "20"]
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "csv, test: 5 clips"
    code, out, _ = run(capsys, *arguments, "--split", "all", "-f", "json")
    report = json.loads(out)
    assert (code, report["dataset"]["split"], report["missing"]) == (1, "all", [str(mtt / "mtt" / "0" / "train.wav")])
    (mtt / "dataset.csv").write_text("path,split,tags\n" + "".join(rows).replace(",test,", ",valid,"), encoding="utf-8")
    code, out, err = run(capsys, *arguments)
    assert (code, out.splitlines()[0]) == (1, "csv, all: 5 clips, 1 missing")
    assert err.splitlines()[0].endswith("no clip has the split 'test'; all are taken (1 train, 5 validation)")
    code, out, _ = run(capsys, *arguments, "--split", "validation")
    assert (code, out.splitlines()[0]) == (0, "csv, validation: 5 clips")


@pytest.mark.parametrize("form", ["parquet", "jsonl", "json", "csv"])
def test_what_fcntag_tag_wrote_gives_the_same_figures(capsys, mtt, form):
    code, out, _ = run(capsys, *mtt_arguments(mtt), "-f", "csv")
    scores = mtt / f"scores.{form}"
    assert run(capsys, "tag", "-n", "0", "-r", "-o", scores, mtt / "mtt")[0] == code == 0
    code, again, err = run(capsys, *mtt_arguments(mtt), "-f", "csv", "--scores", scores)
    assert (code, err) == (0, "")
    assert again == out


def test_the_best_five_tags_are_not_enough(capsys, mtt):
    assert run(capsys, "tag", "-r", "-o", mtt / "five.jsonl", mtt / "mtt")[0] == 0
    code, out, err = run(capsys, *mtt_arguments(mtt), "--scores", mtt / "five.jsonl")
    assert (code, out) == (2, "")
    assert "five.jsonl: line 2 has other tags than those before; every track needs all tags: fcntag tag -n 0" in err


# ---- the cache, from outside ----


def test_a_killed_run_goes_on(capsys, tmp_path):
    """SIGKILL while a pipe in the place of the last clip keeps the run from its end; then the clip is there."""
    names = [f"{i:03}.wav" for i in range(90)]
    write_clips(tmp_path / "audio", names, seconds=3.0)
    last = tmp_path / "audio" / names[-1]
    sound = last.read_bytes()
    last.unlink()
    os.mkfifo(last)
    rows = [f"{name},{('rock', 'guitar', 'techno')[i % 3]}\n" for i, name in enumerate(names)]
    (tmp_path / "set.csv").write_text("".join(rows))
    arguments = ["eval", "csv", tmp_path / "set.csv", "--audio", tmp_path / "audio", "--bootstrap", "20", "-f", "csv"]
    cached = [*arguments, "--cache", tmp_path / "cache"]
    process = start(*cached)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "cache").glob("*/*.parquet")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert process.stdout.read() == b""
    process.stdout.close()
    process.stderr.close()
    last.unlink()
    last.write_bytes(sound)
    code, out, err = run(capsys, *cached, "-o", tmp_path / "report.json", "-f", "json", "-q")
    assert (code, out, err) == (0, "", "")
    report = json.loads((tmp_path / "report.json").read_text())
    assert 64 <= report["clips"]["from_cache"] < 90  # a part holds 64; what came after it is lost with the process
    assert report["clips"]["evaluated"] == 90
    code, resumed, _ = run(capsys, *cached)
    code, fresh, _ = run(capsys, *arguments)
    assert code == 0
    assert resumed == fresh


def test_an_interrupted_run_goes_on(tmp_path, capsys):
    """SIGINT writes all that was scored, whatever the size of a part."""
    names = [f"{i:03}.wav" for i in range(12)]
    write_clips(tmp_path / "audio", names)
    (tmp_path / "audio" / "998.wav").write_text("not music")
    os.mkfifo(tmp_path / "audio" / "999.wav")
    (tmp_path / "set.csv").write_text(
        "".join(f"{n},{'rock' if i % 2 else 'pop'}\n" for i, n in enumerate([*names, "998.wav", "999.wav"]))
    )
    arguments = ["eval", "csv", tmp_path / "set.csv", "--audio", tmp_path / "audio", "--cache", tmp_path / "cache"]
    process = start(*arguments, "-v", "--bootstrap", "0")
    while b"998.wav: " not in (line := process.stderr.readline()):  # the clips before it are done
        assert line, "it has ended"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, b"")
    assert err.decode().splitlines()[-1] == "fcntag: interrupted"
    (tmp_path / "audio" / "999.wav").unlink()
    code, out, _ = run(capsys, *arguments, "--bootstrap", "0", "-f", "json")
    assert code == 1  # 999.wav is not there now
    assert json.loads(out)["clips"]["from_cache"] == 12


def test_stale_scores_are_told_in_one_line(capsys, mtt):
    cache = ["--cache", mtt / "cache"]
    assert run(capsys, *mtt_arguments(mtt), *cache)[::2] == (0, "")
    code, out, err = run(capsys, *mtt_arguments(mtt), *cache, "--segments", "first")
    assert code == 0
    assert (
        err == f"fcntag: {mtt / 'cache'}: holds scores of other models, versions or settings (1); they are not used\n"
    )
    assert "from the cache" not in out
    code, out, err = run(capsys, *mtt_arguments(mtt), *cache)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "MagnaTagATune, test: 5 clips, 5 from the cache"


# ---- what it needs ----


@pytest.mark.parametrize(
    ("module", "extra", "options"),
    [("pyarrow", "eval", ["--cache", "c"]), ("matplotlib", "plot", ["--plot", "x.png"])],
)
def test_a_missing_extra_is_named(mtt, module, extra, options):
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from fcntag.cli import main\n"
        f"sys.exit(main({[str(a) for a in [*mtt_arguments(mtt), *options]]!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=mtt,
        env=environment(),
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f'fcntag: {module} is not installed; it comes with: pip install "fcntag[{extra}]"\n'


def test_needs_no_extra_without_cache_and_plot(mtt):
    code = (
        "import sys, json, fcntag\n"
        "assert 'fcntag.eval' not in sys.modules and 'numpy' not in sys.modules\n"
        "from fcntag.cli import main\n"
        f"assert main({[str(a) for a in mtt_arguments(mtt)]!r}) == 0\n"
        "assert fcntag.eval.evaluate\n"
        "found = {'sklearn', 'scipy', 'pyarrow', 'matplotlib'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
