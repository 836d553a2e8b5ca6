"""Weights from Keras HDF5 files, without Keras: an ordered list of convolutions, batch-norms and dense layers.

Two layouts are read. Keras 1: layers at the root, convolution kernels [O, I, K, K], parameters ``conv1_W``,
``bn1_running_std`` and so on; files written under TensorFlow have ``:0`` after every name, files written under
Theano do not. Keras 2: layers under ``model_weights`` (or the root), kernels [K, K, I, O], parameters
``conv2d_1/kernel:0``; an attribute names the backend.

Theano's convolution flips its kernels, TensorFlow's does not. Kernels of Theano files are therefore rotated by 180
degrees on reading. The result is always [O, I, K, K] for cross-correlation.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ...errors import ModelError

if TYPE_CHECKING:
    import h5py

Backend = Literal["theano", "tensorflow"]
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_MAX_LAYERS = 4096
_MAX_ELEMENTS = 1 << 26  # of all tensors: 2.6 x the widest network of the paper
_FRONT_END_LAYERS = ("melgram",)  # kapre stores its Fourier and mel kernels as weights; they equal their formulas

# Parameter of a layer -> the endings it has in Keras 1 and in Keras 2.
_PARAMETERS = {
    "weight": ("_W", "/kernel"),
    "bias": ("_b", "/bias"),
    "gamma": ("_gamma", "/gamma"),
    "beta": ("_beta", "/beta"),
    "mean": ("_running_mean", "/moving_mean"),
    "running_std": ("_running_std",),
    "variance": ("/moving_variance",),
}


@dataclass(frozen=True)
class Convolution:
    name: str
    weight: np.ndarray  # [out_channels, in_channels, K, K], cross-correlation
    bias: np.ndarray  # [out_channels]


@dataclass(frozen=True)
class BatchNorm:
    name: str
    gamma: np.ndarray  # [C]
    beta: np.ndarray
    mean: np.ndarray
    # Keras 1 calls it running_std: a standard deviation up to 1.0.6 on Theano, a variance later. Keras 2: a variance.
    spread: np.ndarray

    @property
    def is_placeholder(self) -> bool:
        """Whether the statistics are the initial values: the layer was trained to use those of the batch."""
        return bool((self.mean == 0).all() and (self.spread == 1).all())


@dataclass(frozen=True)
class Dense:
    name: str
    weight: np.ndarray  # [in_features, out_features]
    bias: np.ndarray  # [out_features]


@dataclass(frozen=True)
class KerasFile:
    version: int  # 1 or 2: which layout the file has
    backend: Backend
    layers: list[Convolution | BatchNorm | Dense]

    def signature(self) -> str:
        """The layers as text, e.g. ``bn1366 conv1x32k3 bn32 dense256x50``; a converter recognises a file by it."""
        return " ".join(_signature(layer) for layer in self.layers)

    @property
    def convolutions(self) -> list[Convolution]:
        """The convolutions, in the order of the file."""
        return [layer for layer in self.layers if isinstance(layer, Convolution)]

    @property
    def batch_norms(self) -> list[BatchNorm]:
        """The batch-norms, in the order of the file."""
        return [layer for layer in self.layers if isinstance(layer, BatchNorm)]

    @property
    def dense_layers(self) -> list[Dense]:
        """The dense layers, in the order of the file."""
        return [layer for layer in self.layers if isinstance(layer, Dense)]


def read_keras(path: str | os.PathLike[str], backend: Backend | None = None) -> KerasFile:
    """Read the layers of a Keras 1 or 2 HDF5 weight file.

    ``backend`` says how kernels are stored (see the module's text), where the file tells it wrongly. Raises ModelError
    if h5py is missing, or the file is damaged, links elsewhere, or holds layers of another kind.
    """
    try:
        import h5py
    except ImportError:
        raise ModelError(
            f'{path}: reading HDF5 files needs h5py; install it with: pip install "fcntag[convert]"'
        ) from None
    with _as_model_errors(str(path)), h5py.File(path, "r") as file:
        root = _hard(file, "model_weights") if "model_weights" in file else file
        version = 2 if "keras_version" in root.attrs else 1
        parameters = dict(_parameters(root))
        if backend is None:
            backend = _stored_backend(root, version, parameters)
        return KerasFile(version, backend, _layers(parameters, version, backend))


@contextlib.contextmanager
def _as_model_errors(name: str) -> Iterator[None]:
    """Name the file in every error; h5py raises any of several types for a damaged file."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from None
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise ModelError(f"{name}: not a Keras weight file, or damaged: {error}") from None


def _names(attribute: Any) -> list[str]:
    names = [name.decode() if isinstance(name, bytes) else str(name) for name in np.atleast_1d(attribute)]
    if len(names) > _MAX_LAYERS:
        raise ModelError(f"{len(names)} names in one list; at most {_MAX_LAYERS}")
    return names


def _parameters(root: h5py.Group) -> Iterator[tuple[str, np.ndarray]]:
    """Name and array of every stored parameter, in the order of the layers."""
    if "layer_names" not in root.attrs:
        raise ModelError("layer_names: missing: not a Keras weight file")
    left = _MAX_ELEMENTS
    for layer in _names(root.attrs["layer_names"]):
        if layer in _FRONT_END_LAYERS:
            continue
        group = _hard(root, layer)
        for name in _names(group.attrs["weight_names"]):
            array = _array(group, name, left)
            left -= array.size
            yield name, array


def _hard(group: h5py.Group, name: str) -> Any:
    """``group[name]``, refusing links: a file from elsewhere must not make us read another file."""
    import h5py

    for part in name.split("/"):
        link = group.get(part, getlink=True)
        if link is None:
            raise ModelError(f"{name}: named in the file but not in it")
        if not isinstance(link, h5py.HardLink):
            raise ModelError(f"{name}: is a link, which is refused")
        group = group[part]
    return group


def _array(group: h5py.Group, name: str, max_elements: int) -> np.ndarray:
    data = _hard(group, name)
    if getattr(data, "external", None) or getattr(data, "is_virtual", False):
        raise ModelError(f"{name}: its data is in another file, which is refused")
    if data.dtype.kind != "f" or data.dtype.itemsize not in (4, 8):
        raise ModelError(f"{name}: dtype is {data.dtype}; must be float32 or float64")
    if math.prod(data.shape) > max_elements:  # compressed, a small file can claim any size
        raise ModelError(f"{name}: shape {list(data.shape)}: the file holds more than {_MAX_ELEMENTS} elements")
    return np.asarray(data[()], dtype=np.float64)


def _stored_backend(root: h5py.Group, version: int, parameters: dict[str, np.ndarray]) -> Backend:
    if version == 1:
        return "tensorflow" if any(name.endswith(":0") for name in parameters) else "theano"
    (name,) = _names(root.attrs["backend"])
    if name == "theano":
        return "theano"
    if name == "tensorflow":
        return "tensorflow"
    raise ModelError(f"backend: {name!r} is not supported; supported: theano, tensorflow")


def _layers(parameters: dict[str, np.ndarray], version: int, backend: Backend) -> list[Convolution | BatchNorm | Dense]:
    grouped: dict[str, dict[str, np.ndarray]] = {}
    for name, array in parameters.items():
        owner, parameter = _split(name.removesuffix(":0"))
        grouped.setdefault(owner, {})[parameter] = array
    return [_layer(owner, values, version, backend) for owner, values in grouped.items()]


def _split(name: str) -> tuple[str, str]:
    for parameter, endings in _PARAMETERS.items():
        for ending in endings:
            if name.endswith(ending):
                return name.removesuffix(ending), parameter
    raise ModelError(f"{name}: a parameter of a kind that is not supported")


def _layer(name: str, values: dict[str, np.ndarray], version: int, backend: Backend) -> Convolution | BatchNorm | Dense:
    if "gamma" in values:
        spread = "running_std" if version == 1 else "variance"
        _require(name, values, ("gamma", "beta", "mean", spread))
        shape = values["gamma"].shape
        if len(shape) != 1 or any(value.shape != shape for value in values.values()):
            raise ModelError(f"{name}: its parameters differ in shape, or are not lists")
        return BatchNorm(name, values["gamma"], values["beta"], values["mean"], values[spread])
    _require(name, values, ("weight", "bias"))
    weight, bias = values["weight"], values["bias"]
    if weight.ndim == 2 and bias.shape == weight.shape[1:]:
        return Dense(name, weight, bias)
    if weight.ndim != 4:
        raise ModelError(f"{name}: weight {list(weight.shape)}, bias {list(bias.shape)}: neither convolution nor dense")
    if version == 2:
        weight = weight.transpose(3, 2, 0, 1)
    if bias.shape != weight.shape[:1]:
        raise ModelError(f"{name}: kernel {list(weight.shape)} does not fit bias {list(bias.shape)}")
    if backend == "theano":
        weight = weight[:, :, ::-1, ::-1]
    return Convolution(name, np.ascontiguousarray(weight), bias)


def _require(name: str, values: dict[str, np.ndarray], needed: tuple[str, ...]) -> None:
    if set(values) != set(needed):
        raise ModelError(f"{name}: has {', '.join(sorted(values))}; expected {', '.join(needed)}")


def _signature(layer: Convolution | BatchNorm | Dense) -> str:
    if isinstance(layer, BatchNorm):
        return f"bn{len(layer.gamma)}"
    if isinstance(layer, Dense):
        return f"dense{layer.weight.shape[0]}x{layer.weight.shape[1]}"
    out_channels, in_channels, height, width = layer.weight.shape
    return f"conv{in_channels}x{out_channels}k{height}" + ("" if height == width else f"x{width}")
