"""taggram, embed, models, convert, doctor, demo, help: what each prints, writes and returns."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.cli_runner import environment, fcntag, lines

import fcntag as package
from fcntag import Tagger, catalogue, demo
from fcntag.cli import main
from fcntag.model import paper

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(scope="module")
def song(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("song") / "song.wav"
    soundfile.write(path, demo.synthesise(0)[: 44100 * 10], 44100)
    return path


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# ---- taggram ----


def test_taggram_json(capsys, song):
    code, out, err = run(capsys, "taggram", song)
    assert (code, err) == (0, "")
    (record,) = json.loads(out)
    with Tagger() as tagger:
        result = tagger.tag(song)
    assert record["labels"] == list(result.tags)
    scores = np.array([segment["scores"] for segment in record["segments"]], np.float32)
    np.testing.assert_array_equal(scores, result.segments)
    assert [segment["start_s"] for segment in record["segments"]] == result.start_s
    assert [segment["end_s"] for segment in record["segments"]] == result.end_s


def test_taggram_top_and_hop(capsys, song):
    code, out, _ = run(capsys, "taggram", "-n", "3", "--hop", "0.5", "-f", "jsonl", song)
    assert code == 0
    record = json.loads(out)
    with Tagger() as tagger:
        result = tagger.tag(song, hop=0.5)
    assert record["labels"] == [label for label, _ in result.top(3)]
    assert len(record["segments"]) == len(result.start_s) > 10


def test_taggram_csv(capsys, song):
    code, out, _ = run(capsys, "taggram", "-f", "csv", "-n", "2", song)
    assert code == 0
    header, *rows = csv.reader(io.StringIO(out))
    assert header == ["path", "start_s", "end_s", "label", "score"]
    assert len(rows) == 2 * 3  # two tags, three windows


def test_taggram_of_a_bad_file(capsys, tmp_path):
    (tmp_path / "x.mp3").write_text("no")
    code, out, err = run(capsys, "taggram", tmp_path / "x.mp3")
    assert code == 1
    assert json.loads(out)[0]["segments"] == []
    assert len(err.splitlines()) == 1


def test_taggram_plot(capsys, song, tmp_path):
    target = tmp_path / "map.png"
    assert run(capsys, "taggram", "--plot", target, song) == (0, "", "")
    assert target.read_bytes().startswith(b"\x89PNG")
    code, out, _ = run(capsys, "taggram", "--plot", target, "--hop", "0.25", "-n", "0", "-f", "jsonl", song)
    assert code == 0
    assert len(json.loads(out)["labels"]) == 50
    code, _, err = run(capsys, "taggram", "--plot", target, song, song)
    assert code == 2
    assert "draws one track" in err


def test_plot_colours_follow_the_scores(song, tmp_path):
    from matplotlib import image

    from fcntag.cli.taggram import draw

    with Tagger() as tagger:
        result = tagger.tag(song)
    dark, bright = result.segments * 0, result.segments * 0 + 1
    means = []
    for k, segments in enumerate((dark, bright)):
        draw(type(result)(**{**vars(result), "segments": segments}), str(tmp_path / f"{k}.png"))
        means.append(image.imread(tmp_path / f"{k}.png")[300, 400, :3].mean())
    assert means[0] < 0.1
    assert means[1] > 0.7


def test_plot_is_scaled_to_the_best_score(song, tmp_path):
    from matplotlib import image

    from fcntag.cli.taggram import draw

    with Tagger() as tagger:
        result = tagger.tag(song)
    low = result.segments * 0 + 0.2
    draw(type(result)(**{**vars(result), "segments": low}), str(tmp_path / "low.png"))
    assert image.imread(tmp_path / "low.png")[300, 400, :3].mean() > 0.7
    nothing = result.segments * 0 + 0.001
    draw(type(result)(**{**vars(result), "segments": nothing}), str(tmp_path / "nothing.png"))
    assert image.imread(tmp_path / "nothing.png")[300, 400, :3].mean() < 0.1


@pytest.mark.parametrize("name", ["a$b_{$.wav", "$x^$ \u97f3\u697d \u0627.wav"])
def test_plot_of_a_name_that_is_no_formula(song, tmp_path, name):
    (tmp_path / name).write_bytes(song.read_bytes())
    done = fcntag("taggram", "--plot", tmp_path / "map.png", tmp_path / name)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_outputs_that_would_overwrite(capsys, song, tmp_path):
    track = tmp_path / "track.png"  # a sound file, whatever its name
    track.write_bytes(song.read_bytes())
    code, _, err = run(capsys, "taggram", track, "--plot", track)
    assert (code, err) == (2, f"fcntag: {track}: is an input, and would be overwritten\n")
    index = tmp_path / "w.npy.json"
    index.write_bytes(song.read_bytes())
    code, _, err = run(capsys, "embed", index, "-o", tmp_path / "w.npy")
    assert (code, err) == (2, f"fcntag: {index}: is an input, and would be overwritten\n")
    assert track.read_bytes() == index.read_bytes() == song.read_bytes()
    both = tmp_path / "p.txt.png"
    (tmp_path / "q.jsonl").symlink_to(both)
    code, _, err = run(capsys, "taggram", song, "--plot", both, "-o", tmp_path / "q.jsonl")
    assert (code, err) == (2, f"fcntag: --plot {both}: is what -o writes, too; name another file\n")
    assert not both.exists()


@pytest.mark.parametrize(
    ("name", "text"), [("pic.jpg", "end the name in .png"), ("no/pic.png", "no such folder"), ("p", "end the name")]
)
def test_plot_that_cannot_be_written(capsys, song, tmp_path, name, text):
    code, _, err = run(capsys, "taggram", "--plot", tmp_path / name, song)
    assert code == 2
    assert text in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.glob("p*")) == []


# ---- embed ----


def test_embed_npy(capsys, song, tmp_path):
    (tmp_path / "bad.wav").write_text("no")
    target = tmp_path / "out.npy"
    code, out, err = run(capsys, "embed", "-o", target, song, tmp_path / "bad.wav", song)
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1
    features = np.load(target)
    with Tagger() as tagger:
        expected = tagger.embed(song).mean
    np.testing.assert_array_equal(features, np.stack([expected, expected]))
    index = json.loads((tmp_path / "out.npy.json").read_text())
    assert index["paths"] == [str(song), str(song)]
    assert list(index["errors"]) == [str(tmp_path / "bad.wav")]
    assert (index["which"], index["model"]["name"]) == ("head", "mtt-vgg")


def test_embed_of_nothing_is_a_valid_file(capsys, tmp_path):
    (tmp_path / "bad.wav").write_text("no")
    assert run(capsys, "embed", "-o", tmp_path / "out.npy", tmp_path / "bad.wav")[0] == 1
    assert len(np.load(tmp_path / "out.npy")) == 0


def test_embed_parquet(capsys, song, tmp_path):
    from pyarrow import parquet

    target = tmp_path / "out.parquet"
    assert run(capsys, "embed", "--which", "blocks", "-o", target, song)[0] == 0
    table = parquet.read_table(target)
    (row,) = table.to_pylist()
    assert len(row["embedding"]) == 5 * 128
    assert json.loads(table.schema.metadata[b"fcntag"])["which"] == "blocks"


def test_embed_needs_a_file(capsys, song):
    code, _, err = run(capsys, "embed", song)
    assert code == 2
    assert "name a file with -o" in err


# ---- models, convert ----


def test_models_list(capsys):
    code, out, _ = run(capsys, "models", "list")
    assert code == 0
    rows = {line.split()[0]: line for line in out.splitlines()[1:]}
    assert list(rows) == [entry.name for entry in catalogue.entries()] + list(paper.PAPER)
    assert "no weights" in rows["fcn7"]
    assert "embedded" in rows["mtt-vgg"]
    assert "to pull" in rows["won2020-fcn-mtat"]
    listed = json.loads(run(capsys, "models", "list", "--json")[1])
    assert [row["name"] for row in listed] == list(rows)


def test_models_info(capsys):
    code, out, _ = run(capsys, "models", "info", "mtt-vgg")
    assert code == 0
    assert "ROC-AUC 0.903" in out
    info = json.loads(run(capsys, "models", "info", "--json", "mtt-vgg")[1])
    assert info["tags"] == list(catalogue.load_model("mtt-vgg").document.tags)
    assert info["document"]["name"] == "mtt-vgg"
    assert "ISC" in info["licence"]
    code, out, _ = run(capsys, "models", "info", "choi2017-compact")  # known, not here
    assert code == 0
    assert "to pull" in out


def test_models_path_and_verify(capsys, tmp_path):
    code, out, _ = run(capsys, "models", "path", "mtt-vgg")
    assert code == 0
    assert Path(out.strip()) == catalogue.model_path("mtt-vgg")
    code, out, _ = run(capsys, "models", "verify")
    assert code == 0
    assert [line.split(":")[0] for line in out.splitlines()][:2] == ["mtt-vgg", "msd-vgg"]
    code, out, err = run(capsys, "models", "verify", "won2020-fcn-msd", "mtt-vgg")
    assert code == 3
    assert out.startswith("mtt-vgg: ok")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("action", ["info", "path", "pull", "verify"])
def test_models_unknown_name(capsys, action):
    code, out, err = run(capsys, "models", action, "nobody")
    assert (code, out) == (3, "")
    assert err.startswith("fcntag: nobody: unknown model; known: mtt-vgg")


def test_models_pull_from_a_file(capsys, shared):
    source = shared / "weights/choi2017/C_weights_theano.hdf5"
    code, out, err = run(capsys, "models", "pull", "choi2017-compact", "--from", source)
    assert (code, err) == (0, "")
    assert Path(out.strip()) == catalogue.model_path("choi2017-compact")
    code, out, err = run(capsys, "models", "pull", "won2020-fcn-mtat", "--from", source)
    assert (code, out) == (3, "")
    assert len(err.splitlines()) == 1


def test_embed_of_choi2017_is_the_160_features(capsys, shared, song, tmp_path):
    source = shared / "weights/choi2017/C_weights_theano.hdf5"
    assert run(capsys, "models", "pull", "choi2017-compact", "--from", source)[0] == 0
    assert run(capsys, "embed", "-m", "choi2017-compact", "-o", tmp_path / "o.npy", song)[0] == 0
    assert np.load(tmp_path / "o.npy").shape == (1, 160)


def test_convert(capsys, shared, song, tmp_path):
    source = shared / "weights/choi2016/R4_music_tagger_cnn_weights_theano.h5"
    target = tmp_path / "v2.safetensors"
    code, out, _ = run(capsys, "convert", source, "--to", target)
    assert code == 0
    assert out.strip() == package.read_model(target).sha256
    assert run(capsys, "tag", "-m", target, song)[0] == 0
    code, out, err = run(capsys, "convert", song, "--to", tmp_path / "no.safetensors")
    assert (code, out) == (3, "")
    assert len(err.splitlines()) == 1
    assert str(song) in err
    assert not (tmp_path / "no.safetensors").exists()


def test_pull_of_an_embedded_model_from_a_file(capsys, song):
    code, out, err = run(capsys, "models", "pull", "mtt-vgg", "--from", song)
    assert (code, out, err) == (2, "", f"fcntag: --from {song}: mtt-vgg is embedded: nothing to pull\n")


def test_convert_refuses_targets(capsys, tmp_path):
    source = tmp_path / "source.safetensors"
    source.write_bytes(b"a checkpoint")
    (tmp_path / "link.safetensors").symlink_to(source)
    os.mkfifo(tmp_path / "fifo.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    for name, text in (
        ("source.safetensors", "is an input, and would be overwritten"),
        ("link.safetensors", "is an input, and would be overwritten"),
        ("out.h5", "end the name in .safetensors"),
        ("no/out.safetensors", "no such folder"),
        ("fifo.safetensors", "is not a regular file"),
        ("folder.safetensors", "is a folder"),
    ):
        code, out, err = run(capsys, "convert", source, "--to", tmp_path / name)
        assert (code, out) == (2, ""), name
        assert text in err
        assert len(err.splitlines()) == 1
    assert source.read_bytes() == b"a checkpoint"
    assert not (tmp_path / "no").exists()


def test_torchs_own_words_do_not_leak(capsys, tmp_path):
    (tmp_path / "x.pth").write_bytes(b"PK\x03\x04 and no more")
    arguments = ("convert", tmp_path / "x.pth", "--to", tmp_path / "o.safetensors", "--as", "won2020-fcn-mtat")
    code, _, err = run(capsys, *arguments)
    assert (code, err) == (3, f"fcntag: {tmp_path / 'x.pth'}: not a PyTorch state dict, or damaged\n")


def test_damaged_model_file(capsys, song, tmp_path):
    data = catalogue.model_path("mtt-vgg").read_bytes()
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(data[:-100])
    code, out, err = run(capsys, "tag", "-m", damaged, song)
    assert (code, out) == (3, "")
    assert err.startswith(f"fcntag: {damaged}: ")
    assert len(err.splitlines()) == 1


# ---- doctor, demo, help ----


def test_doctor(capsys):
    code, out, _ = run(capsys, "doctor", "--json")
    report = json.loads(out)
    assert (code, report["problems"]) == (0, [])
    assert report["fcntag"]["version"] == package.__version__
    built = find_spec("fcntag._cuda") is not None
    assert report["cuda"]["build"].startswith("for sm_" if built else "this build of fcntag has no CUDA kernels")
    assert "driver" in report["cuda"]
    assert report["models"]["mtt-vgg"].startswith("embedded, ok")
    assert report["engine"]["device"] == "cpu"
    assert report["decoders"]["mp3"] is True
    code, out, _ = run(capsys, "doctor")
    assert code == 0
    assert out.endswith("problems\n  none\n")


def test_doctor_reports_what_is_broken(capsys, home):
    stored = home / "models" / "choi2017-compact.safetensors"
    stored.parent.mkdir(parents=True)
    stored.write_bytes(b"damaged")
    code, out, _ = run(capsys, "doctor", "--json")
    assert code == 1
    report = json.loads(out)
    assert report["models"]["choi2017-compact"] == "broken"
    assert len(report["problems"]) == 1
    assert str(stored) in report["problems"][0]
    assert report["engine"]["model"] == "mtt-vgg"  # the rest is still examined


def test_demo_command(capsys, tmp_path):
    code, out, err = run(capsys, "demo")
    assert code == 0
    heading, best, *_ = out.splitlines()
    assert heading == "demo piece, seed 0  (0:20, 6 segments)"
    assert best.split()[0] == "guitar"
    assert "synthesise" in err
    assert "tag" in err
    kept = tmp_path / "kept.wav"
    code, again, _ = run(capsys, "demo", "-o", kept)
    assert code == 0
    assert again.splitlines()[1:] == out.splitlines()[1:]
    assert soundfile.info(kept).samplerate == 44100
    assert run(capsys, "demo", "-o", tmp_path / "kept.mp3")[0] == 2
    (tmp_path / "folder.wav").mkdir()
    for name in ("no/x.wav", "folder.wav"):
        code, out, err = run(capsys, "demo", "-o", tmp_path / name)
        assert (code, out) == (2, "")
        assert err.startswith(f"fcntag: -o {tmp_path / name}: ")
        assert len(err.splitlines()) == 1
    (tmp_path / "loop.wav").symlink_to("loop.wav")  # what no check foresees is named by the system's error
    code, out, err = run(capsys, "demo", "-o", tmp_path / "loop.wav")
    assert (code, out) == (1, "")
    assert err.startswith(f"fcntag: {tmp_path / 'loop.wav'}: ")


def test_help_version_and_errors_load_no_numpy(song):
    code = (
        "import sys\nfrom fcntag.cli import main\n"
        "try: sys.exit(main())\n"
        "finally: print(sorted({'numpy', 'soundfile', 'asyncio'} & set(sys.modules)), file=sys.stderr)"
    )
    for arguments, expected in [(["--help"], 0), (["--version"], 0), (["tag", "--help"], 0), (["tag"], 2)]:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, env=environment(), timeout=60, check=False
        )
        assert done.returncode == expected
        assert lines(done.stderr)[-1] == "[]"


def test_version_and_help():
    assert fcntag("--version").stdout.decode() == f"fcntag {package.__version__}\n"
    shown = fcntag("--help").stdout.decode()
    for command in ("tag", "taggram", "embed", "models", "convert", "doctor", "demo"):
        assert f"\n    {command} " in shown


def test_help_tells_defaults_and_exit_codes():
    def shown(*arguments):
        return " ".join(fcntag(*arguments, "--help", COLUMNS="100").stdout.decode().split())

    assert "141 the reader of stdout went away" in shown()
    text = shown("tag")
    for part in ("windows in one run (default: 64)", "(default: the model's)", "at most 1024", "csv has no row for"):
        assert part in text, part
    assert "tag the sound files" not in shown("embed")


LARGE = [(1, "4 x 16"), (2, "8 x 17")]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("msd-vgg", ["block 0: direct, pool 4 x 1: code for 4 x 1", "block 1: winograd, pool 1 x 4: code for 1 x 4"]),
        ("mtt-vgg", ["block 0: direct, pool 4 x 1, stride 2 x 2: code for 4 x 1"]),
        (
            "fcn3-narrow-music21",  # its deeper windows are larger than any that code is built for
            [f"block {i}: winograd, pool {w}: general, slower: no code is built for this window" for i, w in LARGE],
        ),
    ],
)
def test_models_info_says_which_windows_have_code(name, lines, capsys):
    code, out, _ = run(capsys, "models", "info", name)
    assert code == 0
    assert set(lines) <= {line.removeprefix("  - ") for line in out.splitlines()}
    code, out, _ = run(capsys, "models", "info", name, "--json")
    assert code == 0
    assert set(lines) <= set(json.loads(out)["kernels"])


def test_models_info_says_in_one_line_that_an_instruction_set_is_not_here():
    done = fcntag("models", "info", "mtt-vgg", FCNTAG_FORCE_ISA="pdp11", FCNTAG_NUM_THREADS="many")
    assert done.returncode == 2
    (line,) = lines(done.stderr)
    assert "FCNTAG_FORCE_ISA='pdp11'" in line
    assert fcntag("models", "info", "mtt-vgg", FCNTAG_NUM_THREADS="many").returncode == 0  # nothing here uses threads
