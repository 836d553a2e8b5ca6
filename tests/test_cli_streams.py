"""``fcntag tag``: exit codes, and how it behaves between other programs: pipes, signals, terminals, full disks."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest
from support.cli_runner import command, environment, fcntag, lines, records, run, start

from fcntag import catalogue
from fcntag.cli import main

pytestmark = pytest.mark.usefixtures("home")


# ---- exit codes ----


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["-m", "no-such-model"], 3, "no-such-model: unknown model; known: mtt-vgg"),
        (["-m", "won2020-fcn-mtat"], 3, "fcntag models pull won2020-fcn-mtat"),
        (["-m", "./nothing.safetensors"], 3, "./nothing.safetensors: no such file"),
        (["--device", "cuda:99"], 4, "CUDA" if find_spec("fcntag._cuda") is None else "cuda"),
        (["--precision", "float16"], 4, "float16"),
        (["--resume"], 2, "--resume: needs a JSONL file"),
        (["-f", "parquet"], 2, "name a file with -o"),
        (["--hop", "1", "--segments", "center"], 2, "no meaning with segments='center'"),
        (["-", "-"], 2, "stdin can be read only once"),
    ],
)
def test_exit_codes_are_one_line(capsys, folder, arguments, code, text):
    assert run(capsys, "tag", folder / "good.wav", *arguments)[:2] == (code, "")
    main(["tag", str(folder / "good.wav"), *arguments])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fcntag: ")
    assert text in line


@pytest.mark.parametrize(
    "arguments",
    [
        ["tag"],
        [],
        ["play", "x"],
        ["tag", "x", "-n", "-1"],
        ["tag", "x", "--hop", "0"],
        ["tag", "x", "--device", "tpu"],
        ["tag", "x", "-b", "0"],
        ["tag", "x", "--segments", "last"],
        ["tag", "x", "-f", "xml"],
    ],
)
def test_usage_errors(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "usage: fcntag" in captured.err


def test_output_that_would_overwrite_an_input(capsys, folder):
    data = (folder / "good.wav").read_bytes()
    code, _, err = run(capsys, "tag", folder / "good.wav", "-o", folder / "good.wav")
    assert code == 2
    assert "would be overwritten" in err
    assert (folder / "good.wav").read_bytes() == data


def test_output_that_cannot_be_written(capsys, folder):
    code, _, err = run(capsys, "tag", folder / "good.wav", "-o", folder / "no" / "out.jsonl")
    assert code == 2
    assert err == f"fcntag: -o {folder / 'no' / 'out.jsonl'}: no such folder: {folder / 'no'}\n"
    code, _, err = run(capsys, "tag", folder / "good.wav", "-o", folder)
    assert (code, err) == (2, f"fcntag: -o {folder}: is a folder; name a file\n")


@pytest.mark.parametrize("name", ["good.wav", "sub/deep.flac"])
def test_output_that_a_folders_search_would_find(capsys, folder, name):
    data = (folder / name).read_bytes()
    (folder / "sub" / "link").symlink_to(folder)
    code, _, err = run(capsys, "tag", "-r", folder / "sub", "-f", "json", "-o", folder / name)
    assert (code, err) == (2, f"fcntag: {folder / name}: is an input, and would be overwritten\n")
    assert (folder / name).read_bytes() == data
    assert run(capsys, "tag", "-q", "-r", folder / "sub", "-o", folder / "sub" / "out.json")[0] == 1  # bad.mp3


def test_output_that_is_what_stdin_reads(folder):
    data = (folder / "good.wav").read_bytes()
    with open(folder / "good.wav", "rb") as stdin:
        arguments = command("tag", "-", "-o", folder / "good.wav")
        done = subprocess.run(arguments, stdin=stdin, capture_output=True, env=environment(), timeout=60, check=False)
    assert done.returncode == 2
    assert (folder / "good.wav").read_bytes() == data


def test_output_that_is_the_model(capsys, folder, tmp_path):
    model = tmp_path / "model.safetensors"
    model.write_bytes(catalogue.model_path("mtt-vgg").read_bytes())
    before = model.read_bytes()
    for arguments in (["tag", folder / "good.wav"], ["bench", "-q"]):
        option = "-o" if arguments[0] == "tag" else "--json"
        code, _, err = run(capsys, *arguments, "-m", model, option, model)
        assert (code, err) == (2, f"fcntag: {model}: is an input, and would be overwritten\n")
    assert model.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "options", "text"),
    [
        ({}, ["-t", "5000"], "threads=5000"),
        ({"FCNTAG_NUM_THREADS": "abc"}, [], "FCNTAG_NUM_THREADS='abc'"),
        ({"FCNTAG_FORCE_ISA": "foo"}, [], "FCNTAG_FORCE_ISA='foo'"),
    ],
)
@pytest.mark.parametrize("name", ["tag", "demo", "bench"])
def test_values_that_the_engine_refuses(folder, name, changes, options, text):
    inputs = [folder / "good.wav"] if name == "tag" else ["-q", "--peers", "none"] if name == "bench" else []
    done = fcntag(name, *inputs, *options, **changes)
    (line,) = lines(done.stderr)
    assert done.returncode == 2
    assert line.startswith("fcntag: ")
    assert text in line


def test_full_disk(folder):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command("tag", "-f", "jsonl", folder / "good.wav"),
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(),
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert lines(done.stderr) == ["fcntag: stdout: No space left on device"]
    for name, options in (
        ("tag", []),
        ("tag", ["-f", "csv"]),
        ("tag", ["-f", "parquet"]),
        ("embed", ["-f", "parquet"]),
    ):
        done = fcntag(name, folder / "good.wav", "-o", "/dev/full", *options)
        assert done.returncode == 1
        assert lines(done.stderr) == ["fcntag: /dev/full: No space left on device"]


# ---- streams ----


def test_quiet_and_verbose(capsys, folder):
    assert run(capsys, "tag", "-q", folder / "short.wav")[2] == ""
    err = run(capsys, "tag", "-v", folder / "good.wav")[2]
    assert err.startswith("fcntag: device auto: cpu (")
    assert err.count("device auto") == 1


def test_interrupt_is_clean(folder, tmp_path):
    paths = []
    for k in range(2000):  # seconds of work, however fast the engine is
        paths.append(tmp_path / f"{k:04}.wav")
        os.link(folder / "good.wav", paths[-1])
    for options, target in ([["-f", "jsonl"], None], [["-o", tmp_path / "out.json"], tmp_path / "out.json"]):
        process = start("tag", "-v", *options, *paths)
        if target is None:
            first = process.stdout.readline()
        else:
            first = b""
            deadline = time.monotonic() + 30
            while not target.exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.2)  # at work on the tracks
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 130
        assert err.decode().splitlines()[-1] == "fcntag: interrupted"
        assert b"Traceback" not in err
        text = (first + out).decode() if target is None else target.read_text()
        found = records(text) if target is None else json.loads(text)
        assert len(found) < len(paths)
        assert [record["path"] for record in found] == [str(path) for path in paths[: len(found)]]


def test_interrupt_while_stdin_is_silent():
    read, write = os.pipe()  # this end stays open: the program must not see the end of its input
    try:
        process = start("tag", "-v", "-", stdin=read)
        assert process.stderr.readline()  # the model is loaded ...
        time.sleep(1)  # ... and a thread waits for stdin
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        os.close(read)
        os.close(write)
    assert process.returncode == 130
    assert err.decode().splitlines()[-1] == "fcntag: interrupted"
    assert b"Fatal" not in err


def test_an_ignored_interrupt_stays_ignored(folder):
    """A shell starts background jobs so: Ctrl-C is meant for the program in the foreground."""
    read, write = os.pipe()
    process = start("tag", "-v", "-f", "jsonl", folder / "good.wav", "-", stdin=read, ignore_interrupts=True)
    os.close(read)
    first = process.stdout.readline()  # at work, and waiting for the second input
    process.send_signal(signal.SIGINT)
    with open(write, "wb") as stdin:
        stdin.write((folder / "good.wav").read_bytes())
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert len(records((first + out).decode())) == 2


def test_reader_that_goes_away(folder):
    for options in (["-f", "jsonl"], ["-f", "json"], ["-f", "csv"], []):
        process = start("tag", *options, *[folder / "good.wav"] * 30)
        process.stdout.close()
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (141, b"")


def test_closed_stdout(folder):
    line = " ".join([*command("tag", folder / "good.wav"), ">&-"])
    done = subprocess.run(["sh", "-c", line], stderr=subprocess.PIPE, env=environment(), timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_progress_only_on_a_terminal(folder):
    master, slave = pty.openpty()
    try:
        done = subprocess.run(
            command("tag", "-f", "jsonl", folder / "good.wav", folder / "bad.mp3"),
            stdout=subprocess.PIPE,
            stderr=slave,
            env=environment(),
            timeout=60,
            check=False,
        )
        seen = os.read(master, 65536).decode()
    finally:
        os.close(master)
        os.close(slave)
    assert done.returncode == 1
    assert len(records(done.stdout.decode())) == 2
    assert "1 of 2 tracks" in seen
    assert seen.count("bad.mp3: ") == 1
    assert seen.endswith("\r\n") or seen.endswith("\x1b[K")  # the bar is gone at the end


def test_what_c_libraries_print_stays_off_the_terminal(tmp_path):
    code = (
        "import os, sys\n"
        "from fcntag.cli.streams import libraries_hushed\n"
        "with libraries_hushed(True):\n"
        "    os.write(2, b'noise of a decoder\\n')\n"
        "    print('a message', file=sys.stderr)\n"
        "os.write(2, b'afterwards\\n')\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert (run.returncode, run.stderr) == (0, "a message\nafterwards\n")
