"""Keras files: kernels turned the right way, statistics used by the right rule, everything else refused.

Expected tensors are computed here from the HDF5 file with NumPy alone, from the definition of batch-norm.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from fcntag.convert import convert
from fcntag.convert.families.statistics import weights_digest
from fcntag.convert.readers.keras import read_keras
from fcntag.errors import ModelError

CHANNELS = (1, 32, 128, 128, 192, 256)
R1, R1TF = "choi2016/R1_weights_best.hdf5", "choi2016/R1tf_cnn_weights_tensorflow.hdf5"
R4 = "choi2016/R4_music_tagger_cnn_weights_theano.h5"
C, CTF, K2 = (
    f"choi2017/{name}" for name in ("C_weights_theano.hdf5", "C_weights_tensorflow.hdf5", "K2_model_best.hdf5")
)


def values(path: Path) -> dict[str, np.ndarray]:
    """Every dataset by the last part of its name, float64."""
    found: dict[str, np.ndarray] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found["/".join(name.split("/")[-2:]) if ":0" in name else name.split("/")[-1]] = np.float64(item[()])

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return found


def assert_float32_of(tensor: np.ndarray, expected: np.ndarray) -> None:
    """``tensor`` is ``expected`` rounded to float32, up to one unit where float64 rounding differs by a bit."""
    assert tensor.dtype == np.float32
    np.testing.assert_allclose(tensor, expected, rtol=1.2e-7, atol=1e-37)


# ---- synthetic files, which need no reference material ----


def write_fcn5(path: Path, rng: np.random.Generator, *, tensorflow: bool, weights: dict[str, np.ndarray] | None = None):
    """A Keras 1 file laid out like the later release of the narrow FCN-5; returns its parameters, float32."""
    weights = weights or {}
    ending = ":0" if tensorflow else ""

    def put(group: h5py.Group, name: str, array: np.ndarray) -> None:
        array = weights.setdefault(name, array.astype(np.float32))
        # The same network: Theano's convolution flips what it is given.
        stored = array if tensorflow or array.ndim != 4 else array[:, :, ::-1, ::-1]
        group.create_dataset(name + ending, data=stored)

    def norm(layer: str, n: int) -> list[str]:
        group = file.create_group(layer)
        names = [f"{layer}_{p}" for p in ("gamma", "beta", "running_mean", "running_std")]
        for name in names:
            put(group, name, rng.uniform(0.5, 2, n) if name.endswith("std") else rng.standard_normal(n))
        group.attrs["weight_names"] = [f"{name}{ending}".encode() for name in names]
        return [layer]

    def linear(layer: str, *shape: int) -> list[str]:
        group = file.create_group(layer)
        put(group, f"{layer}_W", rng.standard_normal(shape) * 0.1)
        put(group, f"{layer}_b", rng.standard_normal(shape[0] if len(shape) == 4 else shape[1]))
        group.attrs["weight_names"] = [f"{layer}_W{ending}".encode(), f"{layer}_b{ending}".encode()]
        return [layer]

    with h5py.File(path, "w") as file:
        layers = norm("bn_0_freq", 1366)
        for i in range(1, 6):
            layers += linear(f"conv{i}", CHANNELS[i], CHANNELS[i - 1], 3, 3) + norm(f"bn{i}", CHANNELS[i])
            file.create_group(f"pool{i}").attrs["weight_names"] = np.array([], dtype="S1")
            layers.append(f"pool{i}")
        layers += linear("output", 256, 50)
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
    return weights


@pytest.fixture
def fcn5(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, dict[str, np.ndarray]]:
    path = tmp_path / "fcn5.h5"
    return path, write_fcn5(path, rng, tensorflow=False)


def test_stored_statistics_fold_as_defined(fcn5: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, weights = fcn5
    document, tensors = convert(path)
    assert document.name == "choi2016-fcn5-narrow-v2-unverified"
    assert document.metrics == ()
    assert document.licence == "unknown"
    assert document.source.url == ""
    w = {name: array.astype(np.float64) for name, array in weights.items()}
    scale = w["bn_0_freq_gamma"] / (w["bn_0_freq_running_std"] + 1e-6)
    # The network sees (dB + 24) / 16.
    assert_float32_of(tensors["input.scale"], scale / 16)
    at = -33.0
    y = scale * ((at + 24) / 16 - w["bn_0_freq_running_mean"]) + w["bn_0_freq_beta"]
    np.testing.assert_allclose(tensors["input.scale"] * at + tensors["input.shift"], y, rtol=2e-5, atol=2e-5)
    for i in range(1, 6):
        scale = w[f"bn{i}_gamma"] / (w[f"bn{i}_running_std"] + 1e-6)
        assert_float32_of(tensors[f"blocks.{i - 1}.weight"], w[f"conv{i}_W"] * scale[:, None, None, None])
        bias = (w[f"conv{i}_b"] - w[f"bn{i}_running_mean"]) * scale + w[f"bn{i}_beta"]
        np.testing.assert_allclose(tensors[f"blocks.{i - 1}.bias"], bias, rtol=1e-6, atol=1e-6)
    assert_float32_of(tensors["head.weight"], w["output_W"].T)
    assert_float32_of(tensors["head.bias"], w["output_b"])


def test_theano_and_tensorflow_files_of_one_network_agree(
    fcn5: tuple[Path, dict[str, np.ndarray]], tmp_path: Path, rng: np.random.Generator
) -> None:
    theano, weights = fcn5
    other = tmp_path / "tf.h5"
    write_fcn5(other, rng, tensorflow=True, weights=dict(weights))
    first, second = convert(theano)[1], convert(other)[1]
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])
    # ... and the option overrides what the file tells.
    wrong = convert(other, kernels="theano")[1]["blocks.0.weight"]
    np.testing.assert_array_equal(wrong, first["blocks.0.weight"][:, :, ::-1, ::-1])


def test_placeholder_statistics_of_other_weights_are_refused(fcn5: tuple[Path, dict[str, np.ndarray]]) -> None:
    """Frozen statistics mean nothing with weights that they were not measured with."""
    path, _ = fcn5
    with h5py.File(path, "r+") as file:
        for i in range(1, 6):
            file[f"bn{i}/bn{i}_running_mean"][...] = 0
            file[f"bn{i}/bn{i}_running_std"][...] = 1
    with pytest.raises(ModelError, match=r"fcn5\.h5: the file has no batch-norm statistics of its own, and the frozen"):
        convert(path)
    with pytest.raises(ModelError, match=r"stores none as batch-norm statistics: that is choi2016-fcn5-narrow, not"):
        convert(path, "choi2016-fcn5-narrow-v2")


def change_shape(file: h5py.File) -> None:
    del file["bn2/bn2_beta"]
    file["bn2/bn2_beta"] = np.zeros(3, np.float32)


def change_dtype(file: h5py.File) -> None:
    del file["output/output_b"]
    file["output/output_b"] = np.zeros(50, np.int32)


def soft_link(file: h5py.File) -> None:
    del file["output/output_b"]
    file["output/output_b"] = h5py.SoftLink("/bn1/bn1_beta")


def external_link(file: h5py.File) -> None:
    del file["output/output_b"]
    file["output/output_b"] = h5py.ExternalLink("/etc/passwd", "/")


def external_data(file: h5py.File) -> None:
    del file["output/output_b"]
    file["output"].create_dataset("output_b", (50,), "f4", external=[("/etc/passwd", 0, 200)])


def virtual_data(file: h5py.File) -> None:
    del file["output/output_b"]
    layout = h5py.VirtualLayout((50,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (50,))
    file["output"].create_virtual_dataset("output_b", layout)


def huge(file: h5py.File) -> None:
    del file["output/output_b"]
    file["output"].create_dataset("output_b", (1 << 40,), "f4", chunks=(1 << 20,), compression="gzip")


def negative(file: h5py.File) -> None:
    file["bn3/bn3_running_std"][5] = -1


def not_finite(file: h5py.File) -> None:
    file["output/output_W"][0, 0] = np.nan


def no_layer_names(file: h5py.File) -> None:
    del file.attrs["layer_names"]


def no_weight_names(file: h5py.File) -> None:
    del file["bn1"].attrs["weight_names"]


def no_array(file: h5py.File) -> None:
    del file["bn1/bn1_beta"]


def no_group(file: h5py.File) -> None:
    del file["conv3"]


def unknown_parameter(file: h5py.File) -> None:
    file["bn1"]["bn1_alpha"] = np.zeros(32, np.float32)
    file["bn1"].attrs["weight_names"] = np.array([b"bn1_alpha"])


def few_parameters(file: h5py.File) -> None:
    file["bn1"].attrs["weight_names"] = np.array([b"bn1_gamma"])


def few_layers(file: h5py.File) -> None:
    file.attrs["layer_names"] = np.array([b"conv1", b"bn1"])


REFUSED = {
    change_shape: "bn2: its parameters differ in shape",
    change_dtype: "output_b: dtype is int32; must be float32 or float64",
    soft_link: "output_b: is a link, which is refused",
    external_link: "output_b: is a link, which is refused",
    external_data: "output_b: its data is in another file, which is refused",
    virtual_data: "output_b: its data is in another file, which is refused",
    huge: r"output_b: shape \[1099511627776\]: the file holds more than 67108864 elements",
    negative: "batch-norm: a variance is negative",
    not_finite: r"head\.weight: holds NaN or infinity",
    no_layer_names: "layer_names: missing: not a Keras weight file",
    no_weight_names: "not a Keras weight file, or damaged",
    no_array: "bn1_beta: named in the file but not in it",
    no_group: "conv3: named in the file but not in it",
    unknown_parameter: "bn1_alpha: a parameter of a kind that is not supported",
    few_parameters: "bn1: has gamma; expected gamma, beta, mean, running_std",
    few_layers: "of no known network: its layers are conv1x32k3 bn32$",
}


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: change.__name__)
def test_a_damaged_file_is_one_line(fcn5: tuple[Path, dict[str, np.ndarray]], change: Any) -> None:
    path, _ = fcn5
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(ModelError, match=REFUSED[change]) as caught:
        convert(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_one_line(fcn5: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, _ = fcn5
    data = path.read_bytes()
    for size in (8, 100, 2000, len(data) // 2, len(data) - 100):
        path.write_bytes(data[:size])
        with pytest.raises(ModelError, match=r"fcn5\.h5: not a Keras weight file, or damaged"):
            convert(path)


def test_wrong_family_is_refused(fcn5: tuple[Path, dict[str, np.ndarray]]) -> None:
    with pytest.raises(ModelError, match="that is choi2016-fcn5-narrow-v2, not won2020-fcn-msd"):
        convert(fcn5[0], "won2020-fcn-msd")
    with pytest.raises(ModelError, match="fcn9: not a model that a checkpoint can be; allowed: mtt-vgg, msd-vgg, choi"):
        convert(fcn5[0], "fcn9")
    with pytest.raises(ModelError, match="msd-vgg-as-shipped: not a model that a checkpoint can be"):
        convert(fcn5[0], "msd-vgg-as-shipped")


# ---- the published files ----


def theano_flip(kernel: np.ndarray) -> np.ndarray:
    return np.rot90(kernel, 2, axes=(2, 3))


def test_first_release_uses_the_frozen_statistics(shared: Path) -> None:
    path = shared / "weights" / R1
    document, tensors = convert(path)
    assert document.name == "choi2016-fcn5-narrow"
    assert "Frozen batch-norm statistics" in document.notes[0]
    w = values(path)
    golden = np.load(shared / "golden" / "choi" / "golden_fcn5_R1.npz")
    scale = w["batchnormalization_6_gamma"] / (w["batchnormalization_6_running_std"] + 1e-6)
    assert_float32_of(tensors["input.scale"], scale)
    for i in range(1, 6):
        norm, conv = f"batchnormalization_{i + 6}", f"convolution2d_{i + 4}"
        scale = w[f"{norm}_gamma"] / (np.sqrt(golden[f"frozen_var{i}"] + 1e-6) + 1e-6)
        expected = theano_flip(w[f"{conv}_W"]) * scale[:, None, None, None]
        assert_float32_of(tensors[f"blocks.{i - 1}.weight"], expected)
        bias = (w[f"{conv}_b"] - golden[f"frozen_mean{i}"]) * scale + w[f"{norm}_beta"]
        np.testing.assert_allclose(tensors[f"blocks.{i - 1}.bias"], bias, rtol=1e-6, atol=1e-6)
    assert_float32_of(tensors["head.weight"], w["dense_2_W"].T)


def test_first_release_from_theano_and_tensorflow_is_the_same(shared: Path) -> None:
    first, second = convert(shared / "weights" / R1), convert(shared / "weights" / R1TF)
    assert first[0].name == second[0].name == "choi2016-fcn5-narrow"
    assert first[0].source.sha256 != second[0].source.sha256
    assert first[1].keys() == second[1].keys()
    for name, array in first[1].items():
        np.testing.assert_array_equal(array, second[1][name])


def test_later_release(shared: Path) -> None:
    path = shared / "weights" / R4
    document, tensors = convert(path)
    assert document.name == "choi2016-fcn5-narrow-v2"
    assert "our estimate" in document.notes[0]
    w = values(path)
    for i in range(1, 6):
        scale = w[f"bn{i}_gamma"] / (w[f"bn{i}_running_std"] + 1e-6)
        expected = theano_flip(w[f"conv{i}_W"]) * scale[:, None, None, None]
        assert_float32_of(tensors[f"blocks.{i - 1}.weight"], expected)
    scale = w["bn_0_freq_gamma"] / (w["bn_0_freq_running_std"] + 1e-6)
    shift = scale * (24 / 16 - w["bn_0_freq_running_mean"]) + w["bn_0_freq_beta"]
    np.testing.assert_allclose(tensors["input.shift"], shift, rtol=1e-6, atol=1e-6)


def test_compact_uses_the_frozen_statistics(shared: Path) -> None:
    path = shared / "weights" / C
    document, tensors = convert(path)
    assert document.name == "choi2017-compact"
    w = values(path)
    golden = np.load(shared / "golden" / "choi" / "golden_compact.npz")
    for i in range(1, 6):
        scale = w[f"batchnormalization_{i}_gamma"] / np.sqrt(golden[f"frozen_var{i}"] + 1e-3)
        expected = theano_flip(w[f"convolution2d_{i}_W"]) * scale[:, None, None, None]
        assert_float32_of(tensors[f"blocks.{i - 1}.weight"], expected)
        bias = (w[f"convolution2d_{i}_b"] - golden[f"frozen_mean{i}"]) * scale + w[f"batchnormalization_{i}_beta"]
        np.testing.assert_allclose(tensors[f"blocks.{i - 1}.bias"], bias, rtol=1e-6, atol=1e-6)
    assert_float32_of(tensors["head.weight"], w["dense_1_W"].T)


def test_compact_from_tensorflow_has_no_head(shared: Path) -> None:
    with pytest.raises(ModelError, match=r"C_weights_tensorflow\.hdf5: holds no dense layer, so it cannot tag"):
        convert(shared / "weights" / CTF)


def test_keras2_kernels_are_not_flipped(shared: Path) -> None:
    path = shared / "weights" / K2
    document, tensors = convert(path)
    assert document.name == "choi2017-compact-keras2"
    w = values(path)
    for i in range(1, 6):
        norm = f"batch_normalization_{i}"
        scale = w[f"{norm}/gamma:0"] / np.sqrt(w[f"{norm}/moving_variance:0"] + 1e-3)
        expected = np.einsum("hwio,o->oihw", w[f"conv2d_{i}/kernel:0"], scale)
        assert_float32_of(tensors[f"blocks.{i - 1}.weight"], expected)
        bias = (w[f"conv2d_{i}/bias:0"] - w[f"{norm}/moving_mean:0"]) * scale + w[f"{norm}/beta:0"]
        np.testing.assert_allclose(tensors[f"blocks.{i - 1}.bias"], bias, rtol=1e-6, atol=1e-6)
    assert_float32_of(tensors["head.weight"], w["dense_1/kernel:0"].T)


def test_a_published_file_is_not_taken_for_another(shared: Path) -> None:
    with pytest.raises(
        ModelError, match=r"is the published file of choi2016-fcn5-narrow, not of choi2016-fcn5-narrow-v2"
    ):
        convert(shared / "weights" / R1, "choi2016-fcn5-narrow-v2")


@pytest.mark.parametrize(
    ("name", "original", "golden"),
    [("choi2016-fcn5-narrow", R1, "golden_fcn5_R1.npz"), ("choi2017-compact", C, "golden_compact.npz")],
)
def test_frozen_statistics_are_those_of_the_golden(shared: Path, name: str, original: str, golden: str) -> None:
    """The packaged copy is bit-equal to the measured one, and bound to the weights it was measured with."""
    package = Path(__file__).resolve().parent.parent / "fcntag" / "convert" / "families" / "frozen_statistics.json"
    recorded = json.loads(package.read_text())["models"][name]
    measured = np.load(shared / "golden" / "choi" / golden)
    assert len(recorded["blocks"]) == 5
    for i, item in enumerate(recorded["blocks"], 1):
        np.testing.assert_array_equal(item["mean"], measured[f"frozen_mean{i}"])
        np.testing.assert_array_equal(item["variance"], measured[f"frozen_var{i}"])
    assert recorded["weights_sha256"] == weights_digest(read_keras(shared / "weights" / original))
