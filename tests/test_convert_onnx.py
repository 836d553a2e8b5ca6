"""ONNX files of any stack of blocks become models that compute the same; what is none is refused by its node's name."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support import torch_networks
from support.cli_runner import run
from support.make_models import block, make_model
from support.numerics import max_abs
from support.onnx_graphs import ACCEPTED

from fcntag import oracle
from fcntag.convert import convert_stack
from fcntag.engine import CpuEngine
from fcntag.errors import ModelError
from fcntag.export import export
from fcntag.export.check import normalised, random_log_mel
from fcntag.export.onnx import network_bytes
from fcntag.model.file import Model, read_model, write_model

N_SAMPLES = 8000  # 32 frames of 20 bands
TAGS = [f"tag {i}" for i in range(6)]


def as_model(converted: Any) -> Model:
    return Model(converted.document, converted.tensors, "", "")


# ---- there and back ----

ROUND_TRIPS = {
    "relu, affine, strided pool": dict(
        blocks=[block(4, affine=True, window=(4, 1), stride=(2, 2)), block(5, kernel=1, window=(2, 2))]
    ),
    "elu, hwc, time first": dict(
        blocks=[block(3, activation="elu"), block(2, window=(5, 4))], flatten="hwc", layout="time_mel"
    ),
    "no activation, global max": dict(blocks=[block(3, activation="none", window=(2, 2))], flatten="max"),
    "global mean": dict(blocks=[block(3, activation="elu", affine=True)], flatten="mean"),
    "hidden layers": dict(blocks=[block(3, window=(4, 4))], hidden=[(9, "relu"), (5, "elu"), (4, "none")]),
    "hidden layers, channel fastest": dict(blocks=[block(3, window=(4, 4))], hidden=[(9, "elu")], flatten="hwc"),
    "hidden layers behind a mean": dict(blocks=[block(3, window=(2, 2))], hidden=[(9, "relu")], flatten="mean"),
    "hidden layers behind a maximum": dict(blocks=[block(3)], hidden=[(9, "relu")], flatten="max"),
    "one channel between": dict(blocks=[block(1, activation="elu"), block(4), block(1, kernel=1)]),
    "per mel": dict(blocks=[block(3, window=(2, 2))], normalization="per_mel"),
    "per frame, time first": dict(blocks=[block(3)], normalization="per_frame", layout="time_mel"),
    "standardised": dict(blocks=[block(3)], normalization="standardize"),
    "scalar": dict(blocks=[block(3), block(4), block(5)], normalization="scalar"),
}


@pytest.mark.parametrize("case", ROUND_TRIPS)
def test_export_and_convert_give_the_model_back(rng, tmp_path, case) -> None:
    model = make_model(rng, **ROUND_TRIPS[case])
    path = str(tmp_path / "model.onnx")
    export(model, path)
    converted = convert_stack(path)
    assert converted.document.blocks == model.document.blocks
    assert converted.document.head.hidden == model.document.head.hidden
    if model.document.head.flatten in ("max", "mean"):
        assert converted.document.head == model.document.head
    assert converted.document.frontend == model.document.frontend
    assert (converted.document.tags, converted.document.name) == (model.document.tags, "random")
    for name, tensor in model.tensors.items():
        if model.document.head.flatten != "hwc" or not name.startswith("head."):
            np.testing.assert_array_equal(converted.tensors[name], tensor, err_msg=name)
    x = random_log_mel(model, rng, 2)
    with CpuEngine(model) as mine, CpuEngine(as_model(converted)) as theirs:
        a, b = mine.scores_of(normalised(model, x)), theirs.scores_of(normalised(as_model(converted), x))
        assert max_abs(a, b) <= (1e-6 if model.document.head.flatten == "hwc" else 0.0)


def test_embedded_model_there_and_back_by_command(capsys, tmp_path, models) -> None:
    graph, path = tmp_path / "mtt.onnx", tmp_path / "mtt.safetensors"
    assert run(capsys, "export", "mtt-vgg", "--to", graph)[0] == 0
    code, out, err = run(capsys, "convert", graph, "--to", path)
    assert (code, out.strip()) == (0, read_model(path).sha256)
    assert "compared with ONNX Runtime" in err
    document, original = read_model(path).document, models("mtt-vgg").document
    assert (document.tags, document.licence_notice) == (original.tags, original.licence_notice)
    assert document.metrics == ()  # somebody may have changed the weights
    assert document.source.file == "mtt.onnx"
    waves = rng_waves(original.segments.n_samples)
    with CpuEngine(models("mtt-vgg")) as mine, CpuEngine(read_model(path)) as theirs:
        np.testing.assert_array_equal(mine.scores(waves), theirs.scores(waves))


def rng_waves(n_samples: int) -> np.ndarray:
    return np.random.default_rng(1).uniform(-0.5, 0.5, (2, n_samples)).astype(np.float32)


def test_a_graph_that_takes_normalised_input_has_the_normalisation_of_like(rng, tmp_path) -> None:
    model = make_model(rng, [block(4, window=(2, 2))], normalization="per_mel")
    write_model(tmp_path / "like.safetensors", model.document, model.tensors)
    (tmp_path / "net.onnx").write_bytes(network_bytes(model, 1, *model.document.input_size()))
    converted = convert_stack(str(tmp_path / "net.onnx"), like=str(tmp_path / "like.safetensors"), name="mine")
    assert converted.document.name == "mine"
    assert "by the choice of whoever converted it" in converted.document.notes[0]
    assert converted.document.licence == "unknown"
    for name, tensor in model.tensors.items():
        np.testing.assert_array_equal(converted.tensors[name], tensor)


# ---- torch.onnx.export ----


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("name", torch_networks.NETWORKS)
def test_what_pytorch_exports(rng, tmp_path, like, name, dynamo) -> None:
    import torch

    module, shape = torch_networks.make(name)
    torch_networks.onnx_file(module, shape, tmp_path / "net.onnx", dynamo)
    converted = convert_stack(str(tmp_path / "net.onnx"), like=like)
    model = as_model(converted)
    if name in ("classic", "whole map"):
        x = random_log_mel(model, rng, 3)
        y = normalised(model, x)
        assert model.document.frontend.normalization == {"classic": "scalar", "whole map": "per_mel"}[name]
    else:
        x = y = rng.standard_normal((3, 20, 32)).astype(np.float32)
    with torch.inference_mode():
        expected = module.double()(torch.from_numpy(x.astype(np.float64)).reshape(3, *shape)).numpy()
    assert expected.std() > 0.05
    assert max_abs(oracle.scores_of(model, y), expected) <= 1e-6
    with CpuEngine(model) as engine:
        assert max_abs(engine.scores_of(y), expected) <= 1e-5
    assert model.document.frontend.layout == ("time_mel" if name == "whole map" else "mel_time")
    assert any(b.post_affine for b in model.document.blocks) == (name == "post-norm, ELU")


def test_without_onnx_runtime_onnx_itself_compares(tmp_path, like, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    module, shape = torch_networks.make("classic")
    torch_networks.onnx_file(module, shape, tmp_path / "net.onnx")
    converted = convert_stack(str(tmp_path / "net.onnx"), like=like)
    assert converted.runtime == f"onnx {onnx.__version__}"
    assert converted.scores <= 1e-5


def test_a_wrong_conversion_is_not_written(capsys, tmp_path, like, monkeypatch) -> None:
    from fcntag.convert import stack

    right = stack.Stack._affine

    def wrong(self, layer):
        right(self, stack.Affine(layer.where, layer.scale, layer.shift + 0.1))

    onnx.save(ACCEPTED["affine before and after"]().model(), tmp_path / "net.onnx")
    monkeypatch.setattr(stack.Stack, "_affine", wrong)
    target = tmp_path / "net.safetensors"
    code, _, err = run(capsys, "convert", tmp_path / "net.onnx", "--to", target, "--like", like)
    assert code == 3
    assert "the converted model computes something else than the original in ONNX Runtime" in err
    assert not target.exists()


# ---- what the file does not say ----


@pytest.fixture
def plain(tmp_path) -> Path:
    onnx.save(ACCEPTED["plain"]().model(), tmp_path / "plain.onnx")
    return tmp_path / "plain.onnx"


def frontend_of(like: str) -> dict[str, Any]:
    data = json.loads(read_model(like).document.to_json())
    return {key: data[key] for key in ("frontend", "segments")}


def test_spec_without_like(tmp_path, plain, like) -> None:
    spec = tmp_path / "spec.json"
    texts = {"name": "mine", "licence": "CC0-1.0", "description": "a test", "training_data": "none", "tags": TAGS}
    spec.write_text(json.dumps({**frontend_of(like), **texts, "source": {"url": "https://example.org"}}))
    document = convert_stack(str(plain), spec=str(spec)).document
    assert (document.name, document.licence, document.tags) == ("mine", "CC0-1.0", tuple(TAGS))
    assert (document.source.url, document.source.file) == ("https://example.org", "plain.onnx")


def test_spec_beside_like_says_what_differs(tmp_path, plain, like) -> None:
    spec, tags = tmp_path / "spec.json", tmp_path / "tags.txt"
    spec.write_text(
        json.dumps({"frontend": {"mel_scale": "htk", "normalization": "scalar"}, "input": {"scale": 0.5, "shift": 1}})
    )
    tags.write_text("\n".join(f"genre {i}" for i in range(6)) + "\n")
    converted = convert_stack(str(plain), like=like, spec=str(spec), tags=str(tags))
    assert converted.document.frontend.mel_scale == "htk"
    assert converted.document.tags[2] == "genre 2"
    assert converted.tensors["input.scale"].tolist() == [0.5]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (None, "plain.onnx: its frontend is not in it: name a model that has the same"),
        ({"frontend": {"n_fft": 256}}, r"spec\.json|its segments is not in it|n_fft"),
        ({"front": {}}, "'front': unknown field; known: name"),
        ("[1]", "not a JSON object"),
        ("{", "not valid JSON"),
        ({"input": [1]}, "input: must be an object with scale and shift"),
        ({"input": {"scale": ["a"], "shift": 1}}, "input.scale: must be a number or a list of numbers"),
        ({"frontend": 3}, "frontend: must be an object"),
    ],
)
def test_mistakes_in_the_spec(tmp_path, plain, spec, message) -> None:
    path = tmp_path / "spec.json"
    path.write_text(spec if isinstance(spec, str) else json.dumps(spec or {}))
    with pytest.raises(ModelError, match=message):
        convert_stack(str(plain), spec=str(path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frontend": {"normalization": "scalar"}}, "the network does not normalise its input"),
        (
            {"frontend": {"normalization": "per_mel"}, "input": {"scale": 1, "shift": 0}},
            r"input\.scale: shape is \[1\]",
        ),
        ({"frontend": {"n_mels": 24}}, "an input of 20 x 32; the front end gives 24 x 32"),
        ({"frontend": {"colour": 1}}, "document.frontend.colour: unknown field"),
        ({"tags": TAGS[:5]}, "6 scores, but 5 tags; give the right ones"),
        ({"tags": "rock"}, "document.tags: expected a list"),
        ({"segments": {"rule": "best"}}, "segments.rule: 'best' is not one of"),
        ({"name": "a/b"}, "must be a plain, non-empty name"),
    ],
)
def test_mistakes_beside_like(tmp_path, plain, like, changes, message) -> None:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(changes))
    with pytest.raises(ModelError, match=message):
        convert_stack(str(plain), like=like, spec=str(path))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--as", "mtt-vgg"], 2, "--as: goes with a checkpoint of the catalogue"),
        (["--tags", "no-such-file"], 3, "no-such-file: No such file"),
        (["--like", "no-such-model"], 3, "no-such-model"),
        ([], 3, "its frontend is not in it"),
    ],
)
def test_mistakes_on_the_command_line(capsys, tmp_path, plain, arguments, code, message) -> None:
    actual, _, err = run(capsys, "convert", plain, "--to", tmp_path / "out.safetensors", *arguments)
    assert (actual, len(err.splitlines())) == (code, 1)
    assert message in err
    assert not (tmp_path / "out.safetensors").exists()


# ---- files that are damaged, or want to do damage ----


def test_not_onnx(tmp_path, like) -> None:
    path = tmp_path / "net.onnx"
    for data in (b"", b"\x00" * 100, b"not a model at all", b"\x08\x08"):
        path.write_bytes(data)
        with pytest.raises(ModelError, match="not an ONNX file"):
            convert_stack(str(path), like=like)


def test_damaged_files_are_one_line_each(tmp_path, like, rng) -> None:
    data = bytearray(ACCEPTED["plain"]().model().SerializeToString())
    path = tmp_path / "net.onnx"
    structure = [i for i in range(len(data)) if i < 400 or i > len(data) - 400]
    messages = []
    for _ in range(150):
        changed = bytearray(data)
        for i in rng.choice(structure, 3):
            changed[i] = rng.integers(256)
        path.write_bytes(changed)
        try:
            convert_stack(str(path), like=like)
        except ModelError as error:
            messages.append(str(error))
    assert len(messages) > 50
    assert all(message.startswith(str(path)) and "\n" not in message for message in messages)


def test_reading_needs_onnx(tmp_path, plain, like, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModelError, match=r'pip install "fcntag\[onnx\]"'):
        convert_stack(str(plain), like=like)
