"""PyTorch state dicts: Won's FCN folded as defined, nothing executed, everything else refused."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fcntag.convert import convert
from fcntag.errors import ModelError

torch = pytest.importorskip("torch")

CHANNELS = (1, 64, 128, 128, 128, 64)


def random_state() -> OrderedDict[str, Any]:
    generator = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> Any:
        return torch.randn(*shape, generator=generator) * 0.1

    def norm(layer: str, n: int) -> dict[str, Any]:
        return {
            f"{layer}.weight": normal(n),
            f"{layer}.bias": normal(n),
            f"{layer}.running_mean": normal(n),
            f"{layer}.running_var": normal(n).abs(),
            f"{layer}.num_batches_tracked": torch.tensor(3),
        }

    state = OrderedDict({"spec.mel_scale.fb": normal(257, 96), **norm("spec_bn", 1)})
    for i in range(1, 6):
        state[f"layer{i}.conv.weight"] = normal(CHANNELS[i], CHANNELS[i - 1], 3, 3)
        state[f"layer{i}.conv.bias"] = normal(CHANNELS[i])
        state.update(norm(f"layer{i}.bn", CHANNELS[i]))
    state["dense.weight"], state["dense.bias"] = normal(50, 64), normal(50)
    return state


def assert_folded(tensors: dict[str, np.ndarray], state: dict[str, Any]) -> None:
    w = {name: tensor.double().numpy() for name, tensor in state.items()}
    scale = w["spec_bn.weight"] / np.sqrt(w["spec_bn.running_var"] + 1e-5)
    np.testing.assert_allclose(tensors["input.scale"], scale, rtol=1.2e-7)
    shift = w["spec_bn.bias"] - w["spec_bn.running_mean"] * scale
    np.testing.assert_allclose(tensors["input.shift"], shift, rtol=1e-6, atol=1e-7)
    for i in range(5):
        layer = f"layer{i + 1}"
        scale = w[f"{layer}.bn.weight"] / np.sqrt(w[f"{layer}.bn.running_var"] + 1e-5)
        weight = w[f"{layer}.conv.weight"] * scale[:, None, None, None]
        # atol: float32 denormals are flushed to zero.
        np.testing.assert_allclose(tensors[f"blocks.{i}.weight"], weight, rtol=1.2e-7, atol=1.2e-38)
        bias = (w[f"{layer}.conv.bias"] - w[f"{layer}.bn.running_mean"]) * scale + w[f"{layer}.bn.bias"]
        np.testing.assert_allclose(tensors[f"blocks.{i}.bias"], bias, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(tensors["head.weight"], state["dense.weight"].numpy())
    np.testing.assert_array_equal(tensors["head.bias"], state["dense.bias"].numpy())


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "pickle"])
def test_folds_as_defined(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "best_model.pth"
    state = random_state()
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    document, tensors = convert(path, "won2020-fcn-jamendo")
    assert document.name == "won2020-fcn-jamendo-unverified"
    assert document.tags[0] == "genre---alternative"
    assert_folded(tensors, state)


def test_tags_cannot_be_guessed(tmp_path: Path) -> None:
    path = tmp_path / "best_model.pth"
    torch.save(random_state(), path)
    with pytest.raises(
        ModelError, match=r"best_model\.pth: not one of the published files; say whose tags it has: won"
    ):
        convert(path)
    with pytest.raises(ModelError, match="holds Won's FCN; mtt-vgg is not: allowed: won2020-fcn-mtat"):
        convert(path, "mtt-vgg")


def without(name: str) -> Any:
    def change(state: Any) -> Any:
        del state[name]
        return state

    return change


def with_value(name: str, value: Any) -> Any:
    return lambda state: {**state, name: value}


REFUSED = {
    "not a dict": (lambda s: list(s.values()), "not a PyTorch state dict"),
    "a missing tensor": (without("layer3.bn.bias"), "of no known network"),
    "another shape": (with_value("dense.bias", torch.zeros(51)), "of no known network"),
    "an unknown tensor": (
        with_value("layer6.conv.weight", torch.zeros(3)),
        "layer6.conv.weight: Won's FCN has no such",
    ),
    "not a tensor": (with_value("dense.bias", 3), "dense.bias: is int; must be a tensor"),
    "a name that is no text": (with_value(3, torch.zeros(3)), "3: is Tensor; must be a tensor"),
    "a sparse tensor": (with_value("dense.bias", torch.zeros(50).to_sparse()), "dense.bias: must be a dense tensor"),
    "far more than the file": (with_value("x", torch.zeros(1).expand(1 << 40)), "x: must be a dense tensor of at most"),
    "another dtype": (with_value("x", torch.zeros(3, dtype=torch.bool)), "x: dtype is torch.bool; must be floating"),
    "NaN": (with_value("dense.bias", torch.full((50,), float("nan"))), "head.bias: holds NaN or infinity"),
    "a negative variance": (with_value("layer1.bn.running_var", -torch.ones(64)), "batch-norm: a variance is negative"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_states_are_refused(tmp_path: Path, what: str) -> None:
    change, message = REFUSED[what]
    path = tmp_path / "bad.pth"
    torch.save(change(random_state()), path)
    with pytest.raises(ModelError, match=message) as caught:
        convert(path, "won2020-fcn-msd")
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "pickle"])
def test_no_code_of_a_pickle_is_run(tmp_path: Path, legacy: bool) -> None:
    path, mark = tmp_path / "bomb.pth", tmp_path / "exploded"
    torch.save({"x": Bomb(mark)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ModelError, match=r"bomb\.pth: not a PyTorch state dict, or damaged") as caught:
        convert(path, "won2020-fcn-msd")
    assert "\n" not in str(caught.value)
    assert not mark.exists()


def test_truncated_files_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "cut.pth"
    for legacy in (False, True):
        torch.save(random_state(), path, _use_new_zipfile_serialization=not legacy)
        data = path.read_bytes()
        for size in (4, 300, len(data) // 2, len(data) - 30):
            path.write_bytes(data[:size])
            with pytest.raises(ModelError, match=r"cut\.pth: not a PyTorch state dict, or damaged") as caught:
                convert(path, "won2020-fcn-msd")
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("which", ["mtat", "msd"])
def test_published_files_are_told_by_their_digest(shared: Path, which: str) -> None:
    path = shared / "weights" / "won2020" / f"{which}_fcn.pth"
    document, tensors = convert(path)
    assert document.name == f"won2020-fcn-{which}"
    golden = np.load(shared / "golden" / "won2020" / f"won2020_{which}.npz")
    assert list(document.tags) == golden["tags"].tolist()
    state = torch.load(path, weights_only=True, map_location="cpu")
    assert_folded(tensors, state)
    tiny = np.finfo(np.float32).tiny
    for name, array in tensors.items():
        assert not ((array != 0) & (np.abs(array) < tiny)).any(), name
    assert any("set to zero" in note for note in document.notes) == (which == "msd")
    with pytest.raises(ModelError, match=f"is the published file of won2020-fcn-{which}, not of won2020-fcn-jamendo"):
        convert(path, "won2020-fcn-jamendo")
