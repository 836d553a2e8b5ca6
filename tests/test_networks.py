"""The paper's networks by name: sizes and counts as published, every block on every backend, and their model files."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np
import pytest
from safetensors import safe_open
from support.cli_runner import run
from support.emulated_cuda import installed
from support.make_models import block, make_model
from support.model_fixtures import one_block_errors
from support.numerics import ONE_BLOCK, SCORES, assert_scores, max_abs, relative_l2

from fcntag import Tagger, catalogue, demo, oracle
from fcntag.engine import create_engine
from fcntag.errors import ModelError
from fcntag.model import paper
from fcntag.model.document import Head, ModelDocument
from fcntag.model.file import Model, read_model

NARROW = ("fcn3-narrow", "fcn4-narrow", "fcn5-narrow")
FCN4 = [(96, 1366), (48, 341), (12, 68), (4, 8), (1, 1)]
FCN5 = [(96, 1366), (48, 341), (24, 85), (12, 21), (4, 4), (1, 1)]

# name -> (widths, map sizes, parameters in millions, multiply-adds in thousand millions): the paper's table, and what
# follows from it. None: nobody published it.
TABLE = {
    "fcn3": ([256, 768, 2048], [(96, 1366), (32, 273), (8, 17), (1, 1)], None, None),
    "fcn4": ([128, 384, 768, 2048], FCN4, 17.36, 10.01),
    "fcn5": ([128, 256, 512, 1024, 2048], FCN5, 25.18, 8.88),
    "fcn6": ([128, 256, 512, 1024, 2048, 1024], [*FCN5, (1, 1)], 25.18 + 2.10 - 0.05, 8.88),
    "fcn7": ([128, 256, 512, 1024, 2048, 1024, 1024], [*FCN5, (1, 1), (1, 1)], 25.18 + 3.15 - 0.05, 8.88),
    "fcn4-stft": ([128, 384, 768, 2048], [(128, 1366), (64, 341), (16, 68), (5, 8), (1, 1)], 17.36, None),
    "fcn4-mfcc": ([128, 384, 768, 2048], [(90, 1366), (45, 341), (11, 68), (3, 8), (1, 1)], 17.36, None),
    "fcn3-narrow": ([32, 128, 256], [(96, 1366), (32, 273), (8, 17), (1, 1)], None, None),
    "fcn4-narrow": ([32, 128, 192, 256], FCN4, None, None),
    "fcn5-narrow": ([32, 128, 128, 192, 256], FCN5, 0.86, 1.0),
}
# sha256 of name and bytes of every tensor, for seed 0: benchmark results name these weights.
DIGESTS = {
    "fcn4": "247fe95f02c1a4041f2fd462eb3bd2953622398679adce4623acf9b775b9a075",
    "fcn5-narrow": "1d7256ff85785ea626af7ef3f4f2f4b2a101555b1b8b83270cdfc44ea4eb8496",
}


def digest(model: Model) -> str:
    total = hashlib.sha256()
    for name, array in model.tensors.items():
        total.update(name.encode() + array.tobytes())
    return total.hexdigest()


def test_the_table_is_complete() -> None:
    assert list(paper.PAPER) == list(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_sizes_and_counts(name: str) -> None:
    widths, sizes, millions, macs = TABLE[name]
    document = paper.document(name)
    assert [b.out_channels for b in document.blocks] == widths
    assert document.map_sizes() == sizes
    assert {(b.kernel, b.activation) for b in document.blocks} <= {(3, "relu"), (1, "relu")}
    assert [b.kernel for b in document.blocks if b.kernel == 1] == [1] * {"fcn6": 1, "fcn7": 2}.get(name, 0)
    assert document.head.in_features == widths[-1]
    assert len(document.tags) == 50
    parameters = sum(int(np.prod(shape)) for shape in document.tensor_shapes().values())
    if millions is not None:
        assert parameters / 1e6 == pytest.approx(millions, abs=0.03)
    if macs is not None:
        assert document.multiply_adds() / 1e9 == pytest.approx(macs, rel=0.02)
    assert document.random_weights
    assert paper.NO_MEANING in document.notes


@pytest.mark.parametrize("name", TABLE)
def test_what_is_ours_is_marked(name: str) -> None:
    network, notes = paper.PAPER[name], " ".join(paper.document(name).notes)
    assert network.known in notes
    assert network.ours in notes
    assert bool(network.ours) == (name not in ("fcn4", "fcn5-narrow"))  # those two are certain


@pytest.mark.parametrize("name", TABLE)
def test_notes_about_the_network_without_those_about_its_weights(name: str) -> None:
    document = paper.paper_model(name).document if "narrow" in name else paper.document(name)
    kept = paper.about_network(document.notes)
    network = paper.PAPER[name]
    assert kept[:-1] == (
        f"of the paper or its authors: {network.known}",
        *([f"not certain: {network.ours}"] if network.ours else []),
    )
    # a trained network's scale is not ours: it is that of its training data
    assert kept[-1] == "the pad, window and mel scale of the front end are ours in every network"
    assert not any("random" in note for note in kept)


def test_notes_of_other_models_tell_of_their_originals() -> None:
    document = catalogue.load_model("msd-vgg").document
    assert document.notes
    assert paper.about_network(document.notes) == ()


@pytest.mark.parametrize("name", DIGESTS)
def test_seed_0_keeps_its_weights(name: str) -> None:
    assert digest(paper.paper_model(name)) == DIGESTS[name]


def test_seeds_differ_and_repeat() -> None:
    models = [paper.paper_model("fcn5-narrow", seed=seed) for seed in (1, 1, 2)]
    assert digest(models[0]) == digest(models[1]) != digest(models[2])
    assert models[0].document.name == "fcn5-narrow-random-1"
    with pytest.raises(ValueError, match=r"seed=-1; must be at least 0"):
        paper.paper_model("fcn5-narrow", seed=-1)


def test_unknown_names() -> None:
    with pytest.raises(ModelError, match=r"^fcn9: unknown network; known: fcn3, fcn4, "):
        paper.document("fcn9")
    with pytest.raises(ModelError, match=r"^fcn5: a network of the paper, .* fcntag models new fcn5 -o"):
        catalogue.load_model("fcn5")


def small(name: str, channels: int) -> Model:
    """The network with the frames, rows and pools that it has, and few channels: what float64 loops can follow."""
    document = paper.document(name)
    blocks, before = [], 1
    for i, b in enumerate(document.blocks):
        out = channels + 3 * i
        blocks.append(dataclasses.replace(b, in_channels=before, out_channels=out))
        before = out
    head = Head(flatten="chw", in_features=before)
    return paper.random_model(dataclasses.replace(document, blocks=tuple(blocks), head=head))


def music(model: Model, batch: int) -> np.ndarray:
    """Noise, then the demo piece, repeated until it fills the window."""
    n_samples = model.document.segments.n_samples
    noise = np.random.default_rng(3).uniform(-0.5, 0.5, n_samples)
    return np.stack([np.resize(demo.synthesise(0), n_samples), noise])[:batch].astype(np.float32)


@pytest.mark.parametrize("name", TABLE)
def test_every_block_and_the_scores_at_full_size(name: str) -> None:
    """All frames, rows and pools on the CPU, with 5 channels and more: blocks one by one, and from the waves on."""
    model = small(name, 5)
    waves = music(model, 2)
    x = oracle.network_input(model, waves).astype(np.float32)
    assert max(one_block_errors(model, x[:1])) <= ONE_BLOCK
    with create_engine(model) as engine:
        assert max_abs(engine.log_mel(waves), x) <= 1e-4
        assert_scores(engine.scores(waves), oracle.scores(model, waves), SCORES["engine"])
        assert_scores(engine.scores(waves[:1]), engine.scores(waves)[:1], 0.0)


@pytest.mark.parametrize("name", NARROW)
def test_narrow_networks_at_full_width(name: str) -> None:
    model = paper.paper_model(name)
    x = oracle.network_input(model, music(model, 1)).astype(np.float32)
    assert max(one_block_errors(model, x)) <= ONE_BLOCK


@pytest.mark.parametrize("name", ["fcn4", "fcn7", "fcn4-stft", "fcn4-mfcc"])
def test_wide_networks_block_by_block_on_a_corner(name: str) -> None:
    """All channels, on an input as small as the pools allow: one pixel in the end, so every weight is read."""
    document = paper.document(name)
    frames = 1
    for b in reversed(document.blocks):
        frames *= b.pool.window[1]
    segments = dataclasses.replace(document.segments, n_samples=(frames - 1) * 256)
    model = paper.random_model(dataclasses.replace(document, segments=segments))
    x = np.random.default_rng(5).standard_normal((1, *model.document.input_size())).astype(np.float32)
    assert frames < 1366
    with create_engine(model) as engine:
        maps = engine.blocks(x)
    y, widest = x[:, None].astype(np.float64), 0
    for i, (b, actual) in enumerate(zip(model.document.blocks, maps, strict=True)):
        if b.in_channels * b.out_channels * y[0, 0].size <= 3e8:  # a second of the oracle's loops
            expected = oracle.one_block(b, model.tensors, i, y)
            assert relative_l2(actual, expected) <= ONE_BLOCK
            widest = max(widest, b.out_channels)
        y = actual.astype(np.float64)
    assert widest == 2048


@pytest.mark.parametrize("name", ["fcn3", "fcn7", "fcn4-stft", "fcn4-mfcc"])
def test_emulated_gpu(emulated_core, name: str) -> None:
    """Frames, rows and pools as they are, few channels: scores from the waves on, in the graph that users run."""
    model = small(name, 2)
    waves = music(model, 1)
    with installed(emulated_core), create_engine(model, device="cuda", max_batch=1) as engine:
        assert_scores(engine.scores(waves), oracle.scores(model, waves), SCORES["engine"])


# ---- any stack, and the command line ----


def test_any_stack_of_blocks(rng: np.random.Generator) -> None:
    chain = [block(4, kernel=1, activation="elu", affine=True), block(6, window=(2, 3), stride=(1, 2)), block(3)]
    for fields in ({}, {"normalization": "per_frame", "layout": "time_mel"}, {"normalization": "per_mel"}):
        original = make_model(rng, chain, flatten="hwc", **fields).document
        model = paper.random_model(original, seed=4)
        assert model.document.name == "random-random-4"
        assert model.document.blocks == original.blocks
        assert 0.8 < model.tensors["blocks.0.scale"].mean() < 1.2
        waves = rng.uniform(-0.5, 0.5, (2, 4000)).astype(np.float32)
        with create_engine(model) as engine:
            scores = engine.scores(waves)
        assert_scores(scores, oracle.scores(model, waves), SCORES["engine"])
        assert 0.02 < scores.min() < scores.max() < 0.98


@pytest.mark.parametrize("name", ["fcn4-stft", "fcn4-mfcc"])
def test_inputs_have_the_scale_of_trained_ones(name: str) -> None:
    model = paper.random_model(paper.document(name))
    x = oracle.network_input(model, music(model, 1))
    assert 0.3 < x.std() < 3
    assert np.abs(x).max() < 20


def test_models_new(capsys, tmp_path) -> None:
    target, labels = tmp_path / "a.safetensors", tmp_path / "labels.txt"
    labels.write_text("rock\n\n  female vocal \nöld\n", encoding="utf-8")
    code, out, err = run(capsys, "models", "new", "fcn5-narrow", "--seed", 7, "--tags", labels, "-o", target)
    assert code == 0
    assert "random weights of seed 7" in err
    model = read_model(target)
    assert out.strip() == model.sha256
    assert model.document.tags == ("rock", "female vocal", "öld")
    assert model.document.name == "fcn5-narrow-random-7"
    first = target.read_bytes()
    assert run(capsys, "models", "new", "fcn5-narrow", "--seed", 7, "--tags", labels, "-o", target)[0] == 0
    assert target.read_bytes() == first
    assert run(capsys, "models", "verify", target)[0] == 0


def test_results_of_random_weights_say_so(capsys, tmp_path, folder) -> None:
    target = tmp_path / "a.safetensors"
    assert run(capsys, "models", "new", "fcn3-narrow", "-o", target)[0] == 0
    code, out, err = run(capsys, "tag", folder / "good.wav", "-m", target, "-f", "jsonl")
    assert code == 0
    assert "weights are random" in err
    record = json.loads(out)
    assert record["model"]["name"] == "fcn3-narrow-random-0"
    assert any("weights are random" in warning for warning in record["warnings"])
    with Tagger("mtt-vgg") as tagger:
        assert not any("random" in warning for warning in tagger.tag(folder / "good.wav").warnings)


def test_models_new_from_a_document(capsys, tmp_path) -> None:
    """The output of ``models info --json`` can be changed by hand and made into a model."""
    info = json.loads(run(capsys, "models", "info", "--json", "fcn4-mfcc")[1])
    assert info["state"].startswith("no weights")
    assert info["parameters"] == pytest.approx(17.36e6, rel=1e-3)
    document = info["document"]
    document["blocks"] = document["blocks"][:2]
    document["blocks"][1]["out_channels"] = 20
    document["head"] = {"flatten": "max", "in_features": 20, "activation": "sigmoid"}
    document["name"] = "mine"
    for text in (info, document):
        (tmp_path / "mine.json").write_text(json.dumps(text))
        assert run(capsys, "models", "new", tmp_path / "mine.json", "-o", tmp_path / "mine.safetensors")[0] == 0
        made = read_model(tmp_path / "mine.safetensors").document
        assert made.name == "mine-random-0"
        assert made.blocks[1].out_channels == 20
        assert made.random_weights


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nobody"], 3, "nobody: unknown network; known: fcn3,"),
        (["fcn5-narrow", "--seed", "-1"], 2, "--seed"),
        (["fcn5-narrow", "-o", "x.npz"], 2, "-o x.npz: a model file; end the name in .safetensors"),
        (["fcn5-narrow", "-o", "no/folder/x.safetensors"], 2, "no such folder"),
        (["fcn5-narrow", "--tags", "missing.txt"], 1, "missing.txt"),
        (["fcn5-narrow", "--tags", "empty.txt"], 2, "empty.txt: holds no label"),
        (["fcn5-narrow", "--tags", "twice.txt"], 3, "twice.txt: document.tags: 'rock' appears twice"),
        (["fcn5-narrow", "--tags", "latin.txt"], 2, "latin.txt: not UTF-8 text"),
        (["bad.json"], 3, "bad.json: not valid JSON"),
        (["thin.json"], 3, "thin.json: document.format: missing"),
        (["list.json"], 3, "list.json: document: expected an object"),
    ],
)
def test_models_new_refuses(capsys, tmp_path, monkeypatch, arguments, code, message) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "twice.txt").write_text("rock\nrock\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "thin.json").write_text("{}")
    (tmp_path / "list.json").write_text("[]")
    before = sorted(tmp_path.iterdir())
    try:
        got, out, err = run(capsys, "models", "new", *arguments)
    except SystemExit as stopped:  # argparse
        got, (out, err) = stopped.code, capsys.readouterr()
    assert got == code
    assert out == ""
    assert message in err
    assert sorted(tmp_path.iterdir()) == before


def test_documents_of_mel_models_keep_their_bytes() -> None:
    """Fields that came with other kinds are not written into a document that has no use for them."""
    for name in ("mtt-vgg", "msd-vgg"):
        model = catalogue.load_model(name)
        text = model.document.to_json()
        assert "n_mfcc" not in text
        assert "n_bins" not in text
        assert "random_weights" not in text
        with safe_open(model.path, "numpy") as file:
            assert file.metadata()["fcntag"] == text
        assert ModelDocument.from_json(text) == model.document
