"""State dicts with hidden dense layers and batch-norms of features, in the order of the file and by their names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support import torch_networks
from support.numerics import max_abs
from torch import nn
from torch.nn import functional

from fcntag import oracle
from fcntag.convert import convert_stack
from fcntag.errors import ModelError
from fcntag.export.check import normalised, random_log_mel
from fcntag.model.file import Model


class Hidden(nn.Module):
    """Two blocks, then what ``kind`` says; ``functions`` says what is computed behind each dense layer but the last."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv1, self.bn1 = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12)
        features = 12 if kind in ("average", "maximum", "norm of a mean") else 12 * 5 * 4
        if kind in ("norm of a map", "norm of a mean"):
            self.bn_features = nn.BatchNorm1d(features)
        self.dense1 = nn.Linear(features, 16)
        if kind in ("maximum", "behind the activation"):
            self.bn_dense1 = nn.BatchNorm1d(16)
        if kind == "three":
            self.dense2, self.dense3 = nn.Linear(16, 10), nn.Linear(10, 6)
        else:
            self.dense2 = nn.Linear(16, 6)
        if kind == "norm of scores":
            self.bn_dense2 = nn.BatchNorm1d(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), (2, 4))
        x = functional.max_pool2d(functional.relu(self.bn2(self.conv2(x))), 2)
        if self.kind in ("average", "norm of a mean"):
            x = x.mean((2, 3))
        elif self.kind == "maximum":
            x = x.amax((2, 3))
        x = x.flatten(1)
        if self.kind in ("norm of a map", "norm of a mean"):
            x = self.bn_features(x)
        x = self.dense1(x)
        if self.kind == "maximum":
            x = self.bn_dense1(x)
        x = functional.elu(x) if self.kind == "average" else functional.relu(x)
        if self.kind == "behind the activation":
            x = self.bn_dense1(x)
        x = self.dense2(x)
        if self.kind == "three":
            x = self.dense3(functional.elu(x))
        if self.kind == "norm of scores":
            x = self.bn_dense2(x)
        return torch.sigmoid(x)


PLANS: dict[str, dict[str, Any]] = {
    "average": {"flatten": "average", "hidden": [{"activation": "elu"}]},
    "maximum": {"flatten": "max", "hidden": [{"batch_norm": "before"}]},
    "behind the activation": {"hidden": [{"batch_norm": "after"}]},
    "norm of a map": {"hidden": [{}]},
    "norm of a mean": {"flatten": "average", "hidden": [{}]},
    "norm of scores": {"hidden": [{}]},
    "three": {"hidden": [{"activation": "relu"}, {"activation": "elu"}]},
}


def saved(kind: str, suffix: str, tmp_path: Path) -> tuple[nn.Module, str]:
    torch.manual_seed(5)
    module = torch_networks.randomised(Hidden(kind))
    path = tmp_path / f"net.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(module.state_dict(), path)
    return module, str(path)


def spec(tmp_path: Path, **data: Any) -> str:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"blocks": [{"pool": [2, 4]}, {"pool": [2, 2]}], **data}))
    return str(path)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("kind", PLANS)
def test_agrees_with_pytorch(rng, tmp_path, like, kind, suffix) -> None:
    module, path = saved(kind, suffix, tmp_path)
    converted = convert_stack(path, like=like, spec=spec(tmp_path, **PLANS[kind]))
    model = Model(converted.document, converted.tensors, "", "")
    y = normalised(model, random_log_mel(model, rng, 3))
    with torch.inference_mode():
        expected = module.double()(torch.from_numpy(y.astype(np.float64))[:, None]).numpy()
    assert expected.std() > 0.02
    assert max_abs(oracle.scores_of(model, y), expected) <= 1e-5
    assert len(model.document.head.hidden) == (2 if kind == "three" else 1)


def test_like_a_model_with_hidden_layers(tmp_path, like) -> None:
    _, path = saved("three", "pth", tmp_path)
    converted = convert_stack(path, like=like, spec=spec(tmp_path, **PLANS["three"]))
    from fcntag.model.file import write_model

    write_model(tmp_path / "mine.safetensors", converted.document, converted.tensors)
    again = convert_stack(path, like=str(tmp_path / "mine.safetensors"))
    assert again.document.head == converted.document.head


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, r"dense2: a second dense layer, and nothing says what is computed between: give hidden"),
        ({"hidden": [{}]}, "2 dense layers before the last, but 1 in hidden of the plan"),
        ({"hidden": 3}, "hidden: must be a list, one object for each dense layer but the last"),
        ({"hidden": [{}, {"activation": "gelu"}]}, r"hidden\[1\]\.activation: 'gelu' is not one of"),
        ({"hidden": [{}, {"batch_norm": "before"}]}, r"hidden\[1\]\.batch_norm: 'before', but dense2 has none"),
        ({"hidden": [{"pool": [2, 2]}, {}]}, "hidden: a pool; dense layers have none"),
    ],
)
def test_a_plan_that_does_not_fit(tmp_path, like, data, message) -> None:
    _, path = saved("three", "pth", tmp_path)
    with pytest.raises(ModelError, match=message):
        convert_stack(path, like=like, spec=spec(tmp_path, **data))
