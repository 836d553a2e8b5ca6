"""Keras 3 files without Keras: real files with the scores of Keras itself, and files that are not taken."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from support.cli_runner import run

from fcntag.convert import convert, convert_stack
from fcntag.errors import ModelError

FOLDER = Path(__file__).resolve().parent / "golden" / "keras"
RESULTS = np.load(FOLDER / "results.npz")


def check_file(tmp_path: Path, name: str) -> str:
    result = RESULTS[name.partition(".")[0]]
    path = tmp_path / "check.npz"
    np.savez(path, input=RESULTS["input"], **{"logits" if name == "nested.keras" else "scores": result})
    return str(path)


def spec_file(tmp_path: Path, **data: Any) -> str:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({"frontend": {"normalization": "none"}, **data}))
    return str(path)


@pytest.mark.parametrize(
    ("name", "activations", "flatten", "normalization"),
    [
        ("sequential.keras", ["relu", "elu"], "chw", "scalar"),
        ("functional.keras", ["relu", "relu"], "mean", "none"),
        ("functional.h5", ["relu", "relu"], "mean", "none"),
        ("nested.keras", ["elu", "none"], "max", "per_mel"),
        ("first.keras", ["relu"], "chw", "none"),
    ],
)
def test_the_configuration_says_everything(tmp_path, like, name, activations, flatten, normalization) -> None:
    """Keras' own scores, within float32; activations, pools, order and epsilon come from the file."""
    converted = convert_stack(
        str(FOLDER / name),
        like=like,
        spec=spec_file(tmp_path),
        check=check_file(tmp_path, name),
        logits=name == "nested.keras",
    )
    assert converted.checked is not None
    assert converted.checked.scores <= 2e-6
    assert RESULTS[name.partition(".")[0]].std() > 0.02
    document = converted.document
    assert [block.activation for block in document.blocks] == activations
    assert (document.head.flatten, document.frontend.normalization) == (flatten, normalization)
    assert document.frontend.layout == ("time_mel" if name == "nested.keras" else "mel_time")


def test_weights_alone_are_a_state_dict(tmp_path, like) -> None:
    """Eleven layers of one width; Keras' epsilon and its order of a flattened map."""
    name = "blocks.weights.h5"
    spec = spec_file(tmp_path, blocks=[{}] * 10 + [{"pool": [10, 8]}])
    converted = convert_stack(str(FOLDER / name), like=like, spec=spec, check=check_file(tmp_path, name))
    assert converted.checked is not None
    assert converted.checked.scores <= 2e-6
    assert "the batch-norms' places and epsilon (0.001)" in converted.unchecked
    wrong = spec_file(tmp_path, blocks=[{}] * 10 + [{"pool": [10, 8]}], batch_norm_epsilon=1e-5)
    with pytest.raises(ModelError, match="gives other scores than those stored"):
        convert_stack(str(FOLDER / name), like=like, spec=wrong, check=check_file(tmp_path, name))


def test_command_line(capsys, tmp_path, like) -> None:
    target = tmp_path / "o.safetensors"
    code, out, err = run(capsys, "convert", FOLDER / "sequential.keras", "--to", target, "--like", like)
    assert (code, len(out.strip())) == (0, 64), err
    assert "not checked: the reading of its configuration; the front end and its windows" in err
    for name in ("sequential.keras", "blocks.weights.h5"):
        code, _, err = run(capsys, "convert", FOLDER / name, "--to", target)
        assert (code, "(--like NAME), or give it (--spec FILE)" in err) == (3, True), err
        with pytest.raises(ModelError, match="name a model that has the same"):
            convert(FOLDER / name)


# ---- files that a test changes ----


def changed(tmp_path: Path, change: Any, name: str = "sequential.keras") -> Path:
    """A real file whose configuration is changed in place."""
    path = tmp_path / name
    with zipfile.ZipFile(FOLDER / name) as archive, zipfile.ZipFile(path, "w") as out:
        config = json.loads(archive.read("config.json"))
        config = change(config) or config
        out.writestr("config.json", json.dumps(config))
        out.writestr("model.weights.h5", archive.read("model.weights.h5"))
    return path


def layer_of(config: Any, kind: str, n: int = 0) -> Any:
    return [layer for layer in config["config"]["layers"] if layer["class_name"] == kind][n]


def set_field(kind: str, name: str, value: Any, n: int = 0) -> Any:
    return lambda config: layer_of(config, kind, n)["config"].__setitem__(name, value)


def set_class(kind: str, value: str) -> Any:
    return lambda config: layer_of(config, kind).__setitem__("class_name", value)


def two_inputs(config: Any) -> None:
    layers = config["config"]["layers"]
    layers[3]["inbound_nodes"][0]["args"] *= 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_class("Dropout", "Lambda"), r"\(Lambda\): holds code, which is never run; export the model to ONNX"),
        (set_class("Dropout", "MyLayer"), r"dropout\w* \(MyLayer\): a layer that is not built; built: Conv2D, .*ONNX"),
        (set_class("ELU", "LeakyReLU"), r"\(LeakyReLU\): a layer that is not built"),
        (set_field("ELU", "alpha", 0.5), r"\(ELU\): alpha 0\.5; built: 1\.0"),
        (set_field("Conv2D", "activation", "gelu"), r"the activation 'gelu'; built: relu, elu"),
        (set_field("Conv2D", "strides", [2, 2]), r"strides \[2, 2\]; built: \[1, 1\]"),
        (set_field("Conv2D", "groups", 2), "groups 2; built: 1"),
        (set_field("Conv2D", "padding", "causal"), "padding 'causal'; built: same, valid"),
        (set_field("Conv2D", "padding", "valid"), "padding 'same' of 9 x 7, which pads"),
        (set_field("Conv2D", "use_bias", False), r"2 arrays; its configuration has 1"),
        (
            set_field("MaxPooling2D", "pool_size", [3, 4]),
            "padding 'same' of 9 x 8, which pads",
        ),
        (set_field("MaxPooling2D", "padding", "reflect"), "padding 'reflect'; built: valid"),
        (set_field("BatchNormalization", "axis", 0), r"axis 0 of 4; built: one that is not the batch's"),
        (set_field("BatchNormalization", "axis", 1, 1), r"\[8\] values for an axis of 10"),
        (
            set_field("InputLayer", "batch_shape", [None, None, 32, 1]),
            r"of shape \[None, 32, 1\]; built: fixed",
        ),
        (
            set_field("InputLayer", "batch_shape", [None, 21, 32, 1]),
            r"input of 21 x 32; the front end gives 20 x 32",
        ),
        (set_field("InputLayer", "batch_shape", [None, 20, 32, 2]), r"an input of shape \[20, 32, 2\]; built"),
        (set_field("Dense", "activation", "softmax", 1), "the activation 'softmax'"),
        (set_field("Dense", "activation", "linear", 1), "must end in a sigmoid; say --logits"),
        (lambda c: {**c, "class_name": "MyModel"}, "MyModel: a model of a class of its own"),
        (lambda c: [c], "not a Keras weight file, or damaged"),
    ],
)
def test_what_is_not_built_is_named(tmp_path, like, change, message) -> None:
    path = changed(tmp_path, change)
    with pytest.raises(ModelError, match=message) as caught:
        convert_stack(str(path), like=like)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_a_network_with_branches(tmp_path, like) -> None:
    path = changed(tmp_path, two_inputs, "functional.keras")
    with pytest.raises(ModelError, match=r"takes \w+, \w+; built: a chain"):
        convert_stack(str(path), like=like)


def test_hdf5_without_a_configuration(tmp_path, like) -> None:
    with h5py.File(tmp_path / "net.h5", "w") as file:
        file.attrs["layer_names"] = [b"conv2d"]
    with pytest.raises(ModelError, match=r"without the configuration of a Keras model; save the whole model"):
        convert_stack(str(tmp_path / "net.h5"), like=like)


def test_damaged_files(tmp_path, like) -> None:
    data = (FOLDER / "sequential.keras").read_bytes()
    for name, change in (("a.keras", data[: len(data) // 2]), ("b.keras", data.replace(b"\x89HDF", b"\0\0\0\0"))):
        (tmp_path / name).write_bytes(change)
        with pytest.raises(ModelError) as caught:
            convert_stack(str(tmp_path / name), like=like)
        assert "\n" not in str(caught.value)
    path = tmp_path / "linked.keras"
    with zipfile.ZipFile(FOLDER / "sequential.keras") as archive:
        config, weights = archive.read("config.json"), io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(weights, "r+") as file:
        del file["layers/dense/vars/0"]
        file["layers/dense/vars/0"] = h5py.ExternalLink("/etc/passwd", "x")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", config)
        archive.writestr("model.weights.h5", weights.getvalue())
    with pytest.raises(ModelError, match="is a link, which is refused"):
        convert_stack(str(path), like=like)


def test_flatten_has_a_data_format_of_its_own(tmp_path, like) -> None:
    """Of channels_first it moves the channels behind the image, whatever the network's own format."""
    plain = convert_stack(str(FOLDER / "first.keras"), like=like, spec=spec_file(tmp_path))
    path = changed(tmp_path, set_field("Flatten", "data_format", "channels_first"), "first.keras")
    moved = convert_stack(str(path), like=like, spec=spec_file(tmp_path))
    rows, features = plain.tensors["head.weight"].shape
    channels = plain.document.blocks[-1].out_channels
    rest = plain.tensors["head.weight"].reshape(rows, features // channels, channels)
    assert features > channels
    np.testing.assert_array_equal(moved.tensors["head.weight"], rest.transpose(0, 2, 1).reshape(rows, features))


def test_data_formats_that_differ(tmp_path, like) -> None:
    path = changed(tmp_path, set_field("MaxPooling2D", "data_format", "channels_last"), "first.keras")
    with pytest.raises(ModelError, match="data formats channels_first, channels_last; built: one for all layers"):
        convert_stack(str(path), like=like, spec=spec_file(tmp_path))
