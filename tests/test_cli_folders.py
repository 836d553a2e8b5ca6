"""What ``-r`` takes from a folder: every ending that can be read, and nothing that systems leave lying about."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.cli_runner import records, run

from fcntag.audio.formats import ENDINGS
from fcntag.cli.inputs import PassedOver, collect

pytestmark = pytest.mark.usefixtures("home")
APPLE_DOUBLE = b"\0\x05\x16\x07\0\2\0\0Mac OS X        " + bytes(60)


@pytest.fixture
def music(folder) -> Path:
    """Two sound files, and none that fails."""
    (folder / "bad.mp3").unlink()
    (folder / "short.wav").unlink()
    (folder / "notes.txt").unlink()
    return folder


def found(folder: Path) -> tuple[list[str], str]:
    passed, failures = PassedOver(), []
    paths = list(collect([str(folder)], True, failures.append, passed))
    assert failures == []
    return [str(Path(path).relative_to(folder)) for path in paths], passed.line()


def test_every_ending_is_found_in_any_case(tmp_path):
    for ending in ENDINGS:
        (tmp_path / f"a{ending}").write_bytes(b"\x47")
        (tmp_path / f"B{ending.upper()}").write_bytes(b"\x47")
    names, line = found(tmp_path)
    assert len(names) == 2 * len(ENDINGS)
    assert line == ""


def test_a_ring_of_links_does_not_end_the_walk(capsys, music):
    (music / "a.wav").symlink_to(music / "b.wav")
    (music / "b.wav").symlink_to(music / "a.wav")
    (music / "folder").symlink_to(music / "folder")
    code, out, err = run(capsys, "tag", "-r", "-f", "jsonl", music)
    assert code == 1
    rows = records(out)
    assert [Path(row["path"]).name for row in rows] == ["a.wav", "b.wav", "good.wav", "deep.flac"]
    assert [row["error"] is None for row in rows] == [False, False, True, True]
    assert "a.wav: cannot be opened (Too many levels of symbolic links)" in err


def test_other_endings_are_counted_in_one_line(capsys, music):
    for name in ("cover.jpg", "rip.log", "no_ending", "sub/disc.cue"):
        (music / name).write_bytes(b"x")
    code, out, err = run(capsys, "tag", "-r", "-f", "jsonl", music)
    assert code == 0
    assert [Path(record["path"]).name for record in records(out)] == ["good.wav", "deep.flac"]
    assert err == "fcntag: 4 files with other endings passed over\n"
    assert run(capsys, "tag", "-r", "-q", "-f", "jsonl", music)[2] == ""


def test_resumed_runs_say_it_again_and_end_well(capsys, music, tmp_path):
    (music / "cover.jpg").write_bytes(b"x")
    (music / "._good.wav").write_bytes(APPLE_DOUBLE)
    output = tmp_path / "out.jsonl"
    line = "fcntag: 1 file with other endings passed over; also 1 AppleDouble file (._*)\n"
    for _ in range(2):
        code, _, err = run(capsys, "tag", "-r", "-f", "jsonl", "-o", output, "--resume", music)
        assert (code, err) == (0, line)
    assert len(records(output.read_text())) == 2


def test_appledouble_is_known_by_its_content(music):
    shutil.copy(music / "good.wav", music / "._sound.wav")  # named so, and sound all the same
    (music / "._good.wav").write_bytes(APPLE_DOUBLE)
    (music / "sub" / "._deep.flac").write_bytes(APPLE_DOUBLE)
    names, line = found(music)
    assert names == ["._sound.wav", "good.wav", "sub/deep.flac"]
    assert line == "2 AppleDouble files (._*) passed over"


def test_files_that_begin_with_a_dot_stay(music):
    for name in ("...One More Time.mp3", ".hidden.flac", "..wav.wav"):
        shutil.copy(music / "good.wav", music / name)
    (music / ".mp3").write_bytes(b"x")  # a name without an ending
    names, line = found(music)
    assert names == ["...One More Time.mp3", "..wav.wav", ".hidden.flac", "good.wav", "sub/deep.flac"]
    assert line == "1 file with other endings passed over"


@pytest.mark.parametrize(
    "name",
    [
        ".AppleDouble",
        "@eaDir",
        "@EADIR",
        "#recycle",
        "@Recycle",
        "$RECYCLE.BIN",
        ".Trash",
        ".Trash-1000",
        ".Trashes",
        "System Volume Information",
        ".@__thumb",
    ],
)
def test_folders_of_the_system_are_not_entered(capsys, music, name):
    inside = music / "sub" / name / "x.mp3"
    inside.mkdir(parents=True)
    (inside / "SYNOAUDIO_TMP.mp3").write_bytes(b"no sound")
    code, out, err = run(capsys, "tag", "-r", "-f", "jsonl", music)
    assert code == 0
    assert len(records(out)) == 2
    assert err == f"fcntag: 1 system folder ({name}) passed over\n"
    # One that is named is searched.
    assert [Path(path).name for path in collect([str(music / "sub" / name)], True, print)] == ["SYNOAUDIO_TMP.mp3"]


def test_folders_with_like_names_are_entered(music):
    for name in (".hidden", "recycle", "eaDir", "Trash", "#1 hits", "@home"):
        (music / name).mkdir()
        shutil.copy(music / "good.wav", music / name / "x.wav")
    names, line = found(music)
    assert (len(names), line) == (8, "")


def test_a_named_file_is_tried_and_its_error_told(capsys, music):
    (music / "._good.wav").write_bytes(APPLE_DOUBLE)
    code, _, err = run(capsys, "tag", music / "._good.wav")
    assert code == 1
    assert "AppleDouble" in err
    (music / "cover.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    code, _, err = run(capsys, "tag", music / "cover.jpg")
    assert code == 1
    assert "a JPEG image" in err


def test_typescript_is_no_transport_stream(music):
    (music / "index.ts").write_text("export const a = 1;\n")
    (music / "tv.ts").write_bytes(b"\x47\x40\0\x10")
    (music / "cut.ts").write_bytes(b"\x00\x12\xff\x10")
    names, line = found(music)
    assert names == ["cut.ts", "good.wav", "tv.ts", "sub/deep.flac"]
    assert line == "1 file with other endings passed over"


def test_embed_says_it_too(capsys, music, tmp_path):
    (music / "cover.jpg").write_bytes(b"x")
    code, _, err = run(capsys, "embed", "-r", "-o", tmp_path / "e.npy", music)
    assert (code, err) == (0, "fcntag: 1 file with other endings passed over\n")
