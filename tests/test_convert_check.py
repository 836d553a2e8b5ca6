"""``convert --check``: stored results of the original find what no comparison within the converter can."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import torch_networks
from support.cli_runner import run
from torch import nn

from fcntag import oracle
from fcntag.convert import convert, convert_stack
from fcntag.errors import ModelError
from fcntag.export.check import random_log_mel
from fcntag.model.file import Model, read_model

RIGHT = {"blocks": [{"pool": [2, 4]}, {"activation": "relu", "batch_norm": "before", "pool": [2, 2]}]}
# Each is another network, and agrees with a reference that is built from the same plan.
WRONG = {
    "activation": {"blocks": [{"pool": [2, 4], "activation": "elu"}, {"pool": [2, 2]}]},
    "no activation": {"blocks": [{"pool": [2, 4]}, {"pool": [2, 2], "activation": "none"}]},
    "pools that are swapped": {"blocks": [{"pool": [2, 2]}, {"pool": [2, 4]}]},
    "a window": {"blocks": [{"pool": [2, 4]}, {"pool": {"window": [1, 2], "stride": [2, 2]}}]},
    "batch-norm behind the activation": {"blocks": [{"pool": [2, 4], "batch_norm": "after"}, {"pool": [2, 2]}]},
    "flatten": {**RIGHT, "flatten": "hwc"},
    "epsilon": {**RIGHT, "batch_norm_epsilon": 0.5},
}


def module_and_file(tmp_path: Path) -> tuple[nn.Module, str]:
    module, _ = torch_networks.make("classic")
    torch.save(module.state_dict(), tmp_path / "net.pth")
    return module, str(tmp_path / "net.pth")


def plan(tmp_path: Path, data: Any) -> str:
    (tmp_path / "plan.json").write_text(json.dumps(data))
    return str(tmp_path / "plan.json")


def stored(tmp_path: Path, module: nn.Module, like: str, rng: np.random.Generator, **other: Any) -> str:
    """What a user saves: what goes into the network, and what comes out."""
    x = random_log_mel(read_model(like), rng, 5)
    with torch.inference_mode():
        scores = module(torch.from_numpy(x)[:, None]).numpy()
    arrays = {"input": x, "scores": scores, **other}
    np.savez(tmp_path / "check.npz", **{key: array for key, array in arrays.items() if array is not None})
    return str(tmp_path / "check.npz")


def test_the_right_plan_passes(rng, capsys, tmp_path, like) -> None:
    module, path = module_and_file(tmp_path)
    check = stored(tmp_path, module, like, rng)
    spec = plan(tmp_path, RIGHT)
    converted = convert_stack(path, like=like, spec=spec, check=check)
    assert converted.checked is not None
    assert (converted.checked.what, converted.checked.samples) == ("input", 5)
    assert converted.checked.scores <= 2e-6
    arguments = ("convert", path, "--to", tmp_path / "o.safetensors", "--like", like, "--spec", spec)
    code, _, err = run(capsys, *arguments, "--check", check)
    assert code == 0, err
    assert "compared with the stored results of" in err
    assert "not checked: the front end and its windows" in err
    assert "order of the layers" not in err


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_plan_is_found(rng, capsys, tmp_path, like, what) -> None:
    module, path = module_and_file(tmp_path)
    spec = plan(tmp_path, WRONG[what])
    assert convert_stack(path, like=like, spec=spec).scores <= 2e-5  # nothing within the converter finds it
    check, target = stored(tmp_path, module, like, rng), tmp_path / "o.safetensors"
    code, _, err = run(capsys, "convert", path, "--to", target, "--like", like, "--spec", spec, "--check", check)
    assert code == 3
    assert f"{check}: the converted model gives other scores than those stored: they differ by up to " in err
    assert "most at sample " in err
    assert "nothing was written" in err
    assert not target.exists()
    assert err.count("\n") == 1


def test_layers_and_tags_in_another_order_are_found(rng, tmp_path, like) -> None:
    torch.manual_seed(2)
    convs = [nn.Conv2d(4, 4, 3, padding=1) for _ in range(2)]
    module = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), convs[0], nn.ReLU(), convs[1], nn.ReLU())
    module = nn.Sequential(module, nn.MaxPool2d((20, 32)), nn.Flatten(), nn.Linear(4, 6), nn.Sigmoid()).eval()
    torch.save(module.state_dict(), tmp_path / "net.pth")
    names = ["0.0", "0.2", "0.4", "3"]
    data = {"blocks": [{}, {}, {"pool": [20, 32]}], "frontend": {"normalization": "none"}}
    check = stored(tmp_path, module, like, rng)

    def of(order: list[str]) -> Any:
        return convert_stack(
            str(tmp_path / "net.pth"), like=like, spec=plan(tmp_path, {**data, "order": order}), check=check
        )

    assert of(names).checked.scores <= 1e-5
    with pytest.raises(ModelError, match="gives other scores than those stored"):
        of(["0.0", "0.4", "0.2", "3"])
    check = stored(tmp_path, module, like, rng, scores=np.load(check)["scores"][:, ::-1])
    with pytest.raises(ModelError, match=r"most at sample \d .*, tag '.*': 0\.\d+, stored 0\.\d+"):
        of(names)


def test_logits_and_every_layout_of_the_input(rng, tmp_path, like) -> None:
    module, path = module_and_file(tmp_path)
    arrays = np.load(stored(tmp_path, module, like, rng))
    x, scores = arrays["input"], arrays["scores"].astype(np.float64)
    logits = np.log(scores / (1 - scores))
    for given in (x[:, None], x[..., None], x.transpose(0, 2, 1), x.transpose(0, 2, 1)[:, None], x.astype(np.float64)):
        check = stored(tmp_path, module, like, rng, input=given, scores=None, logits=logits)
        assert convert_stack(path, like=like, spec=plan(tmp_path, RIGHT), check=check).checked.samples == 5
    check = stored(tmp_path, module, like, rng, input=x, scores=None, logits=logits * 1.01)
    with pytest.raises(ModelError, match=r"logits differ by a relative 9\.9e-03, allowed 2e-03"):
        convert_stack(path, like=like, spec=plan(tmp_path, RIGHT), check=check)


def test_waves_compare_the_front_end_too(rng, capsys, tmp_path, like) -> None:
    _, path = module_and_file(tmp_path)
    spec = plan(tmp_path, RIGHT)
    converted = convert_stack(path, like=like, spec=spec)
    model = Model(converted.document, converted.tensors, "", "")
    waves = rng.uniform(-0.5, 0.5, (3, model.document.segments.n_samples))
    scores = oracle.scores(model, waves)
    check = tmp_path / "check.npz"
    np.savez(check, waves=waves, scores=scores)
    arguments = ("convert", path, "--to", tmp_path / "o.safetensors", "--like", like, "--spec", spec, "--check", check)
    code, _, err = run(capsys, *arguments)
    assert code == 0, err
    assert "3 samples of the front end's windows" in err
    assert "not checked" not in err
    np.savez(check, waves=waves * 0.5, scores=scores)
    assert run(capsys, *arguments)[0] == 3


def test_an_onnx_file(rng, tmp_path, like) -> None:
    module, shape = torch_networks.make("classic")
    torch_networks.onnx_file(module, shape, tmp_path / "net.onnx")
    check = stored(tmp_path, module, like, rng)
    assert convert_stack(str(tmp_path / "net.onnx"), like=like, check=check).checked.scores <= 2e-6
    check = stored(tmp_path, module, like, rng, scores=np.full((5, 6), 0.5))
    with pytest.raises(ModelError, match="gives other scores than those stored"):
        convert_stack(str(tmp_path / "net.onnx"), like=like, check=check)


def test_a_known_network(rng, tmp_path) -> None:
    from test_convert_torch import random_state

    torch.save(random_state(), tmp_path / "won.pth")
    document, tensors = convert(tmp_path / "won.pth", "won2020-fcn-msd")
    model = Model(document, tensors, "", "")
    x = random_log_mel(model, rng, 1)
    from fcntag.export.check import normalised

    scores = oracle.scores_of(model, normalised(model, x))
    check = tmp_path / "check.npz"
    np.savez(check, input=x, scores=scores)
    convert(tmp_path / "won.pth", "won2020-fcn-msd", check=str(check))
    np.savez(check, input=x, scores=1 - scores)
    with pytest.raises(ModelError, match="gives other scores than those stored"):
        convert(tmp_path / "won.pth", "won2020-fcn-msd", check=str(check))


X, S = np.zeros((2, 20, 32), np.float32), np.full((2, 6), 0.5, np.float32)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"input": X}, "neither scores and logits in it; one is needed"),
        ({"scores": S}, "neither waves and input in it"),
        ({"input": X, "scores": S, "logits": S}, "both scores and logits in it"),
        ({"input": X, "scores": S, "tags": S}, "'tags': unknown array; known: waves, input, scores, logits"),
        ({"input": X, "scores": S[:1]}, r"scores: \[1, 6\]; 2 samples of 6 tags are needed"),
        ({"input": X, "scores": S[:, :5]}, r"scores: \[2, 5\]; 2 samples of 6 tags are needed"),
        ({"input": X, "scores": S * 9}, "scores: from 0 to 1; values before the sigmoid are called logits"),
        ({"input": X[:, :19], "scores": S}, r"input: \[2, 19, 32\]; the network takes 20 bands x 32 frames"),
        ({"waves": X[0], "scores": S}, r"waves: \[20, 32\]; the model's window is 8000 samples at \d+ Hz"),
        ({"input": X.astype(int), "scores": S}, r"input: int64 \[2, 20, 32\]; must be floats"),
        ({"input": X * np.nan, "scores": S}, "input: holds NaN or infinity"),
        ({"input": np.array([None]), "scores": S}, "not an .npz file of NumPy, or damaged"),
        (b"PK\x03\x04 no zip", "not an .npz file of NumPy, or damaged"),
        (None, "No such file"),
    ],
)
def test_a_file_that_does_not_fit(tmp_path, like, arrays, message) -> None:
    _, path = module_and_file(tmp_path)
    check = tmp_path / "check.npz"
    if isinstance(arrays, bytes):
        check.write_bytes(arrays)
    elif arrays is not None:
        np.savez(check, **arrays)
    with pytest.raises(ModelError, match=message) as caught:
        convert_stack(path, like=like, spec=plan(tmp_path, RIGHT), check=str(check))
    assert str(caught.value).startswith(f"{check}: ")
    assert "\n" not in str(caught.value)


def test_scores_that_tell_nothing(rng, tmp_path, like) -> None:
    """Behind a large negative bias every wrong plan gives scores near 0, too; logits see it."""
    module, path = module_and_file(tmp_path)
    with torch.no_grad():
        module.fc.bias -= 20
    torch.save(module.state_dict(), path)
    spec = plan(tmp_path, RIGHT)
    check = stored(tmp_path, module, like, rng)
    with pytest.raises(ModelError, match=r"scores: all within 0\.01 of 0 or 1, where a wrong network is not seen"):
        convert_stack(path, like=like, spec=spec, check=check)
