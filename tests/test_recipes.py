"""recipes/: training on a tiny dataset (resumed, seeded, equal to the engine), and what the renderer draws."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from support.make_models import block, make_model

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "recipes"))

import render_plan
import render_scores
import torch
import train
import train_data
import train_network
import train_options
from render_plan import Note, Piece

import fcntag
from fcntag import oracle
from fcntag.model import paper
from fcntag.model.document import ModelDocument
from fcntag.model.file import Model

RECIPES = Path(train.__file__).resolve().parent
RATE, N_CLIPS = 8000, 24


@pytest.fixture(scope="module", autouse=True)
def torch_as_it_was() -> Iterator[None]:
    """The recipe sets up PyTorch for the whole process, which here runs other tests too."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(before[0])
    torch.use_deterministic_algorithms(before[1])


# ---- training ----


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of noise with a low tone, a high tone, both or none; one file that is not sound."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    t = np.arange(RATE) / RATE
    rows = []
    for i in range(N_CLIPS):
        low, high = i % 2, (i // 2) % 2
        wave = 0.02 * rng.standard_normal(len(t))
        wave += 0.3 * low * np.sin(2 * np.pi * rng.uniform(200, 400) * t)
        wave += 0.3 * high * np.sin(2 * np.pi * rng.uniform(2000, 3000) * t)
        soundfile.write(folder / f"{i}.wav", wave, RATE)
        rows.append([f"{i}.wav", ("train", "train", "valid", "test")[i // 4 % 4], low, high])
    (folder / "bad.wav").write_bytes(b"no sound")
    with open(folder / "data.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path", "split", "low", "high"], *rows, ["bad.wav", "train", 1, 1]])
    return folder / "data.csv"


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both kinds of block, an input affine, several windows a clip; the notes of a network of the paper."""
    blocks = [block(4, window=(2, 4)), block(5, activation="elu", affine=True, window=(3, 3))]
    model = make_model(
        np.random.default_rng(0), blocks, n_samples=4096, sample_rate=RATE, fmax=4000.0, normalization="per_mel"
    )
    segments = dataclasses.replace(model.document.segments, rule="hop", hop_samples=2048, short="repeat")
    path = tmp_path_factory.mktemp("document") / "tiny.json"
    described = dataclasses.replace(model.document, segments=segments, notes=paper.document("fcn3").notes)
    path.write_text(described.to_json(), encoding="utf-8")
    return path


def arguments(dataset: Path, document: Path, out: Path, *more: str) -> list[str]:
    options = ("--epochs", "6", "--batch", "4", "--dropout", "0.1", "--lr", "0.02", "--threads", "1", "--device", "cpu")
    return [str(dataset), "--network", str(document), "--out", str(out), "--name", "tiny", *options, *more]


@pytest.fixture(scope="module")
def run(dataset: Path, document: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("run")
    assert train.main(arguments(dataset, document, out)) == 0
    return out


def test_trains_and_writes_a_model_that_tags(run: Path, dataset: Path) -> None:
    log = json.loads((run / "log.json").read_text())
    assert [entry["epoch"] for entry in log["epochs"]] == list(range(6))
    assert log["epochs"][-1]["loss"] < log["epochs"][0]["loss"]
    assert max(entry["roc_auc"] for entry in log["epochs"]) > 0.9  # tones in noise are easy
    assert log["clips"] == {"train": 16, "validation": 4, "test": 4}  # without the one that is not sound
    assert log["check"]["passed"]
    assert log["check"]["max_abs_error"] < 1e-5
    with np.load(run / "scores.npz") as scores:
        assert scores["paths"].tolist() == [f"{i}.wav" for i in range(12, 16)]
        np.testing.assert_array_equal(scores["labels"], [[0, 0], [1, 0], [0, 1], [1, 1]])
        error = np.abs(scores["fcntag"].astype(np.float64) - scores["pytorch"]).max()
        assert error == log["check"]["max_abs_error"]
    with fcntag.Tagger(run / "tiny.safetensors") as tagger:
        assert tagger.tags == ("low", "high")
        assert tagger.model.document.source.file == dataset.name
        training, clips, *about = tagger.model.document.notes
        assert "recipes/train.py" in training
        assert clips == "Clips: 16 to train, 4 to validate, 4 to test."
        network = paper.PAPER["fcn3"]  # what is known of the network and what is not holds for trained weights, too
        assert about[:2] == [f"of the paper or its authors: {network.known}", f"not certain: {network.ours}"]
        assert about[2:] == ["the pad, window and mel scale of the front end are ours in every network"]
        assert tagger.tag(dataset.parent / "3.wav").scores.shape == (2,)


def test_the_oracle_gives_the_networks_scores(run: Path, document: Path, rng: np.random.Generator) -> None:
    """Folding alone, in float64: batch-norm statistics far from their start, both orders of block."""
    described = train_network.with_tags(ModelDocument.from_json(document.read_text()), ("a", "b", "c"))
    network = train_network.Network(described, 0.5).double().eval()
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith(("running_var", "scale")):
                value.copy_(torch.from_numpy(rng.uniform(0.2, 3, value.shape)))
            elif not name.endswith("num_batches_tracked"):
                value.copy_(torch.from_numpy(rng.standard_normal(value.shape)))
    x = rng.standard_normal((3, *described.input_size()))
    final, tensors = train_network.folded(network, described)
    model = Model(final, tensors, "", "")
    scale, shift = (tensors[f"input.{name}"].astype(np.float64)[:, None] for name in ("scale", "shift"))
    with torch.inference_mode():
        expected = network(torch.from_numpy(x)).sigmoid().numpy()
    # weights rounded to float32, and two blocks that magnify it
    np.testing.assert_allclose(oracle.scores_of(model, x * scale + shift), expected, atol=1e-5)


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    x = torch.ones(4, 8, 50, 50).contiguous(memory_format=torch.channels_last)
    dropout = train_network.Dropout(0.25)
    torch.manual_seed(3)
    first, second = dropout(x), dropout(x)
    torch.manual_seed(3)
    assert torch.equal(dropout(x), first)
    assert not torch.equal(first, second)
    assert first.unique().tolist() == pytest.approx([0, 4 / 3])
    share = float((first == 0).float().mean())
    assert abs(share - 0.25) < 0.01  # 80,000 draws: six standard deviations
    assert torch.equal(dropout.eval()(x), x)


def test_the_learning_rate_falls_to_nothing(dataset: Path, document: Path, tmp_path: Path) -> None:
    rates = []

    class Watched(train.Training):
        def train_step(self, x: torch.Tensor, y: torch.Tensor) -> float:
            rates.append(self.optimizer.param_groups[0]["lr"])
            return super().train_step(x, y)

    options = train_options.make_parser("").parse_args(arguments(dataset, document, tmp_path / "out", "--decay"))
    assert Watched(options).run() == 0
    np.testing.assert_allclose(rates, 0.02 * (1 - np.arange(24) / 24), rtol=1e-12)  # 6 epochs of 4 steps


def test_killed_and_resumed_it_ends_in_the_same_bits(run: Path, dataset: Path, document: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(RECIPES / "train.py")]
    command += arguments(dataset, document, tmp_path, "--checkpoint-every", "1")
    environment = {**os.environ, "PYTHONPATH": str(Path(fcntag.__file__).parent.parent)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (tmp_path / "checkpoint.pt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    stops = 0
    while (code := train.main(arguments(dataset, document, tmp_path, "--stop-after", "0.000001"))) == train.STOPPED:
        stops += 1
    assert code == 0
    assert stops > 2  # cut off after every step
    assert (tmp_path / "tiny.safetensors").read_bytes() == (run / "tiny.safetensors").read_bytes()


def test_another_seed_gives_another_model(run: Path, dataset: Path, document: Path, tmp_path: Path) -> None:
    assert train.main(arguments(dataset, document, tmp_path, "--seed", "1", "--epochs", "1")) == 0
    assert (tmp_path / "tiny.safetensors").read_bytes() != (run / "tiny.safetensors").read_bytes()


def test_a_checkpoint_of_other_settings_is_refused(
    run: Path, dataset: Path, document: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(arguments(dataset, document, run, "--lr", "0.5")) == 2
    assert "made with another lr" in capsys.readouterr().err


def test_a_model_file_that_gives_other_scores_fails(
    dataset: Path, document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(network: Any, described: ModelDocument) -> Any:
        final, tensors = train_network.folded(network, described)
        return final, {**tensors, "blocks.0.bias": tensors["blocks.0.bias"] + np.float32(0.01)}

    monkeypatch.setattr(train, "folded", wrong)
    assert train.main(arguments(dataset, document, tmp_path, "--epochs", "1")) == 1
    assert "does not compute PyTorch's scores" in capsys.readouterr().err
    assert not (tmp_path / "tiny.safetensors").exists()


def test_compare_sees_nan() -> None:
    clips = train_data.Clips(["a", "b"], np.array([[0.0], [1.0]], np.float32))
    good = np.array([[0.2], [0.8]], np.float32)
    assert train.compare(clips, good, good)["passed"]
    assert not train.compare(clips, good + np.float32(2e-4), good)["passed"]


def test_log_mels_are_the_engines_own(dataset: Path, document: Path, tmp_path: Path) -> None:
    """The cached rows, with the input affine on top, are those that the engine computes for the same windows."""
    rng = np.random.default_rng(3)
    described = ModelDocument.from_json(document.read_text())
    tensors = {name: rng.uniform(0.5, 1, shape).astype(np.float32) for name, shape in described.tensor_shapes().items()}
    clips = train_data.Clips([str(dataset.parent / "1.wav")], np.zeros((1, 1), np.float32))
    mels = train_data.LogMels(described, tmp_path, 1)
    mels.prepare(clips, "test")
    found = mels.load(clips.paths[0])
    wave, _ = soundfile.read(clips.paths[0], dtype="float32")
    windows = np.stack([wave[k : k + 4096] for k in range(0, len(wave) - 4095, 2048)])
    expected = oracle.network_input(Model(described, tensors, "", ""), windows)
    actual = found * tensors["input.scale"][:, None] + tensors["input.shift"][:, None]
    np.testing.assert_allclose(actual, expected, atol=1e-3)  # dB of noise 90 dB below full scale, in float32


DATASETS = [
    ("", "header must be"),
    ("path,tags\n", "header must be"),
    ("path,split,a\nx.wav,train\n", "2 fields"),
    ("path,split,a\nx.wav,train,2\n", "'2' is not 0 or 1"),
    ("path,split,a\nx.wav,somewhere,1\n", "split"),
    ("path,split,a\nx.wav,train,1\nx.wav,test,1\n", "twice"),
    ("path,split,a\nx.wav,train,1\n", "at least 2"),
    ("path,split,a,a\nx.wav,train,1,1\n", "a tag appears twice"),
]


@pytest.mark.parametrize(("text", "message"), DATASETS, ids=[message for _, message in DATASETS])
def test_bad_datasets_are_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text(text)
    with pytest.raises(train_data.DatasetError, match=message) as caught:
        train_data.read_dataset(str(path), None)
    assert str(path) in str(caught.value)


def test_both_forms_of_dataset_are_the_same(tmp_path: Path) -> None:
    rows = [("a.wav", "train", "x;y"), ("b.wav", "train", ""), ("c.wav", "valid", "y"), ("d.wav", "valid", "x")]
    (tmp_path / "lists.csv").write_text("path,split,tags\n" + "".join(f"{','.join(row)}\n" for row in rows))
    matrix = "path,split,x,y\na.wav,train,1,1\nb.wav,train,0,0\nc.wav,valid,0,1\nd.wav,valid,1,0\n"
    (tmp_path / "matrix.csv").write_text(matrix)
    tags, lists = train_data.read_dataset(str(tmp_path / "lists.csv"), None)
    assert tags == ("x", "y")
    assert train_data.read_dataset(str(tmp_path / "matrix.csv"), None)[0] == tags
    for split, clips in train_data.read_dataset(str(tmp_path / "matrix.csv"), None)[1].items():
        assert clips.paths == lists[split].paths
        np.testing.assert_array_equal(clips.labels, lists[split].labels)


# ---- rendering ----


def piece(name: str, style: str = "folk", n_parts: int = 1, titles: tuple[str, ...] = (), seed: int = 0) -> Piece:
    rng = np.random.default_rng([seed, *name.encode()])
    keys = 60 + np.cumsum(rng.integers(-3, 4, (n_parts, 64)), axis=1) % 24
    parts = tuple(tuple(Note(float(k), 1.0, int(key)) for k, key in enumerate(part)) for part in keys)
    return Piece(name, name.partition("/")[0], style, titles, 1.0, 4.0, parts)


def corpus() -> list[Piece]:
    tunes = [piece(f"ryansMammoth/tune{i}#1-1", titles=(f"Tune {i} -- Reel",)) for i in range(60)]
    quartets = [piece(f"haydn/opus{i}/movement{k}", "classical", 4) for i in range(10) for k in range(4)]
    songs = [piece(f"schumann_robert/cycle{i}_no{k}", "romantic", 2) for i in range(9) for k in range(3)]
    return tunes + quartets + songs + [piece("corelli/opus3no1/1grave", "baroque", 3)]


def test_no_work_title_or_tune_is_in_two_splits() -> None:
    same_title = piece("oneills1850/book#1-7", titles=("The Tune 7",))
    # the same tune a fourth higher, under another name
    moved = tuple(tuple(n._replace(key=n.key + 5) for n in part) for part in piece("ryansMammoth/tune9#1-1").parts)
    same_tune = dataclasses.replace(piece("airdsAirs/book1#1-1", titles=("Other",)), parts=moved)
    pieces = [*corpus(), same_title, same_tune]
    for seed in range(5):
        splits = render_plan.assign_splits(pieces, seed)
        assert splits.keys() == {p.id for p in pieces}
        assert splits[same_title.id] == splits["ryansMammoth/tune7#1-1"]
        assert splits[same_tune.id] == splits["ryansMammoth/tune9#1-1"]
        for i in range(10):
            assert len({splits[f"haydn/opus{i}/movement{k}"] for k in range(4)}) == 1
        for i in range(9):
            assert len({splits[f"schumann_robert/cycle{i}_no{k}"] for k in range(3)}) == 1
        for style in ("folk", "classical", "romantic"):
            assert {splits[p.id] for p in pieces if p.style == style} == set(render_plan.SPLITS)


def test_plans_follow_from_the_seed_alone() -> None:
    counts = {"train": 50, "validation": 8, "test": 12}
    plans = render_plan.plan_clips(corpus(), counts, 3)
    assert plans == render_plan.plan_clips(corpus()[::-1], counts, 3)
    assert plans != render_plan.plan_clips(corpus(), counts, 4)
    assert len({plan.path for plan in plans}) == len(plans)
    splits = render_plan.assign_splits(corpus(), 3)
    assert all(plan.split == splits[plan.piece] for plan in plans)
    assert {split: sum(plan.split == split for plan in plans) for split in counts} == counts
    assert set(plans) <= set(render_plan.plan_clips(corpus(), {**counts, "train": 80}, 3))  # more clips are added


def test_tags_say_what_is_played() -> None:
    pieces = {p.id: p for p in corpus()}
    seen = set()
    for plan in render_plan.plan_clips(list(pieces.values()), {"train": 300}, 0):
        tags = set(plan.tags)
        seen |= tags
        families = {voice.family for voice in plan.voices}
        assert tags - {"instrumental", "solo", "ensemble", plan.style, plan.tempo} == families
        assert ("vocal" in tags) != ("instrumental" in tags)
        assert ("solo" in tags) == (len(plan.voices) == 1)
        assert ("ensemble" in tags) != ("solo" in tags)
        low, high = render_plan.TEMPI[plan.tempo]
        assert low <= plan.bpm <= high
        for voice in plan.voices:
            assert voice.family == "percussion" or voice.program in render_plan.FAMILIES[voice.family][0]
    # of the baroque there is one work, which no tag can be learned from
    assert seen == set(render_plan.TAGS) - {"medieval", "renaissance", "baroque"}


def test_events_are_the_pieces_notes() -> None:
    quartet = piece("haydn/opus1/movement1", "classical", 4)
    plan = next(p for k in range(20) if (p := render_plan.draw(quartet, "train", k, 0)) is not None)
    found = render_plan.events(quartet, plan)
    assert found == render_plan.events(quartet, plan) == sorted(found)
    down = [event for event in found if event.velocity]
    assert len(down) * 2 == len(found)
    quarter = 60 / plan.bpm
    for voice, player in enumerate(plan.voices):
        notes = [n for n in quartet.parts[player.part] if 0 <= (n.onset - plan.start) * quarter < render_plan.SECONDS]
        assert [e.key - player.shift for e in down if e.voice == voice] == [n.key for n in notes]


def test_a_tune_is_repeated_to_the_end_and_a_short_score_is_left_out() -> None:
    tune = piece("ryansMammoth/short#1-1")
    tune = dataclasses.replace(tune, parts=(tune.parts[0][:16],))
    plan = render_plan.draw(tune, "train", 0, 0)
    assert plan is not None
    assert max(event.time for event in render_plan.events(tune, plan)) > render_plan.SECONDS - 5
    empty = dataclasses.replace(tune, style="romantic", parts=(tune.parts[0][:3],))
    assert render_plan.draw(empty, "train", 0, 0) is None


def test_abc_files_are_split_into_tunes() -> None:
    text = "% a book\nX:1\nT:First Reel\nT:or Other\nK:D\nabc\n\nX: 2\nT:Second\nK:G\nd\n"
    tunes = render_scores.split_tunes(text)
    assert [render_scores.titles_of(tune) for tune in tunes] == [("First Reel", "or Other"), ("Second",)]


@pytest.mark.parametrize(
    ("signature", "beat"), [((4, 4), 1.0), ((6, 8), 1.5), ((3, 8), 1.5), ((2, 2), 2.0), ((4, 2), 2.0), ((9, 8), 1.5)]
)
def test_beats(signature: tuple[int, int], beat: float) -> None:
    assert render_scores.beat_of(*signature) == beat


def test_reserved_collections_are_read_only_when_asked_for(tmp_path: Path) -> None:
    for name in (
        "palestrina/Agnus.krn",
        "monteverdi/madrigal.5.4.mxl",
        "monteverdi/madrigal.3.1.mxl",
        "essen/a.abc",
        "trecento/a.xml",
        "trecento/a.mxl",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for _, path in render_scores.sources(tmp_path, [])] == ["a.mxl", "madrigal.3.1.mxl"]
    assert [path.name for _, path in render_scores.sources(tmp_path, ["palestrina"])][-1] == "Agnus.krn"
