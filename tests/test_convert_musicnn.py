"""musicnn's checkpoints: folder, index or wheel, published or not; and the embedded files rebuilt byte for byte."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from support.checkpoint_writer import checkpoint

from fcntag.catalogue.store import load_model
from fcntag.convert import convert
from fcntag.convert.readers.tensorflow_checkpoint import Checkpoint, crc32c
from fcntag.errors import ModelError

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def variables() -> dict[str, np.ndarray]:
    """Random weights under musicnn's names, with an optimizer slot that a converter has to ignore."""
    rng = np.random.default_rng(4)
    found = {"dense/kernel": (256, 50), "dense/bias": (50,), "dense/bias/Adam": (50,)}
    for i in range(1, 6):
        found |= {f"{i}CNN/kernel": (3, 3, 128 if i > 1 else 1, 128), f"{i}CNN/bias": (128,)}
    for i in range(6):
        layer = f"batch_normalization_{i}" if i else "batch_normalization"
        found |= {f"{layer}/{p}": (128 if i else 1,) for p in ("gamma", "beta", "moving_mean", "moving_variance")}
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in found.items()}
    return {name: np.abs(array) if name.endswith("variance") else array for name, array in arrays.items()}


@pytest.fixture(scope="module")
def files(variables: dict[str, np.ndarray]) -> dict[str, bytes]:
    # The bitwise CRC of the writer takes seconds for the kernels; test_convert_tensorflow.py compares the two.
    crcs = {name: crc32c(array.tobytes()) for name, array in variables.items()}
    return checkpoint(variables, tensor_crcs=crcs)


@pytest.fixture
def folder(tmp_path: Path, files: dict[str, bytes]) -> Path:
    """Laid out as in the wheel: the files' common prefix is empty."""
    place = tmp_path / "MTT_vgg"
    place.mkdir()
    for suffix, data in files.items():
        (place / suffix).write_bytes(data)
    return place


def test_tensors_as_defined(folder: Path, variables: dict[str, np.ndarray]) -> None:
    document, tensors = convert(folder, "mtt-vgg")
    assert document.name == "mtt-vgg-unverified"
    v = {name: array.astype(np.float64) for name, array in variables.items()}
    for i in range(6):
        layer, target = (f"batch_normalization_{i}", f"blocks.{i - 1}") if i else ("batch_normalization", "input")
        scale = v[f"{layer}/gamma"] / np.sqrt(v[f"{layer}/moving_variance"] + 1e-3)
        np.testing.assert_allclose(tensors[f"{target}.scale"], scale, rtol=1.2e-7)
        shift = v[f"{layer}/beta"] - v[f"{layer}/moving_mean"] * scale
        np.testing.assert_allclose(tensors[f"{target}.shift"], shift, rtol=1e-6, atol=1e-6)
        if i:  # batch-norm comes after the ReLU: nothing is folded into the convolution
            np.testing.assert_array_equal(tensors[f"{target}.weight"].transpose(2, 3, 1, 0), v[f"{i}CNN/kernel"])
            np.testing.assert_array_equal(tensors[f"{target}.bias"], v[f"{i}CNN/bias"])
    np.testing.assert_array_equal(tensors["head.weight"].T, v["dense/kernel"])


def test_every_way_to_name_a_checkpoint(folder: Path, tmp_path: Path, files: dict[str, bytes]) -> None:
    expected = convert(folder, "msd-vgg")
    named = tmp_path / "named"
    named.mkdir()
    for suffix, data in files.items():
        (named / f"model{suffix}").write_bytes(data)
    wheel = tmp_path / "other.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for suffix, data in files.items():
            archive.writestr(f"musicnn/MSD_vgg/{suffix}", data)
    for source in (f"{folder}/", folder / ".index", named, named / "model", named / "model.index", wheel):
        document, tensors = convert(source, "msd-vgg")
        assert document == expected[0], source
        for name, array in expected[1].items():
            np.testing.assert_array_equal(tensors[name], array)


def test_what_cannot_be_told_is_asked_for(folder: Path) -> None:
    with pytest.raises(
        ModelError, match=r"MTT_vgg: not one of the published checkpoints; say whose tags.*mtt-vgg or msd"
    ):
        convert(folder)
    with pytest.raises(ModelError, match=r"is a musicnn checkpoint; choi2017-compact is not"):
        convert(folder, "choi2017-compact")
    with pytest.raises(
        ModelError, match=r"is a folder with 0 TensorFlow checkpoints.*; name one of its folders: MTT_vgg"
    ):
        convert(folder.parent, "mtt-vgg")


def test_damaged_sources_are_one_line(folder: Path, tmp_path: Path, files: dict[str, bytes]) -> None:
    (folder / ".data-00000-of-00001").unlink()
    with pytest.raises(ModelError, match=r"\.data-00000-of-00001: no such file"):
        convert(folder, "mtt-vgg")
    wheel = tmp_path / "musicnn.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("musicnn/MTT_vgg/.index", files[".index"])
    with pytest.raises(ModelError, match=r"musicnn\.whl: not a wheel of musicnn: .*data-00000-of-00001"):
        convert(wheel, "mtt-vgg")
    with pytest.raises(ModelError, match=r"musicnn\.whl: a wheel of musicnn holds several models; say which"):
        convert(wheel)
    wheel.write_bytes(wheel.read_bytes()[:200])
    with pytest.raises(ModelError, match=r"musicnn\.whl: not a wheel, or damaged"):
        convert(wheel, "mtt-vgg")
    with pytest.raises(ModelError, match=r"absent: no such file"):
        convert(tmp_path / "absent", "mtt-vgg")
    (tmp_path / "song.mp3").write_bytes(b"ID3 not a checkpoint")
    with pytest.raises(ModelError, match=r"song\.mp3: not a checkpoint of a known kind; known: a TensorFlow V2"):
        convert(tmp_path / "song.mp3")


def test_another_network_is_refused(tmp_path: Path) -> None:
    for suffix, data in checkpoint({"1CNN/kernel": np.zeros((3, 3, 1, 4), np.float32)}).items():
        (tmp_path / suffix).write_bytes(data)
    with pytest.raises(ModelError, match="a TensorFlow checkpoint, but not of musicnn's VGG models"):
        convert(tmp_path, "mtt-vgg")


# ---- the published wheel ----


@pytest.fixture(scope="module")
def build_script() -> ModuleType:
    specification = importlib.util.spec_from_file_location("build_weights", REPOSITORY / "weights" / "build.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, build_script: ModuleType) -> Path:
    """musicnn 0.1.0's wheel: ``FCNTAG_MUSICNN_WHEEL``, else downloaded by pip as ``weights/build.py`` does it."""
    if local := os.environ.get("FCNTAG_MUSICNN_WHEEL"):
        return Path(local)
    try:
        return build_script.download(tmp_path_factory.mktemp("wheel"))
    except subprocess.CalledProcessError:
        reason = "pip cannot download musicnn==0.1.0: no package registry in reach (or set FCNTAG_MUSICNN_WHEEL)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason + "; in CI no test may skip")
        pytest.skip(reason)


@pytest.mark.network
def test_embedded_files_are_rebuilt_byte_for_byte(wheel: Path, build_script: ModuleType, tmp_path: Path) -> None:
    for path in build_script.build(wheel, tmp_path):
        assert path.read_bytes() == (REPOSITORY / "weights" / path.name).read_bytes(), path.name


@pytest.mark.network
def test_build_script_runs_from_the_command_line(wheel: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "weights" / "build.py"), str(wheel), "--to", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    written = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()}
    assert sorted(written) == ["msd-vgg.safetensors", "mtt-vgg.safetensors"]
    for name, digest in written.items():
        assert f"{digest} {tmp_path / name}" in done.stdout.splitlines()


@pytest.mark.network
def test_build_script_refuses_another_wheel(build_script: ModuleType, tmp_path: Path) -> None:
    other = tmp_path / "musicnn-0.1.0-py3-none-any.whl"
    other.write_bytes(b"PK")
    with pytest.raises(SystemExit, match="sha256 is"):
        build_script.build(other, tmp_path)


@pytest.mark.network
@pytest.mark.parametrize("name", ["MTT_vgg", "MSD_vgg"])
def test_folder_of_the_wheel_is_recognised(wheel: Path, tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for suffix in (".index", ".data-00000-of-00001"):
            archive.extract(f"musicnn/{name}/{suffix}", tmp_path)
    model = load_model(name.lower().replace("_", "-"))
    document, tensors = convert(tmp_path / "musicnn" / name)
    assert document == model.document
    for key, array in tensors.items():
        np.testing.assert_array_equal(array, model.tensors[key])


@pytest.mark.network
@pytest.mark.parametrize("name", ["MTT_vgg", "MSD_vgg"])
def test_reader_gives_what_tensorflow_read(wheel: Path, shared: Path, name: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        read = Checkpoint(lambda suffix: archive.read(f"musicnn/{name}/{suffix}"))
        expected = np.load(shared / "weights" / "musicnn" / f"{name.lower()}.npz")
        assert len(expected.files) == 36
        for variable in expected.files:
            np.testing.assert_array_equal(read.read(variable), expected[variable])


@pytest.mark.parametrize("name", ["mtt-vgg", "msd-vgg"])
def test_embedded_tensors_are_those_of_tensorflow(shared: Path, name: str) -> None:
    """Needs no wheel: the embedded file against the variables that TensorFlow itself read from the checkpoint."""
    tensors = load_model(name).tensors
    v = np.load(shared / "weights" / "musicnn" / f"{name.replace('-', '_')}.npz")
    tiny = np.finfo(np.float32).tiny
    for i in range(1, 6):
        kernel = v[f"{i}CNN/kernel"]
        flushed = np.where(np.abs(kernel) < tiny, np.float32(0), kernel)
        np.testing.assert_array_equal(tensors[f"blocks.{i - 1}.weight"].transpose(2, 3, 1, 0), flushed)
        layer = f"batch_normalization_{i}"
        scale = np.float64(v[f"{layer}/gamma"]) / np.sqrt(np.float64(v[f"{layer}/moving_variance"]) + 1e-3)
        np.testing.assert_allclose(tensors[f"blocks.{i - 1}.scale"], scale, rtol=1.2e-7, atol=tiny)
    np.testing.assert_array_equal(tensors["head.weight"].T, v["dense/kernel"])
