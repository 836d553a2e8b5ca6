"""Checkpoints as trainers write them: what is beside the network is passed over in words, and nothing of it is run."""

from __future__ import annotations

import argparse
import collections
import io
import json
import os
import pathlib
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support import torch_networks
from support.cli_runner import run
from support.numerics import max_abs
from test_convert_torch import CHANNELS, random_state
from torch import nn
from torch.nn import functional

from fcntag import oracle
from fcntag.catalogue.names import load_any
from fcntag.convert import convert, convert_stack
from fcntag.convert.readers import torch_pickle
from fcntag.errors import ModelError
from fcntag.export.check import normalised, random_log_mel
from fcntag.model.file import Model, read_model


@pytest.fixture(scope="module")
def classic() -> nn.Module:
    return torch_networks.make("classic")[0]


def expected_scores(model: Model, module: nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return module.double()(torch.from_numpy(x.astype(np.float64)).reshape(len(x), 1, *x.shape[1:])).numpy()


def agrees(converted: Any, module: nn.Module, rng: np.random.Generator, tolerance: float = 2e-6) -> None:
    model = Model(converted.document, converted.tensors, "", "")
    x = random_log_mel(model, rng, 2)
    expected = expected_scores(model, module, x)
    assert expected.std() > 0.02
    assert max_abs(oracle.scores_of(model, normalised(model, x)), expected) <= tolerance


def prefixed(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {prefix + name: tensor for name, tensor in state.items()}


class Config(dict):
    """A class that the reader has never heard of, as configurations are."""


class OwnTensor(torch.Tensor):
    """Tensors of a class of their own, as some libraries keep."""


def optimiser(module: nn.Module) -> dict[str, Any]:
    """Adam's state, whose moments have the shapes of the weights."""
    adam = torch.optim.Adam(module.parameters())
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    adam.step = lambda: None  # the weights stay
    state = adam.state_dict()
    state["state"] = {i: {"exp_avg": torch.ones_like(p)} for i, p in enumerate(module.parameters())}
    return state


CHECKPOINTS = {
    "state_dict": lambda s, m: {"state_dict": s, "epoch": 3, "optimizer": optimiser(m)},
    "model_state_dict": lambda s, m: {"epoch": 3, "model_state_dict": s, "loss": 0.1, "rng": torch.get_rng_state()},
    "model": lambda s, m: {"model": s, "args": argparse.Namespace(lr=1e-3, out=pathlib.Path("x"))},
    "net": lambda s, m: {"net": s, "acc": np.float64(0.5), "history": np.zeros((3, 3))},
    "ema": lambda s, m: {"ema": s, "cfg": Config(a=1), "seen": {1, 2}, "when": complex(1, 2)},
    "params": lambda s, m: collections.OrderedDict(params=s),
    "nested": lambda s, m: {"state": {"model": {"weights": s}}, "best": None},
    "Lightning": lambda s, m: {
        "state_dict": {**prefixed(s, "model."), "criterion.pos_weight": torch.ones(6), "loss.weight": torch.ones(6)},
        "pytorch-lightning_version": "2.5",
        "hyper_parameters": Config(n=3),
        "callbacks": {"ModelCheckpoint{'monitor': 'loss'}": {"best_model_score": torch.tensor(0.1)}},
        "optimizer_states": [optimiser(m)],
        "loops": {"fit_loop": {"state_dict": {}}},
    },
    "AveragedModel": lambda s, m: torch.optim.swa_utils.AveragedModel(m).state_dict(),
    "DataParallel": lambda s, m: nn.DataParallel(m).state_dict(),
    "torch.compile": lambda s, m: prefixed(s, "_orig_mod."),
    "a chain of wrappers": lambda s, m: {"state_dict": prefixed(s, "_orig_mod.module.model._orig_mod.")},
    "buffers of the front end": lambda s, m: {
        "spec.mel_scale.fb": torch.zeros(257, 96),
        "spec.spectrogram.window": torch.zeros(512),
        "spectrogram_extractor.stft.conv_real.weight": torch.zeros(257, 1, 512),
        "logmel_extractor.melW": torch.zeros(257, 96),
        **s,
    },
    "beside numbers": lambda s, m: {**s, "epoch": 3, "steps": torch.tensor(7), "mask": torch.ones(3, dtype=torch.bool)},
    "tensors of another class": lambda s, m: {"model": {k: v.as_subclass(OwnTensor) for k, v in s.items()}},
    "Parameters": lambda s, m: {k: nn.Parameter(v) if v.is_floating_point() else v for k, v in s.items()},
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_what_trainers_write(rng, tmp_path, like, classic, name) -> None:
    module = classic.float()
    legacy = len(name) % 2 == 1  # both formats, in turn
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = CHECKPOINTS[name](module.state_dict(), module)
    torch.save(data, tmp_path / "net.ckpt", _use_new_zipfile_serialization=not legacy)
    converted = convert_stack(str(tmp_path / "net.ckpt"), like=like)
    agrees(converted, module, rng)
    assert converted.said or name == "Parameters"


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision(rng, tmp_path, like, kind) -> None:
    module = torch_networks.make("classic")[0].to(kind)
    for suffix, save in (("pth", torch.save), ("safetensors", save_file)):
        save(module.state_dict(), tmp_path / f"net.{suffix}")
        agrees(convert_stack(str(tmp_path / f"net.{suffix}"), like=like), module, rng)
        module.to(kind)


def test_what_was_taken_and_ignored_is_said(capsys, tmp_path, like, classic) -> None:
    state = classic.float().state_dict()
    torch.save(
        {"epoch": 3, "state_dict": {"n_averaged": torch.tensor(2), **prefixed(state, "module.")}}, tmp_path / "a.pt"
    )
    code, _, err = run(capsys, "convert", tmp_path / "a.pt", "--to", tmp_path / "o.safetensors", "--like", like)
    assert code == 0, err
    assert "a.pt: took 'state_dict', not epoch\n" in err
    assert "a.pt: removed module. from the names\n" in err
    assert "a.pt: ignored n_averaged\n" in err
    assert "compared with PyTorch" in err
    assert (
        "a.pt: not checked: the input's axes (bands x frames); the order of the layers (conv1, conv2, fc); "
        "activations, pools and flattening (chw); zero padding 'same' and strides of 1, and no connection past a "
        "layer; the batch-norms' places and epsilon (1e-05); the front end and its windows; the order of the tags; "
        "--check" in err
    )


def test_a_maximum_beside_a_convolution_as_the_head_is_said(tmp_path, like) -> None:
    """The tensors fit a maximum behind the last convolution as well, which gives other scores."""
    n_tags = len(read_model(like).document.tags)
    module = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, n_tags, 1))
    torch.save(module.state_dict(), tmp_path / "net.pth")
    (tmp_path / "plan.json").write_text('{"blocks": [{}], "flatten": "max"}')
    converted = convert_stack(str(tmp_path / "net.pth"), like=like, spec=str(tmp_path / "plan.json"))
    assert "the global maximum in front of 2, not behind it" in converted.unchecked


def test_key(rng, capsys, tmp_path, like, classic) -> None:
    other = torch_networks.make("classic", seed=1)[0]
    path = tmp_path / "net.pth"
    torch.save({"model": classic.float().state_dict(), "model_ema": {"module": other.state_dict()}}, path)
    with pytest.raises(ModelError, match=r"holds 2 state dicts: model, model_ema/module; say which \(--key NAME\)"):
        convert_stack(str(path), like=like)
    for key, module in (("model", classic), ("model_ema/module", other), ("module", other)):
        agrees(convert_stack(str(path), like=like, key=key), module, rng)
    with pytest.raises(ModelError, match=r"--key ema: leads to no state dicts; there are: model, model_ema/module"):
        convert_stack(str(path), like=like, key="ema")
    torch.save(
        {**prefixed(classic.float().state_dict(), "student."), **prefixed(other.float().state_dict(), "teacher.")}, path
    )
    agrees(convert_stack(str(path), like=like, key="teacher"), other, rng)
    with pytest.raises(ModelError, match="several networks: student, teacher; say which"):
        convert_stack(str(path), like=like)
    code, _, err = run(capsys, "convert", path, "--to", tmp_path / "o.safetensors", "--like", like, "--key", "student")
    assert code == 0, err
    save_file(
        {**prefixed(classic.float().state_dict(), "a."), **prefixed(other.float().state_dict(), "b.")},
        tmp_path / "n.safetensors",
    )
    agrees(convert_stack(str(tmp_path / "n.safetensors"), like=like, key="b"), other, rng)


class Plain(nn.Module):
    """Batch-norms without weights, convolutions without biases."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8, affine=False)
        self.conv2 = nn.Conv2d(8, 12, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(12, affine=False)
        self.fc = nn.Linear(12 * 5 * 4, 6, bias=False)
        for norm in (self.bn1, self.bn2):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), (2, 4))
        x = functional.max_pool2d(functional.relu(self.bn2(self.conv2(x))), 2)
        return torch.sigmoid(self.fc(x.flatten(1)))


@pytest.mark.parametrize("kind", ["affine", "weight_norm", "parametrized", "of everything", "pruned"])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_reparametrised_weights(rng, tmp_path, like, kind, suffix) -> None:
    torch.manual_seed(9)
    module = Plain().eval()
    for layer in (module.conv1, module.conv2, module.fc):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if kind == "weight_norm":
                nn.utils.weight_norm(layer)
                layer.weight_g.data.mul_(1.5)
            elif kind == "parametrized":
                nn.utils.parametrizations.weight_norm(layer)
                layer.parametrizations.weight.original0.data.mul_(1.5)
            elif kind == "of everything":
                nn.utils.weight_norm(layer, dim=None)
                layer.weight_g.data.mul_(1.5)
            elif kind == "pruned":
                from torch.nn.utils import prune

                prune.random_unstructured(layer, "weight", 0.3)
    path = tmp_path / f"net.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(module.state_dict(), path)
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"blocks": [{"pool": [2, 4]}, {"pool": [2, 2]}], "frontend": {"normalization": "none"}}))
    converted = convert_stack(str(path), like=like, spec=str(spec))
    model = Model(converted.document, converted.tensors, "", "")
    x = random_log_mel(model, rng, 2) / 40
    assert max_abs(oracle.scores_of(model, normalised(model, x)), expected_scores(model, module, x)) <= 2e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: nn.utils.spectral_norm(m.conv2), r"conv2\.weight_orig: a weight that is computed .*spectral_norm"),
        (
            lambda m: nn.utils.parametrizations.spectral_norm(m.conv2),
            r"conv2\.parametrizations\.weight\.original: a weight that is computed .*remove_parametrizations",
        ),
        (lambda m: setattr(m, "bn1", nn.GroupNorm(2, 8)), r"bn1: .* a normalisation without statistics of its own"),
        (lambda m: m.register_buffer("mean", torch.ones(3)), r"the file: mean \[3\]: not a .*'ignore' \(--spec FILE\)"),
        (lambda m: setattr(m, "gru", nn.GRU(3, 3)), r"gru: .*: not a 2-D convolution"),
    ],
)
def test_what_cannot_be_taken_is_named(tmp_path, like, change, message) -> None:
    module = torch_networks.make("classic")[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        change(module)
    torch.save(module.state_dict(), tmp_path / "net.pth")
    with pytest.raises(ModelError, match=message) as caught:
        convert_stack(str(tmp_path / "net.pth"), like=like)
    assert "\n" not in str(caught.value)


def test_ignore(rng, tmp_path, like, classic) -> None:
    state = {**classic.float().state_dict(), "aux.gru.weight_hh": torch.ones(3, 3), "mean": torch.ones(3)}
    torch.save(state, tmp_path / "net.pth")
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"ignore": ["aux", "me*"]}))
    converted = convert_stack(str(tmp_path / "net.pth"), like=like, spec=str(spec))
    agrees(converted, classic, rng)
    assert converted.said == ("ignored aux.gru.weight_hh, mean",)


# ---- published families ----


@pytest.mark.parametrize(
    ("change", "suffix"),
    [
        (lambda s: prefixed(s, "module."), "pth"),
        (lambda s: {"state_dict": prefixed(s, "model.net.")}, "ckpt"),
        (lambda s: {k: t for k, t in s.items() if not k.startswith("spec.")}, "pth"),
        (lambda s: {**s, "loss.weight": torch.ones(50), "n_averaged": torch.tensor(3)}, "pth"),
        (lambda s: dict(sorted(s.items())), "safetensors"),
        (lambda s: {"model": s, "args": argparse.Namespace(x=1)}, "pth"),
    ],
)
def test_a_known_network_in_any_wrapper(tmp_path, change, suffix) -> None:
    state = random_state()
    torch.save(state, tmp_path / "plain.pth")
    path = tmp_path / f"net.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(change(state), path)
    wanted = convert(tmp_path / "plain.pth", "won2020-fcn-msd")[1]
    found = convert(path, "won2020-fcn-msd")[1]
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        np.testing.assert_array_equal(found[name], tensor, err_msg=name)
    assert wanted["blocks.0.weight"].shape[0] == CHANNELS[1]


# ---- files of other kinds ----


def of_another_kind(folder: Path, kind: str) -> Path:
    module = torch_networks.make("classic")[0]
    path = folder / "file.pt"
    if kind == "module":
        torch.save(module, path)
    elif kind == "module in a dict":
        torch.save({"model": module, "epoch": 1}, path)
    elif kind == "TorchScript":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.trace(module, torch.zeros(1, 1, 20, 32)).save(str(path))
    elif kind == "exported program":
        path = folder / "file.pt2"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("file/archive_format", "pt2")
            archive.writestr("file/models/model.json", "{}")
    elif kind == "SavedModel":
        path = folder / "saved"
        path.mkdir()
        (path / "saved_model.pb").write_bytes(b"\x08\x01")
    elif kind == "tflite":
        path = folder / "net.tflite"
        path.write_bytes(b"\x1c\0\0\0TFL3" + bytes(100))
    elif kind == "arrays":
        path = folder / "net.npz"
        np.savez(path, a=np.zeros(3))
    elif kind == "fcntag":
        path = Path(load_any("mtt-vgg")[0].path)
    elif kind == "list":
        torch.save([torch.zeros(3)], path)
    elif kind == "numbers":
        torch.save({"epoch": 3}, path)
    elif kind == "shadow":
        torch.save({"ema": {"decay": 0.9, "shadow_params": [torch.zeros(3, 1, 3, 3)]}}, path)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("module", r"a whole pickled module \(.*Classic\), .*torch\.save\(model\.state_dict\(\), FILE\)"),
        ("module in a dict", r"model: a whole pickled module \(.*Classic\), .*torch\.onnx\.export"),
        ("TorchScript", r"a TorchScript program, not a PyTorch state dict, which is not read; save .*state_dict"),
        ("exported program", r"an exported program of PyTorch \(\.pt2\)"),
        ("SavedModel", r"a SavedModel of TensorFlow, which is not read; save it as \.keras"),
        ("tflite", r"a TensorFlow Lite model \(\.tflite\), which is not read; take the network"),
        ("arrays", r"arrays of NumPy, which is not read; save them as a state dict"),
        ("fcntag", r"is a model file of fcntag already"),
        ("list", r"not a PyTorch state dict: it holds list"),
        ("numbers", r"not a PyTorch state dict, or damaged: no tensors with names in it, but epoch \(int\)"),
        ("shadow", r"ema: a list of averaged tensors without names"),
    ],
)
def test_files_of_other_kinds_say_what_to_do(tmp_path, like, kind, message) -> None:
    path = of_another_kind(tmp_path, kind)
    for call in (lambda: convert_stack(str(path), like=like), lambda: convert(path)):
        with pytest.raises(ModelError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(str(path))


# ---- nothing is run, nothing explodes ----


class Calls:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", range(6))
def test_no_object_of_a_checkpoint_is_made(tmp_path, like, classic, rng, protocol) -> None:
    mark = tmp_path / "exploded"
    bombs = [
        Calls(os.mkdir, str(mark)),
        Calls(eval, f"__import__('os').mkdir({str(mark)!r})"),
        Calls(io.open, str(mark), "w"),
    ]
    state = classic.float().state_dict()
    torch.save(
        {"model": state, "bombs": bombs, "b": b"x", "s": frozenset([(1,)])},
        tmp_path / "net.pth",
        pickle_protocol=protocol or 2,
    )
    agrees(convert_stack(str(tmp_path / "net.pth"), like=like), classic, rng)
    assert not mark.exists()


HOSTILE = {
    "a memo far ahead": b"\x80\x02}r\xff\xff\0\0.",
    "a method of a list": b"\x80\x02]cbuiltins\ngetattr\n(]X\x06\0\0\0appendtR(K\x01tR.",
    "state for a class": b"\x80\x02ccollections\nOrderedDict\n}X\x05\0\0\0itemsK\x01sb.",
    "a call of a tuple": b"\x80\x02(K\x01t(K\x01tR.",
    "an extension": b"\x80\x02\x82\x01.",
    "an array that ends early": b"\x80\x05\x96" + (1 << 10).to_bytes(8, "little") + b".",
    "bytes that end early": b"\x80\x04\x8e" + (1 << 10).to_bytes(8, "little") + b".",
    "a key that cannot be hashed": b"\x80\x02}]K\x01s.",
    "no end": b"\x80\x02}",
    "nothing": b"",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_pickles(tmp_path, what) -> None:
    path = tmp_path / "net.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", HOSTILE[what])
    with pytest.raises(ModelError, match="not a PyTorch state dict"):
        convert(path)


def test_a_key_that_is_a_tuple(tmp_path) -> None:
    """Only plain values are keys: nothing else of a file is hashed."""
    torch.save({((1,),): 1, "weight": torch.ones(3)}, tmp_path / "x.pt")
    assert list(torch_pickle.load((tmp_path / "x.pt").read_bytes()).root) == ["weight"]


def test_every_view_of_a_storage(tmp_path) -> None:
    x = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5)
    views = {
        "a": x,
        "b": x.transpose(1, 3),
        "c": x[1:, ::2, 1:3],
        "d": x[0, 0, 0, 0],
        "e": x[:0],
        "f": x[:, :1].expand(2, 7, 4, 5),
    }
    kinds = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool)
    views |= {str(kind): x.to(kind) for kind in kinds}
    for legacy in (False, True):
        torch.save(views, tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
        contents = torch_pickle.load((tmp_path / "x.pt").read_bytes())
        for name, view in views.items():
            np.testing.assert_array_equal(contents.array(contents.root[name]), view.double().numpy(), err_msg=name)


def test_sizes_beyond_the_storage(tmp_path) -> None:
    """A tensor that claims more than its storage holds is refused, not read."""
    torch.save({"conv.weight": torch.zeros(4, 1, 3, 3)}, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in members if name.endswith("data.pkl"))
    for old, new in (
        (b"K\x04K\x01K\x03K\x03t", b"K\x05K\x01K\x03K\x03t"),
        (b"K\tK\tK\x03K\x01t", b"K\tK\tK\x09K\x01t"),
    ):
        assert members[pickled].count(old) == 1, pickle.dumps(members[pickled])
        with zipfile.ZipFile(tmp_path / "y.pt", "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data.replace(old, new) if name == pickled else data)
        with pytest.raises(ModelError, match="not a PyTorch state dict, or damaged"):
            convert(tmp_path / "y.pt")
