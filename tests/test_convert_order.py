"""The order of a state dict's layers: the numbers in the names, the channels, or the user; never the alphabet."""

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

BANDS, FRAMES = torch_networks.BANDS, torch_networks.FRAMES
N_TAGS = 6


class Net(nn.Module):
    """[conv, batch-norm, ReLU, pool] as many times as ``widths``, under the names that ``layout`` gives."""

    def __init__(self, layout: str, widths: tuple[int, ...], pools: int = 4) -> None:
        super().__init__()
        self.layout, self.pools = layout, pools
        pairs, c = [], 1
        for width in widths:
            pairs.append((nn.Conv2d(c, width, 3, padding=1), nn.BatchNorm2d(width)))
            c = width
        self.pairs = [self._declare(i, *pair) for i, pair in enumerate(pairs)]
        height, frames = BANDS, FRAMES
        for _ in range(min(pools, len(widths))):
            height, frames = height // 2, frames // 2
        self.head = nn.Linear(c * height * frames, N_TAGS)

    def _declare(self, i: int, conv: nn.Module, norm: nn.Module) -> tuple[nn.Module, nn.Module]:
        if self.layout == "sequential":
            if not i:
                self.f = nn.Sequential()
            for module in (conv, norm, nn.ReLU(), nn.MaxPool2d(2)):
                self.f.append(module)
        elif self.layout == "lists":
            if not i:
                self.convs, self.bns = nn.ModuleList(), nn.ModuleList()
            self.convs.append(conv)
            self.bns.append(norm)
        elif self.layout == "nested":
            block = nn.Module()
            block.conv, block.bn = conv, norm
            self.add_module(f"layer{i + 1}", block)
        elif self.layout == "in a list":
            if not i:
                self.encoder = nn.ModuleList()
            block = nn.Module()
            block.conv, block.norm = conv, norm
            self.encoder.append(block)
        else:  # e.g. conv_{}, bn{}
            conv_name, norm_name = self.layout.split()
            self.add_module(conv_name.format(i + 1), conv)
            self.add_module(norm_name.format(i + 1), norm)
        return conv, norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i, (conv, norm) in enumerate(self.pairs):
            x = functional.relu(norm(conv(x)))
            x = functional.max_pool2d(x, 2) if i < self.pools else x
        return torch.sigmoid(self.head(x.flatten(1)))


LAYOUTS = ("sequential", "lists", "nested", "in a list", "conv{} bn{}", "conv_{} bn_{}", "c{} norm{}")
EQUAL = (8,) * 11  # as many as a name's digits sort wrongly


def made(layout: str, widths: tuple[int, ...] = EQUAL) -> Net:
    torch.manual_seed(4)
    net = torch_networks.randomised(Net(layout, widths))
    for conv, norm in net.pairs:
        norm.weight.data.abs_()
        nn.init.normal_(conv.weight, 0, (2 / conv.weight[0].numel()) ** 0.5)
    return net


def plan(tmp_path: Path, n: int, **more: Any) -> str:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"blocks": [{"pool": [2, 2]} if i < 4 else {} for i in range(n)], **more}))
    return str(path)


def agrees(converted: Any, module: nn.Module, rng: np.random.Generator) -> None:
    model = Model(converted.document, converted.tensors, "", "")
    x = random_log_mel(model, rng, 3)
    y = normalised(model, x)
    with torch.inference_mode():
        expected = module.double()(torch.from_numpy(y.astype(np.float64))[:, None]).numpy()
    module.float()
    assert expected.std() > 0.02
    assert max_abs(oracle.scores_of(model, y), expected) <= 2e-6


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["safetensors", "sorted", "shuffled"])
def test_names_give_the_order(rng, tmp_path, like, layout, kind) -> None:
    """Eleven blocks of one width: only the numbers in the names tell them apart."""
    module = made(layout)
    state = module.state_dict()
    path = tmp_path / f"net.{'safetensors' if kind == 'safetensors' else 'pth'}"
    if kind == "safetensors":
        save_file(state, path)
    else:
        names = sorted(state)
        if kind == "shuffled":
            rng.shuffle(names)
        torch.save({name: state[name] for name in names}, path)
    spec = plan(tmp_path, len(EQUAL))
    converted = convert_stack(str(path), like=like, spec=spec)
    agrees(converted, module, rng)
    assert any("order" in line or "numbers" in line for line in converted.said)
    assert any("the order of the layers" in line for line in converted.unchecked)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pytorch_s_own_order_needs_no_words(rng, tmp_path, like, layout) -> None:
    module = made(layout)
    torch.save(module.state_dict(), tmp_path / "net.pth")
    converted = convert_stack(str(tmp_path / "net.pth"), like=like, spec=plan(tmp_path, len(EQUAL)))
    agrees(converted, module, rng)
    assert converted.said == ()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_against_its_numbers(rng, tmp_path, like, layout) -> None:
    """Containers count their layers; names that people choose may count anything, and the channels fit both orders."""
    module = made(layout, (8, 8, 8))
    state = list(module.state_dict().items())
    parts = {"sequential": ("f.4.", "f.5."), "lists": ("convs.1.", "bns.1."), "in a list": ("encoder.1.",)}
    second = parts.get(layout, ("layer2.", "conv2.", "bn2.", "conv_2.", "bn_2.", "c2.", "norm2."))
    moved = [item for item in state if item[0].startswith(second)]
    rest = [item for item in state if not item[0].startswith(second)]
    at = next(i for i, item in enumerate(rest) if item[0].startswith("head."))
    torch.save(dict([*rest[:at], *moved, *rest[at:]]), tmp_path / "net.pth")
    if layout in parts:
        converted = convert_stack(str(tmp_path / "net.pth"), like=like, spec=plan(tmp_path, 3))
        agrees(converted, module, rng)
        assert "taken in the order of these numbers" in converted.said[0]
    else:
        with pytest.raises(ModelError, match=r"numbers in the names say .*, and the channels fit both; give 'order'"):
            convert_stack(str(tmp_path / "net.pth"), like=like, spec=plan(tmp_path, 3))


class Words(nn.Module):
    def __init__(self, widths: tuple[int, int, int]) -> None:
        super().__init__()
        a, b, c = widths
        self.stem, self.middle, self.end = (
            nn.Conv2d(1, a, 3, padding=1),
            nn.Conv2d(a, b, 3, padding=1),
            nn.Conv2d(b, c, 1),
        )
        self.out = nn.Linear(c, N_TAGS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in (self.stem, self.middle, self.end):
            x = functional.max_pool2d(functional.relu(conv(x)), 2)
        return torch.sigmoid(self.out(x.amax((2, 3))))


def words(tmp_path: Path, widths: tuple[int, int, int]) -> tuple[nn.Module, str]:
    torch.manual_seed(6)
    module = Words(widths).eval()
    nn.init.normal_(module.out.weight, 0, 3)
    save_file(module.state_dict(), tmp_path / "words.safetensors")
    return module, str(tmp_path / "words.safetensors")


def test_words_are_ordered_by_the_channels_or_by_the_user(rng, tmp_path, like) -> None:
    data = {"blocks": [{"pool": [2, 2]}] * 3, "flatten": "max"}
    spec = tmp_path / "plan.json"
    spec.write_text(json.dumps(data))
    module, path = words(tmp_path, (5, 7, 9))
    converted = convert_stack(path, like=like, spec=str(spec))
    agrees(converted, module, rng)
    assert converted.said == (
        "the order of the convolutions is the only one that fits the channels: stem, middle, end",
    )
    module, path = words(tmp_path, (8, 8, 8))
    with pytest.raises(ModelError, match=r"order of its convolutions cannot be told: .*; give 'order'"):
        convert_stack(path, like=like, spec=str(spec))
    spec.write_text(json.dumps({**data, "order": ["stem", "middle", "end", "out"]}))
    agrees(convert_stack(path, like=like, spec=str(spec)), module, rng)
    for order, message in (
        (["stem", "middle", "end"], "order: out is missing"),
        (["stem", "middle", "end", "exit"], "order: 'exit' is no layer of the file; it has: end, middle, out, stem"),
        ("stem", "order: must be a list of names"),
    ):
        spec.write_text(json.dumps({**data, "order": order}))
        with pytest.raises(ModelError, match=message):
            convert_stack(path, like=like, spec=str(spec))


def test_batch_norms_in_another_order_than_their_convolutions(tmp_path, like) -> None:
    module = made("conv{} bn{}", (8, 8, 8))
    state = module.state_dict()
    swapped = {name.replace("bn1", "bn9").replace("bn2", "bn1").replace("bn9", "bn2"): t for name, t in state.items()}
    torch.save(swapped, tmp_path / "net.pth")
    with pytest.raises(ModelError, match=r"bn2: stands behind conv1 in the file, and its name belongs to conv2"):
        convert_stack(str(tmp_path / "net.pth"), like=like, spec=plan(tmp_path, 3))


def test_batch_norms_declared_behind_all_convolutions(rng, tmp_path, like) -> None:
    """Two of them stand behind the last convolution, as one of the block and one in front of the dense layer would."""
    module = torch_networks.randomised(Named("c:stem n:stem_bn c:body n:body_bn d:fc", (8, 8)))
    state = module.state_dict()
    spec = plan(tmp_path, 2, flatten="max", blocks=[{}, {}])

    def write(*parts: str) -> None:
        names = [name for part in parts for name in state if name.startswith(part)]
        torch.save({name: state[name] for name in names}, tmp_path / "net.pth")

    write("stem.", "body.", "stem_bn", "body_bn", "fc")
    agrees(convert_stack(str(tmp_path / "net.pth"), like=like, spec=spec), module, rng)
    write("stem.", "body.", "body_bn", "stem_bn", "fc")
    with pytest.raises(ModelError, match=r"body_bn: stands behind stem in the file, and its name belongs to body;"):
        convert_stack(str(tmp_path / "net.pth"), like=like, spec=spec)


class Named(nn.Module):
    """Layers under any names, in the order of ``names``: "c" is a convolution, "n" a batch-norm, "d" a dense layer."""

    def __init__(self, names: str, widths: tuple[int, ...], dense: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.steps: list[tuple[str, nn.Module]] = []
        c, convs, features = 1, list(widths), list(dense)
        for item in names.split():
            kind, name = item.split(":")
            if kind == "c":
                c, before = convs.pop(0), c
                module: nn.Module = nn.Conv2d(before, c, 3, padding=1)
            elif kind == "d":
                c, before = (features.pop(0) if features else N_TAGS), c
                module = nn.Linear(before, c)
            else:
                module = nn.BatchNorm2d(c) if self.steps and self.steps[-1][0] == "c" else nn.BatchNorm1d(c)
                module = nn.BatchNorm2d(1) if not self.steps else module
            self.steps.append((kind, module))
            *path, last = name.split(".")
            owner: nn.Module = self
            for part in path:
                if part not in owner._modules:
                    owner.add_module(part, nn.Module())
                owner = owner._modules[part]
            owner.add_module(last, module)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i, (kind, module) in enumerate(self.steps):
            if kind == "d" and x.ndim == 4:
                x = x.amax((2, 3))
            x = module(x)
            behind = self.steps[i + 1][0] if i + 1 < len(self.steps) else ""
            if behind and behind != "n" and i and not (kind == "n" and self.steps[i - 1][0] == "x"):
                x = functional.relu(x)
        return torch.sigmoid(x)


NAMES = {
    "an input batch-norm": "n:bn0 c:conv1 n:bn1 c:conv2 n:bn2 c:conv3 n:bn3 d:fc",
    "an input batch-norm by a word": "n:spec_bn c:layer1.conv n:layer1.bn c:layer2.conv "
    "n:layer2.bn c:layer3.conv n:layer3.bn d:dense",
    "numbers from 0, batch-norms from 1": "n:bn0 c:conv0 n:bn1 c:conv1 n:bn2 c:conv2 n:bn3 d:fc",
    "two numbers": "c:conv1_1 n:bn1_1 c:conv1_2 n:bn1_2 c:conv2_1 n:bn2_1 d:fc",
    "block_1_conv": "c:block_1_conv n:block_1_bn c:block_2_conv n:block_2_bn c:block_10_conv n:block_10_bn d:out",
    "two in a block": "c:b1.conv1 n:b1.bn1 c:b1.conv2 n:b1.bn2 c:b2.conv1 n:b2.bn1 d:fc",
    "Sequentials": "c:layer1.0 n:layer1.1 c:layer2.0 n:layer2.1 c:layer10.0 n:layer10.1 d:fc.1",
    "features and classifier": "c:features.0 n:features.1 c:features.4 "
    "n:features.5 c:features.12 n:features.13 d:classifier.1",
    "a batch-norm between dense layers": "c:layer1.conv n:layer1.bn c:layer2.conv n:layer2.bn "
    "c:layer3.conv n:layer3.bn d:dense1 n:bn d:dense2",
    "a stem in front of numbers": "c:stem n:stem_bn c:block0 n:block0_bn c:block1 n:block1_bn d:fc",
    "a batch-norm by its word": "c:conv_stem n:bn_stem c:conv2d_1 n:bn2d_1 c:conv2d_2 n:bn2d_2 d:fc",
    "camel case": "c:stemConv n:stemBN c:body1Conv n:body1BN c:body2Conv n:body2BN d:fc",
    "dense layers with numbers": "c:conv1 n:bn1 c:conv2 n:bn2 c:conv3 n:bn3 d:fc1 n:bn_fc1 d:fc2",
}


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("name", NAMES)
def test_the_names_that_people_give(rng, tmp_path, like, name, suffix) -> None:
    """One width throughout, so that nothing but the names tells what belongs together."""
    torch.manual_seed(3)
    dense = NAMES[name].count("d:") - 1
    module = torch_networks.randomised(Named(NAMES[name], (8, 8, 8), (8,) * dense))
    path = tmp_path / f"net.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(module.state_dict(), path)
    spec = tmp_path / "plan.json"
    hidden = {"hidden": [{"batch_norm": "before"}]} if dense else {}
    spec.write_text(json.dumps({"blocks": [{}] * 3, "flatten": "max", **hidden}))
    converted = convert_stack(str(path), like=like, spec=str(spec))
    model = Model(converted.document, converted.tensors, "", "")
    x = random_log_mel(model, rng, 2)
    with torch.inference_mode():
        expected = module.double()(torch.from_numpy(x.astype(np.float64))[:, None]).numpy()
    assert max_abs(oracle.scores_of(model, normalised(model, x)), expected) <= 2e-6


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            "n:bn1 c:conv1 n:bn2 c:conv2 n:bn3 c:conv3 d:fc",
            "which of 3 batch-norms belongs to which block cannot be told",
        ),
        ("c:stem n:first c:b1 n:second c:b2 n:third d:fc", "which of 3 batch-norms belongs to which block cannot be"),
        ("c:one n:norm_a c:two d:fc", "which of 1 batch-norms belongs to which block cannot be told"),
        (
            "c:conv1 n:bn1 c:conv2 n:bn2 d:fc1 n:bn d:fc2",
            r"bn: a batch-norm in front of fc1 or behind it; give hidden\[0\]",
        ),
    ],
)
def test_names_that_do_not_decide(tmp_path, like, names, message) -> None:
    module = Named(names, (8, 8, 8), (8,) * (names.count("d:") - 1))
    save_file(module.state_dict(), tmp_path / "net.safetensors")
    spec = tmp_path / "plan.json"
    data = {"blocks": [{}] * names.count("c:"), "hidden": [{}] * (names.count("d:") - 1), "flatten": "max"}
    spec.write_text(json.dumps(data))
    with pytest.raises(ModelError, match=message):
        convert_stack(str(tmp_path / "net.safetensors"), like=like, spec=str(spec))
