"""State dicts of any stack of blocks: the tensors are in the file, activations and pools in a plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import torch_networks
from support.cli_runner import run
from support.numerics import max_abs
from torch import nn
from torch.nn import functional

from fcntag import oracle
from fcntag.convert import convert_stack
from fcntag.errors import ModelError
from fcntag.export.check import normalised, random_log_mel
from fcntag.model.file import Model, read_model

CLASSIC = {"blocks": [{"pool": [2, 4]}, {"activation": "relu", "batch_norm": "before", "pool": [2, 2]}]}
POST_NORM = {
    "blocks": [{"activation": "elu", "batch_norm": "after", "pool": {"window": [4, 3], "stride": [2, 2]}}] * 2,
    "flatten": "hwc",
}


def saved(module: nn.Module, tmp_path: Path) -> str:
    path = tmp_path / "net.pth"
    torch.save(module.state_dict(), path)
    return str(path)


def plan(tmp_path: Path, data: Any) -> str:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(data))
    return str(path)


def agrees(converted: Any, module: nn.Module, shape: tuple[int, ...], rng: np.random.Generator) -> Model:
    """The converted model gives what the module itself gives in float64."""
    model = Model(converted.document, converted.tensors, "", "")
    x = random_log_mel(model, rng, 3)
    if model.document.frontend.normalization == "none":
        x /= 40  # what the network was made for: about -2 to 0
    with torch.inference_mode():
        expected = module.double()(torch.from_numpy(x.astype(np.float64)).reshape(3, *shape)).numpy()
    assert expected.std() > 0.02
    assert max_abs(oracle.scores_of(model, normalised(model, x)), expected) <= 2e-6
    assert converted.runtime.startswith("PyTorch")
    return model


def test_like_another_model(rng, tmp_path, like) -> None:
    module, shape = torch_networks.make("classic")
    model = agrees(convert_stack(saved(module, tmp_path), like=like), module, shape, rng)
    assert model.document.frontend.normalization == "scalar"  # the input's batch-norm
    assert model.document.blocks[0].pool.window == (2, 4)


def test_by_a_plan(rng, tmp_path, like) -> None:
    for name, data in (("classic", CLASSIC), ("post-norm, ELU", POST_NORM)):
        module, shape = torch_networks.make(name)
        agrees(convert_stack(saved(module, tmp_path), like=like, spec=plan(tmp_path, data)), module, shape, rng)


@pytest.mark.parametrize("name", ["global average", "global max"])
def test_a_convolution_as_head(rng, tmp_path, like, name) -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 5, 3), nn.Conv2d(5, 6, 1)
            self.a.padding = self.b.padding = (1, 1)
            self.norm = nn.BatchNorm2d(5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = functional.relu(functional.max_pool2d(self.a(x), (2, 3)))
            x = self.norm(functional.elu(self.b(x)))
            x = x.mean((2, 3), keepdim=True) if name == "global average" else x.amax((2, 3), keepdim=True)
            return torch.sigmoid(self.head(x).flatten(1))

    torch.manual_seed(1)
    module = torch_networks.randomised(Network())
    data = {
        "blocks": [
            {"pool": [2, 3], "pool_first": True, "batch_norm": "none"},
            {"activation": "elu", "batch_norm": "after"},
        ],
        "flatten": name.split()[1],
    }
    # the batch-norm is registered last, behind the head: the plan says where it belongs
    model = agrees(
        convert_stack(saved(module, tmp_path), like=like, spec=plan(tmp_path, data)), module, (1, 20, 32), rng
    )
    assert model.document.head.flatten == ("max" if name == "global max" else "mean")


@pytest.mark.parametrize("end", ["dense", "average", "max"])
def test_negative_scales_behind_a_pool(rng, tmp_path, like, end) -> None:
    """The next layer's weights undo the sign: of a 3x3 kernel with padding, of a map, of its mean, of its maximum."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.n = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
            self.b, self.m = nn.Conv2d(4, 5, 3, padding=1), nn.BatchNorm2d(5)
            self.fc = nn.Linear(5 * 10 * 10 if end == "dense" else 5, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.n(functional.relu(functional.max_pool2d(self.a(x), (2, 3))))
            x = functional.elu(self.b(x))
            x = self.m(x if end != "max" else x.amax((2, 3), keepdim=True))
            x = x.mean((2, 3)) if end == "average" else x
            return torch.sigmoid(self.fc(x.flatten(1)))

    torch.manual_seed(3)
    module = torch_networks.randomised(Network())
    assert (module.n.weight < 0).any()
    last = {"pool": [10, 10], "pool_first": True} if end == "max" else {}
    data = {
        "blocks": [
            {"pool": [2, 3], "pool_first": True, "batch_norm": "after"},
            {"activation": "elu", "batch_norm": "after", **last},
        ],
        "flatten": {"average": "average"}.get(end, "chw"),
    }
    agrees(convert_stack(saved(module, tmp_path), like=like, spec=plan(tmp_path, data)), module, (1, 20, 32), rng)


def test_batch_norm_of_the_input_by_its_length(rng, tmp_path, like) -> None:
    class Network(nn.Module):
        def __init__(self, length: int) -> None:
            super().__init__()
            self.norm, self.conv, self.fc = nn.BatchNorm1d(length), nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4 * 640, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.norm(x) if self.norm.num_features == 20 else self.norm(x.transpose(1, 2)).transpose(1, 2)
            return torch.sigmoid(self.fc(functional.relu(self.conv(x[:, None])).flatten(1)))

    for length, normalization in ((20, "per_mel"), (32, "per_frame")):
        torch.manual_seed(2)
        module = torch_networks.randomised(Network(length))
        converted = convert_stack(saved(module, tmp_path), like=like, spec=plan(tmp_path, {"blocks": [{}]}))
        model = agrees(converted, module, (20, 32), rng)
        assert model.document.frontend.normalization == normalization
    with pytest.raises(ModelError, match=r"a batch-norm of 7 values before the first convolution; .* 20 bands and 32"):
        convert_stack(saved(Network(7), tmp_path), like=like, spec=plan(tmp_path, {"blocks": [{}]}))


def test_epsilon(rng, tmp_path, like) -> None:
    module, shape = torch_networks.make("classic")
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 1e-1
    data = {**CLASSIC, "batch_norm_epsilon": 0.1}
    agrees(convert_stack(saved(module, tmp_path), like=like, spec=plan(tmp_path, data)), module, shape, rng)


def test_command_line(capsys, tmp_path, like) -> None:
    module, _ = torch_networks.make("classic")
    target, tags = tmp_path / "net.safetensors", tmp_path / "tags.txt"
    tags.write_text("a\nb\nc\nd\ne\nf\n")
    code, out, err = run(
        capsys, "convert", saved(module, tmp_path), "--to", target, "--like", like, "--tags", tags, "--name", "mine"
    )
    assert code == 0, err
    model = read_model(target)
    assert out.strip() == model.sha256
    assert (model.document.name, model.document.tags) == ("mine", tuple("abcdef"))
    assert "compared with PyTorch" in err
    code, _, err = run(capsys, "convert", saved(module, tmp_path), "--to", target)
    assert (code, "--like NAME or --spec FILE" in err) == (3, True)
    code, _, err = run(capsys, "convert", saved(module, tmp_path), "--to", target, "--like", like, "--logits")
    assert (code, "--logits: goes with an ONNX file" in err) == (2, True)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"blocks": CLASSIC["blocks"][:1]}, "2 convolutions before the head, but 1 blocks in the plan"),
        ({"blocks": {}}, "blocks: must be a list"),
        ({"blocks": [1, 2]}, r"blocks\[0\]: must be an object"),
        ({"blocks": [{"activation": "gelu"}, {}]}, r"blocks\[0\]\.activation: 'gelu' is not one of relu, elu, none"),
        ({"blocks": [{"pools": [2, 2]}, {}]}, r"blocks\[0\]\.pools: unknown field; known: pool, activation"),
        ({"blocks": [{"pool": [2]}, {}]}, r"blocks\[0\]\.pool: must be \[h, w\]"),
        ({"blocks": [{"pool": {"window": [2, 2]}}, {}]}, r"blocks\[0\]\.pool: must be"),
        ({"blocks": [{"batch_norm": "none"}, {}]}, r"bn1: a batch-norm, but blocks\[0\]\.batch_norm is 'none'"),
        ({**CLASSIC, "flatten": "whc"}, "flatten: 'whc' is not one of"),
        ({**CLASSIC, "flatten": "max"}, r"fc\.weight: 240 features, but 12 x 1 x 1 arrive"),
        ({**CLASSIC, "batch_norm_epsilon": 0}, "batch_norm_epsilon: 0; must be a number above 0"),
        ({"blocks": [{"pool": [30, 4]}, {}]}, r"conv1's pool: a window of \[30, 4\] on a map of \[20, 32\]"),
    ],
)
def test_a_plan_that_does_not_fit(tmp_path, like, data, message) -> None:
    module, _ = torch_networks.make("classic")
    with pytest.raises(ModelError, match=message):
        convert_stack(saved(module, tmp_path), like=like, spec=plan(tmp_path, data))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update({"gru.weight_hh": torch.zeros(3, 3)}), r"gru: weight_hh \[3, 3\]: not a 2-D convolution"),
        (lambda s: s.update({"c.weight": torch.zeros(3, 1, 3)}), r"c: weight \[3, 1, 3\]: not a 2-D convolution"),
        (lambda s: s.update({"conv1.weight": torch.zeros(8, 1, 5, 5)}), "conv1.weight: a kernel of 5 x 5; built"),
        (lambda s: s.update({"conv2.weight": torch.zeros(12, 4, 3, 3)}), "conv2.weight: for 4 channels, but 8 arrive"),
        (lambda s: s.update({"fc2.weight": torch.zeros(6, 6)}), "fc2: a second dense layer"),
        (lambda s: s.update({"bn1.running_var": -torch.ones(8)}), "bn1: batch-norm: a variance is negative"),
        (lambda s: s.update({"conv2.bias": torch.zeros(3)}), r"conv2\.bias: shape is \[3\], for 12 outputs"),
        (lambda s: [s.pop(k) for k in list(s) if k.startswith(("conv", "fc"))], "no convolutions with a head"),
        (lambda s: s.update({"fc.weight": torch.full((6, 240), torch.inf)}), "NaN or infinity"),
    ],
)
def test_a_state_dict_that_does_not_fit(tmp_path, like, change, message) -> None:
    module, _ = torch_networks.make("classic")
    state = dict(module.state_dict())
    change(state)
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(ModelError, match=message):
        convert_stack(str(tmp_path / "net.pth"), like=like)


def test_a_wrong_fold_is_found(tmp_path, like, monkeypatch) -> None:
    from fcntag.convert import state_stack

    right = state_stack._affine
    monkeypatch.setattr(state_stack, "_affine", lambda norm, epsilon: right(norm, 1e-2))
    module, _ = torch_networks.make("classic")
    with pytest.raises(ModelError, match="computes something else than the original in PyTorch"):
        convert_stack(saved(module, tmp_path), like=like)


@pytest.mark.shared
def test_a_published_checkpoint_as_if_nobody_knew_it(shared, models) -> None:
    """Won's FCN, by the plan of the model that its own converter makes: the same tensors, to the last bit."""
    path = shared / "weights" / "won2020" / "mtat_fcn.pth"
    known = models("won2020-fcn-mtat")
    converted = convert_stack(str(path), like=known.path)
    assert converted.said == ("ignored spec.spectrogram.window, spec.mel_scale.fb",)  # buffers of its front end
    assert converted.document.blocks == known.document.blocks
    assert converted.document.tags == known.document.tags
    for name, tensor in known.tensors.items():
        np.testing.assert_array_equal(converted.tensors[name], tensor, err_msg=name)


def test_an_exported_program_is_no_state_dict(capsys, tmp_path, like) -> None:
    assert run(capsys, "export", like, "--to", tmp_path / "net.pt")[0] == 0
    code, _, err = run(capsys, "convert", tmp_path / "net.pt", "--to", tmp_path / "o.safetensors", "--like", like)
    assert (code, "not a PyTorch state dict" in err) == (3, True)
