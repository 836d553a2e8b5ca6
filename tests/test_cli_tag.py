"""``fcntag tag``: formats, inputs, names, resume."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from support.cli_runner import command, environment, fcntag, lines, records, run

from fcntag import Tagger

pytestmark = pytest.mark.usefixtures("home")


# ---- formats ----


def test_table(capsys, folder):
    code, out, err = run(capsys, "tag", folder / "good.wav")
    assert (code, err) == (0, "")
    heading, *rows = out.splitlines()
    assert heading == f"{folder / 'good.wav'}  (0:07, 2 segments)"
    assert len(rows) == 5
    assert len({row.rindex(".") for row in rows}) == 1  # scores stand in one column
    scores = [float(row.split()[-1]) for row in rows]
    assert scores == sorted(scores, reverse=True)


def test_jsonl_is_the_record_of_the_api(capsys, folder):
    code, out, err = run(capsys, "tag", "-f", "jsonl", "-n", "0", folder / "good.wav", folder / "short.wav")
    assert code == 0
    with Tagger() as tagger:
        expected = [tagger.tag(folder / name).to_dict() for name in ("good.wav", "short.wav")]
    assert records(out) == expected
    assert list(expected[0]) == ["path", "duration_s", "model", "engine", "tags", "segments", "warnings", "error"]
    assert err.splitlines() == [f"fcntag: {folder / 'short.wav'}: {expected[1]['warnings'][0]}"]


def test_json_is_one_array(capsys, folder):
    code, out, _ = run(capsys, "tag", "-f", "json", folder / "good.wav", folder / "sub/deep.flac")
    assert code == 0
    assert [record["path"] for record in json.loads(out)] == [str(folder / "good.wav"), str(folder / "sub/deep.flac")]


def test_csv(capsys, folder):
    code, out, _ = run(capsys, "tag", "-f", "csv", "-n", "3", folder / "good.wav", folder / "bad.mp3")
    assert code == 1
    header, *rows = csv.reader(io.StringIO(out))
    assert header == ["path", "label", "score", "rank"]
    assert [row[3] for row in rows] == ["1", "2", "3"]
    assert {row[0] for row in rows} == {str(folder / "good.wav")}


def test_parquet(capsys, folder, tmp_path):
    from pyarrow import parquet

    target = tmp_path / "out.parquet"
    code, out, _ = run(capsys, "tag", "-o", target, folder / "good.wav", folder / "bad.mp3")
    assert (code, out) == (1, "")
    table = parquet.read_table(target)
    about = json.loads(table.schema.metadata[b"fcntag"])
    good, bad = table.to_pylist()
    with Tagger() as tagger:
        result = tagger.tag(folder / "good.wav")
    assert about["labels"] == list(result.tags)
    assert about["model"]["sha256"] == result.model.sha256
    np.testing.assert_array_equal(np.array(good["scores"], np.float32), result.scores)
    assert bad["scores"] is None
    assert "bad.mp3" in bad["error"]


@pytest.mark.parametrize(
    ("name", "start"), [("o.jsonl", '{"path"'), ("o.json", "[\n{"), ("o.csv", "path,"), ("o.txt", "/")]
)
def test_output_suffix_chooses_the_format(capsys, folder, tmp_path, name, start):
    code, out, _ = run(capsys, "tag", "-o", tmp_path / name, folder / "good.wav")
    assert (code, out) == (0, "")
    assert (tmp_path / name).read_text().startswith(start)


def test_top_and_threshold(capsys, folder):
    def labels(*options):
        code, out, _ = run(capsys, "tag", "-f", "jsonl", *options, folder / "good.wav")
        assert code == 0
        return [(tag["label"], tag["score"]) for tag in records(out)[0]["tags"]]

    everything = labels("-n", "0")
    assert len(everything) == 50
    assert labels() == everything[:5]
    assert labels("-n", "2") == everything[:2]
    above = [tag for tag in everything if tag[1] >= 0.02]
    assert labels("--threshold", "0.02") == above
    assert labels("--threshold", "0.02", "-n", "1") == above[:1]
    assert labels("--threshold", "1.1") == []


def test_hop_and_segments(capsys, folder):
    def count(*options):
        code, out, _ = run(capsys, "tag", "-f", "jsonl", *options, folder / "good.wav")
        assert code == 0
        return len(records(out)[0]["segments"])

    assert count() == 2
    assert count("--segments", "center") == 1
    assert count("--hop", "1") == 5


# ---- inputs ----


def test_recursive_is_sorted_and_skips_other_files(capsys, folder):
    code, out, err = run(capsys, "tag", "-r", "-f", "jsonl", folder)
    assert code == 1  # bad.mp3 is named like music
    names = [Path(record["path"]).name for record in records(out)]
    assert names == ["bad.mp3", "good.wav", "short.wav", "deep.flac"]
    assert [record["error"] is None for record in records(out)] == [False, True, True, True]
    assert sum("bad.mp3" in line for line in err.splitlines()) == 1


def test_folder_without_recursive(capsys, folder):
    code, out, err = run(capsys, "tag", folder)
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith(f"fcntag: {folder}: is a directory")
    assert "-r" in line


def test_folder_without_music(capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    code, out, err = run(capsys, "tag", "-r", tmp_path / "empty")
    assert (code, out) == (1, "")
    assert err == f"fcntag: {tmp_path / 'empty'}: no sound files in it\n"


def test_link_loops_end(capsys, folder):
    (folder / "sub" / "up").symlink_to(folder)
    code, out, _ = run(capsys, "tag", "-r", "-f", "jsonl", folder / "sub")
    assert code == 1
    assert len(records(out)) == 4  # up/ leads to the three beside sub/, and not into sub/ again


def test_named_files_are_tried_whatever_their_name(capsys, folder):
    (folder / "good.wav").rename(folder / "song.txt")
    assert run(capsys, "tag", folder / "song.txt")[0] == 0


def test_missing_file_is_one_line(capsys, folder):
    code, out, err = run(capsys, "tag", "-f", "jsonl", folder / "nope.wav", folder / "good.wav")
    assert code == 1
    assert err == f"fcntag: {folder / 'nope.wav'}: no such file\n"
    missing, good = records(out)
    assert missing["error"] == f"{folder / 'nope.wav'}: no such file"
    assert good["error"] is None


def test_stdin(folder):
    data = (folder / "good.wav").read_bytes()
    done = fcntag("tag", "-f", "jsonl", "-", stdin=data)
    assert (done.returncode, done.stderr) == (0, b"")
    (record,) = records(done.stdout.decode())
    assert record["path"] == "<stdin>"
    with Tagger() as tagger:
        assert record["tags"] == tagger.tag(data).to_dict(5)["tags"]
    empty = fcntag("tag", "-", stdin=b"")
    assert (empty.returncode, empty.stdout) == (1, b"")
    assert len(lines(empty.stderr)) == 1
    assert lines(empty.stderr)[0].startswith("fcntag: <stdin>: empty")


def test_names_that_are_not_utf8(folder):
    name = os.fsencode(folder) + b"/latin1_\xe9\n.wav"
    os.rename(folder / "good.wav", name)
    shown = f"{folder}/latin1_\\xe9"
    for encoding in ("utf-8", "ascii", "latin-1"):
        arguments = [*command("tag", "-f", "jsonl"), name]
        done = subprocess.run(
            arguments, capture_output=True, env=environment(PYTHONIOENCODING=encoding), timeout=60, check=False
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert records(done.stdout.decode())[0]["path"] == shown + "\n.wav"
    done = subprocess.run([*command("tag"), name], capture_output=True, env=environment(), timeout=60, check=False)
    assert lines(done.stdout)[0].startswith(shown + "\\n.wav  (")
    os.truncate(name, 0)
    done = subprocess.run([*command("tag"), name], capture_output=True, env=environment(), timeout=60, check=False)
    assert done.returncode == 1
    assert len(lines(done.stderr)) == 1
    assert lines(done.stderr)[0].startswith(f"fcntag: {shown}\\n.wav: ")


# ---- resume ----


def test_resume(capsys, folder, tmp_path):
    target = tmp_path / "out.jsonl"
    good, short, bad = folder / "good.wav", folder / "short.wav", folder / "bad.mp3"
    assert run(capsys, "tag", "--resume", "-o", target, good, bad)[0] == 1
    first = target.read_text()
    with open(target, "a") as file:
        file.write('{"path": "torn')
    code, out, err = run(capsys, "tag", "-q", "--resume", "-o", target, good, short, bad)
    assert (code, out) == (1, "")
    assert "the last line is incomplete" in err
    text = target.read_text()
    assert text.startswith(first)
    assert [Path(record["path"]).name for record in records(text)] == ["good.wav", "bad.mp3", "short.wav", "bad.mp3"]
    assert run(capsys, "tag", "-q", "--resume", "-o", target, good, short) == (0, "", "")
    assert target.read_text() == text


def test_without_resume_the_output_is_replaced(capsys, folder, tmp_path):
    target = tmp_path / "out.jsonl"
    target.write_text("old\n")
    assert run(capsys, "tag", "-o", target, folder / "good.wav")[0] == 0
    assert len(records(target.read_text())) == 1


def test_resume_refuses_another_models_file(capsys, folder, tmp_path):
    target = tmp_path / "out.jsonl"
    assert run(capsys, "tag", "-o", target, folder / "good.wav")[0] == 0
    before = target.read_text()
    code, _, err = run(capsys, "tag", "--resume", "-m", "msd-vgg", "-o", target, folder / "good.wav")
    assert code == 2
    assert "line 1 is from model mtt-vgg" in err
    assert target.read_text() == before
    target.write_text("some notes of mine\n")
    code, _, err = run(capsys, "tag", "--resume", "-o", target, folder / "good.wav")
    assert code == 2
    assert "line 1 is not a record" in err
    assert target.read_text() == "some notes of mine\n"


@pytest.mark.parametrize("content", [b"[1]", b"some text", b"\x00\x01\xff", b'{"path', b'{"pathology": 1}'])
def test_resume_cuts_off_records_only(capsys, folder, tmp_path, content):
    target = tmp_path / "out.jsonl"
    target.write_bytes(content)
    code, _, err = run(capsys, "tag", "--resume", "-o", target, folder / "good.wav")
    if b'{"path": '.startswith(content):
        assert code == 0
        assert len(records(target.read_text())) == 1
    else:
        assert code == 2
        assert err == f"fcntag: {target}: line 1 is not a record of fcntag; use another file\n"
        assert target.read_bytes() == content


@pytest.mark.parametrize(
    ("command", "name"),
    [("tag", "o.npy"), ("tag", "o.PNG"), ("taggram", "g.parquet"), ("embed", "e.csv"), ("embed", "e.json")],
)
@pytest.mark.parametrize("explicit", [False, True])
def test_suffix_of_a_format_that_is_not_written(capsys, folder, tmp_path, command, name, explicit):
    options = ["-f", "npy" if command == "embed" else "jsonl"] if explicit else []
    code, _, err = run(capsys, command, "-o", tmp_path / name, *options, folder / "good.wav")
    assert code == 2
    assert "is not written by this command; it writes " in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / name).exists()


def test_unknown_suffix_is_the_default_format(capsys, folder, tmp_path):
    assert run(capsys, "embed", "-o", tmp_path / "e.xyz", folder / "good.wav")[0] == 0
    assert np.load(tmp_path / "e.xyz").shape[0] == 1
    assert run(capsys, "tag", "-f", "jsonl", "-o", tmp_path / "t.log", folder / "good.wav")[0] == 0
    assert len(records((tmp_path / "t.log").read_text())) == 1
