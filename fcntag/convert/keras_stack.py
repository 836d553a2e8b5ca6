"""A Keras model as the layers of a stack, and as PyTorch's own functions to compare with.

The configuration says everything that a state dict does not: activations, pools, order, epsilon. Keras' maps are
[H, W, C] (``channels_last``) unless a layer says otherwise. Dropout and noise do nothing when a network tags.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ..errors import ModelError
from .batchnorm import scale_shift
from .readers.keras_model import KerasLayer
from .stack import Activation, Affine, Array, Conv, Dense, GlobalPool, Layer, MaxPool, Sigmoid

_IDLE = (
    "Dropout",
    "SpatialDropout2D",
    "GaussianNoise",
    "GaussianDropout",
    "AlphaDropout",
    "ActivityRegularization",
)


@dataclass
class KerasNetwork:
    """What a model is, layer by layer.

    Attributes
    ----------
    image : (H, W) of its input
    layers : for a Stack
    scale, shift, axis : of the input's normalisation; axis 0 or 1 of the image, None for one value
    run : x [B, H, W] before the input's normalisation -> logits, float64
    logits : whether it ends before the sigmoid
    """

    image: tuple[int, int]
    layers: list[Layer] = field(default_factory=list)
    scale: Array | None = None
    shift: Array | None = None
    axis: int | None = None
    calls: list[Callable[[Any], Any]] = field(default_factory=list)
    logits: bool = False

    def run(self, x: np.ndarray) -> np.ndarray:
        """Logits of x [B, H, W], by PyTorch in float64."""
        import torch

        y: Any = torch.from_numpy(np.asarray(x, np.float64)[:, None])
        with torch.inference_mode():
            for call in self.calls:
                y = call(y)
        out: np.ndarray = y.flatten(1).numpy()
        return out


def read(layers: list[KerasLayer]) -> KerasNetwork:
    """Every layer of a model; raises ModelError that names a layer which is not built."""
    return _Reader(layers).read()


class _Reader:
    def __init__(self, layers: list[KerasLayer]) -> None:
        self._todo = layers
        self._shape: list[int] = []  # of what arrives, without the batch
        self._last = True  # channels last
        self._pads: tuple[int, int, int, int] | None = None  # of a ZeroPadding2D in front of a convolution

    def read(self) -> KerasNetwork:
        shapes = [_input_shape(layer) for layer in self._todo[:1]]
        if not shapes or shapes[0] is None:
            raise ModelError(
                "its first layer does not say the shape of the input; call the model once before you save it"
            )
        if any(type(n) is not int or n < 1 for n in shapes[0]):
            raise ModelError(f"an input of shape {shapes[0]}; built: fixed sizes")
        self._shape = list(shapes[0])
        self._last = self._channels_last()
        self._net = KerasNetwork(self._image())
        methods = {
            "Conv2D": self._conv,
            "Convolution2D": self._conv,
            "BatchNormalization": self._norm,
            "Normalization": self._normalization,
            "Rescaling": self._rescaling,
            "Activation": self._activation_layer,
            "ReLU": self._relu,
            "ELU": self._elu,
            "MaxPooling2D": self._max_pool,
            "GlobalMaxPooling2D": self._global,
            "GlobalAveragePooling2D": self._global,
            "ZeroPadding2D": self._zero_pad,
            "Flatten": self._flatten,
            "Reshape": self._reshape,
            "Dense": self._dense,
        }
        for layer in self._todo:
            if layer.kind == "InputLayer" or layer.kind in _IDLE:
                continue
            if layer.kind == "Lambda":
                raise ModelError(f"{layer.where}: holds code, which is never run; {_ONNX}")
            if layer.kind not in methods:
                raise ModelError(f"{layer.where}: a layer that is not built; built: {', '.join(methods)}; {_ONNX}")
            if self._pads is not None and layer.kind not in ("Conv2D", "Convolution2D"):
                raise ModelError(f"{layer.where}: behind a ZeroPadding2D; built there: Conv2D")
            methods[layer.kind](layer)
        self._net.logits = not (self._net.layers and isinstance(self._net.layers[-1], Sigmoid))
        return self._net

    # ---- shapes ----

    def _channels_last(self) -> bool:
        formats = {
            str(layer.config.get("data_format"))
            for layer in self._todo
            if layer.kind.startswith(("Conv", "MaxP", "Global", "ZeroP"))
        }
        if formats - {"None"} not in ({"channels_last"}, {"channels_first"}):
            raise ModelError(f"data formats {', '.join(sorted(formats)) or 'none'}; built: one for all layers")
        return "channels_last" in formats

    def _image(self) -> tuple[int, int]:
        shape = self._shape
        if len(shape) == 2:
            return shape[0], shape[1]
        channel = 2 if self._last else 0
        if len(shape) != 3 or shape[channel] != 1:
            raise ModelError(f"an input of shape {shape}; built: [H, W, 1], [1, H, W] by its data format, or [H, W]")
        return (shape[0], shape[1]) if self._last else (shape[1], shape[2])

    def _map(self, layer: KerasLayer) -> tuple[int, int, int]:
        """(C, H, W) that arrive."""
        if len(self._shape) == 2 and not self._net.layers:
            raise ModelError(f"{layer.where}: on an input without an axis of channels; built: behind a Reshape to one")
        if len(self._shape) != 3:
            raise ModelError(f"{layer.where}: on values of shape {self._shape}; built: on a map")
        a, b, c = self._shape
        return (c, a, b) if self._last else (a, b, c)

    def _set_map(self, channels: int, height: int, width: int) -> None:
        self._shape = [height, width, channels] if self._last else [channels, height, width]

    def _add(self, layer: Layer, call: Callable[[Any], Any]) -> None:
        self._net.layers.append(layer)
        self._net.calls.append(call)

    # ---- layers ----

    def _conv(self, layer: KerasLayer) -> None:
        import torch

        config = layer.config
        _only(layer, strides=[1, 1], dilation_rate=[1, 1], groups=1)
        channels, height, width = self._map(layer)
        kernel, bias = _kernel(layer, 4)
        weight = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        if weight.shape[1] != channels:
            raise ModelError(f"{layer.where}: for {weight.shape[1]} channels, but {channels} arrive")
        kh, kw = weight.shape[2:]
        if config.get("padding") not in ("same", "valid"):
            raise ModelError(f"{layer.where}: padding {config.get('padding')!r}; built: same, valid")
        pads = (0, 0, 0, 0)
        if config["padding"] == "same":
            pads = ((kh - 1) // 2, (kw - 1) // 2, kh // 2, kw // 2)
        if self._pads is not None:
            pads = tuple(a + b for a, b in zip(pads, self._pads, strict=True))  # type: ignore[assignment]
            self._pads = None
        w, b = torch.from_numpy(weight.copy()), torch.from_numpy(bias.copy())
        top, left, bottom, right = pads
        self._add(
            Conv(layer.where, weight, bias, pads),
            lambda x: torch.nn.functional.conv2d(torch.nn.functional.pad(x, (left, right, top, bottom)), w, b),
        )
        self._set_map(len(weight), height + top + bottom - kh + 1, width + left + right - kw + 1)
        self._activation(layer, config.get("activation"))

    def _dense(self, layer: KerasLayer) -> None:
        import torch

        if len(self._shape) != 1 and (len(self._shape) != 3 or self._map(layer)[1:] != (1, 1)):
            raise ModelError(f"{layer.where}: on values of shape {self._shape}; built: behind Flatten or a global pool")
        kernel, bias = _kernel(layer, 2)
        w, b = torch.from_numpy(kernel.T.copy()), torch.from_numpy(bias.copy())
        axes = self._order or "chw"
        self._add(
            Dense(layer.where, np.ascontiguousarray(kernel.T), bias, axes),
            lambda x: torch.nn.functional.linear(x.flatten(1), w, b),
        )
        self._shape = [kernel.shape[1]]
        self._activation(layer, layer.config.get("activation"))

    def _norm(self, layer: KerasLayer) -> None:
        config = layer.config
        names = [name for name, wanted in (("gamma", "scale"), ("beta", "center")) if config.get(wanted, True)]
        names += ["mean", "variance"]
        if len(layer.arrays) != len(names):
            raise ModelError(f"{layer.where}: {len(layer.arrays)} arrays; its configuration has {len(names)}")
        values = dict(zip(names, layer.arrays, strict=True))
        size = values["mean"].shape
        gamma, beta = values.get("gamma", np.ones(size)), values.get("beta", np.zeros(size))
        mean, variance, epsilon = values["mean"], values["variance"], float(config.get("epsilon", 1e-3))
        try:
            scale, shift = scale_shift(gamma, beta, mean, variance, rule="standard", epsilon=epsilon)
        except ModelError as error:
            raise ModelError(f"{layer.where}: {error}") from None
        self._affine(layer, scale, shift, config.get("axis", -1), (gamma, beta, mean, variance, epsilon))

    def _affine(self, layer: KerasLayer, scale: Array, shift: Array, axis: Any, norm: Any = None) -> None:
        import torch

        axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
        if type(axis) is not int or not -len(self._shape) <= axis <= len(self._shape) or axis == 0:
            raise ModelError(
                f"{layer.where}: axis {axis!r} of {len(self._shape) + 1}; built: one that is not the batch's"
            )
        axis = axis - 1 if axis > 0 else axis + len(self._shape)  # of the shape without the batch
        if scale.shape != (self._shape[axis],):
            raise ModelError(f"{layer.where}: {list(scale.shape)} values for an axis of {self._shape[axis]}")
        where = axis  # in the map as PyTorch has it, [C, H, W]
        if len(self._shape) == 3 and self._last:
            where = (axis + 1) % 3
        elif len(self._shape) == 2:
            where = axis + 1
        shape = [1, -1] if len(self._shape) == 1 else [-1 if i == where else 1 for i in range(-1, 3)]
        s, t = (torch.from_numpy(a.reshape(shape)) for a in (scale, shift))
        call: Callable[[Any], Any] = lambda x: x * s + t  # noqa: E731
        if norm is not None:  # by its definition, not by the scale that the stack gets
            gamma, beta, mean, spread = (torch.from_numpy(np.asarray(a, np.float64).reshape(shape)) for a in norm[:4])
            epsilon = norm[4]
            call = lambda x: (x - mean) / torch.sqrt(spread + epsilon) * gamma + beta  # noqa: E731
        if not self._net.layers:
            self._input_affine(layer, scale, shift, None if len(scale) == 1 else where - 1)
            self._net.calls.append(call)
            return
        if len(self._shape) == 3 and where != 0:
            raise ModelError(f"{layer.where}: over an axis that is not the channels'; built there: the channels'")
        axes = "c"
        if len(self._shape) == 1:
            axes = self._order or "c"
        self._add(Affine(layer.where, scale, shift, axes=axes), call)

    _order = ""  # of the axes of a flattened map

    def _input_affine(self, layer: KerasLayer, scale: Array, shift: Array, axis: int | None) -> None:
        net = self._net
        if net.scale is None or net.shift is None:
            net.scale, net.shift, net.axis = scale, shift, axis
            return
        if axis != net.axis and len(scale) > 1 and len(net.scale) > 1:
            raise ModelError(f"{layer.where}: a second normalisation of the input, over another axis")
        net.axis = axis if len(scale) > 1 else net.axis
        net.scale, net.shift = net.scale * scale, net.shift * scale + shift

    def _normalization(self, layer: KerasLayer) -> None:
        config = layer.config
        mean, variance = config.get("mean"), config.get("variance")
        if len(layer.arrays) >= 2:
            mean, variance = layer.arrays[:2]
        if mean is None or variance is None or config.get("invert"):
            raise ModelError(
                f"{layer.where}: without mean and variance, or inverted; adapt it before you save the model"
            )
        mean, variance = (np.atleast_1d(np.squeeze(np.asarray(a, np.float64))) for a in (mean, variance))
        deviation = np.maximum(np.sqrt(variance), 1e-7)  # Keras' own floor
        axis = config.get("axis", -1)
        if mean.size == 1:
            axis = -1 if self._last or len(self._shape) < 3 else 1
            if self._net.layers or (len(self._shape) == 2 and self._shape[-1] != 1):
                raise ModelError(f"{layer.where}: of one value; built: of an input with an axis of channels")
        self._affine(layer, 1 / deviation, -mean / deviation, axis)

    def _rescaling(self, layer: KerasLayer) -> None:
        try:
            given = layer.config.get("scale", 1.0), layer.config.get("offset", 0.0)
            scale, offset = (np.atleast_1d(np.asarray(value, np.float64)) for value in given)
        except (TypeError, ValueError):
            scale = offset = np.zeros(2)
        if scale.size != 1 or offset.size != 1 or self._net.layers or len(self._shape) != 3:
            raise ModelError(f"{layer.where}: built: one scale and one offset, of an input with an axis of channels")
        self._affine(layer, scale, offset, -1 if self._last else 1)

    def _activation_layer(self, layer: KerasLayer) -> None:
        self._activation(layer, layer.config.get("activation"))

    def _relu(self, layer: KerasLayer) -> None:
        config = layer.config
        if config.get("max_value") is not None or config.get("negative_slope") or config.get("threshold"):
            raise ModelError(f"{layer.where}: with a maximum, a slope or a threshold; built: max(x, 0)")
        self._activation(layer, "relu")

    def _elu(self, layer: KerasLayer) -> None:
        if float(np.asarray(layer.config.get("alpha", 1.0))) != 1.0:
            raise ModelError(f"{layer.where}: alpha {layer.config.get('alpha')}; built: 1.0")
        self._activation(layer, "elu")

    def _activation(self, layer: KerasLayer, kind: Any) -> None:
        import torch

        if isinstance(kind, dict):
            kind = kind.get("config") if kind.get("class_name") == "function" else kind.get("class_name")
        if kind in (None, "linear"):
            return
        if kind == "sigmoid":
            self._net.layers.append(Sigmoid(layer.where))  # the reference gives logits
        elif kind in ("relu", "elu"):
            function = {"relu": torch.relu, "elu": torch.nn.functional.elu}[kind]
            self._add(Activation(layer.where, kind), function)
        else:
            raise ModelError(f"{layer.where}: the activation {str(kind)[:60]!r}; built: relu, elu, sigmoid, linear")

    def _max_pool(self, layer: KerasLayer) -> None:
        import torch

        channels, height, width = self._map(layer)
        window = _pair(layer, "pool_size")
        stride = _pair(layer, "strides") if layer.config.get("strides") is not None else window
        sizes = zip((height, width), window, stride, strict=True)
        if layer.config.get("padding") == "same" and any(max(-(-n // s) - 1, 0) * s + w > n for n, w, s in sizes):
            raise ModelError(
                f"{layer.where}: padding 'same' of {height} x {width}, which pads; built: one that does not"
            )
        if layer.config.get("padding") not in ("same", "valid", None):
            raise ModelError(f"{layer.where}: padding {layer.config.get('padding')!r}; built: valid")
        self._add(MaxPool(layer.where, window, stride), lambda x: torch.nn.functional.max_pool2d(x, window, stride))
        self._set_map(channels, (height - window[0]) // stride[0] + 1, (width - window[1]) // stride[1] + 1)

    def _global(self, layer: KerasLayer) -> None:
        channels, _, _ = self._map(layer)
        kind: Literal["max", "average"] = "max" if layer.kind == "GlobalMaxPooling2D" else "average"
        keep = bool(layer.config.get("keepdims"))

        def call(x: Any) -> Any:
            return x.amax((2, 3), keepdim=keep) if kind == "max" else x.mean((2, 3), keepdim=keep)

        self._add(GlobalPool(layer.where, kind), call)
        self._shape = [channels]
        if keep:
            self._set_map(channels, 1, 1)

    def _zero_pad(self, layer: KerasLayer) -> None:
        self._map(layer)
        padding = layer.config.get("padding")
        both = padding if isinstance(padding, list) else [padding, padding]
        sides = [side if isinstance(side, list) else [side, side] for side in both]
        numbers = [n for side in sides for n in side if type(n) is int and 0 <= n < 4096]
        if [len(side) for side in sides] != [2, 2] or len(numbers) != 4:
            raise ModelError(f"{layer.where}: padding {str(padding)[:60]}")
        top, bottom, left, right = numbers
        self._pads = top, left, bottom, right

    def _flatten(self, layer: KerasLayer) -> None:
        """The values as they lie in memory; a Flatten of channels_first moves the first axis to the end before."""
        if len(self._shape) == 1:
            return
        self._map(layer)
        order = "hwc" if self._last else "chw"
        if layer.kind == "Flatten" and layer.config.get("data_format") == "channels_first":
            order = order[1:] + order[0]
        axes = [0, *(1 + "chw".index(axis) for axis in order)]
        self._net.calls.append(lambda x: x.permute(axes).flatten(1))
        self._shape, self._order = [int(np.prod(self._shape))], order

    def _reshape(self, layer: KerasLayer) -> None:
        """To an image with channels in front of the network, or as Flatten behind it."""
        target = layer.config.get("target_shape")
        image = list(self._net.image)
        wanted = [*image, 1] if self._last else [1, *image]
        if not self._net.layers and target == wanted:
            self._shape = wanted
            return
        if self._net.layers and target in ([-1], [int(np.prod(self._shape))]):
            self._flatten(layer)
            return
        raise ModelError(f"{layer.where}: {self._shape} to {str(target)[:60]}; built: to {wanted}, or flattening")


_ONNX = "export the model to ONNX instead (model.export(FILE, format='onnx'))"


def _input_shape(layer: KerasLayer) -> list[Any] | None:
    """The shape of a sample that the first layer takes, in Keras 3's and in Keras 2's form."""
    shape = layer.config.get("batch_shape") or layer.config.get("batch_input_shape")
    return list(shape[1:]) if isinstance(shape, list) and len(shape) > 2 else None


def _only(layer: KerasLayer, **wanted: Any) -> None:
    for name, value in wanted.items():
        given = layer.config.get(name, value)
        if given != value:
            raise ModelError(f"{layer.where}: {name} {str(given)[:60]}; built: {value}")


def _pair(layer: KerasLayer, name: str) -> tuple[int, int]:
    value = layer.config.get(name)
    value = [value, value] if type(value) is int else value
    if not isinstance(value, list) or len(value) != 2 or not all(type(n) is int and n >= 1 for n in value):
        raise ModelError(f"{layer.where}: {name} {str(value)[:60]}")
    return value[0], value[1]


def _kernel(layer: KerasLayer, dimensions: int) -> tuple[Array, Array]:
    wanted = 2 if layer.config.get("use_bias", True) else 1
    if len(layer.arrays) != wanted or layer.arrays[0].ndim != dimensions:
        raise ModelError(f"{layer.where}: {len(layer.arrays)} arrays; its configuration has {wanted}")
    kernel = layer.arrays[0]
    bias = layer.arrays[1] if wanted == 2 else np.zeros(kernel.shape[-1])
    if bias.shape != kernel.shape[-1:]:
        raise ModelError(f"{layer.where}: kernel {list(kernel.shape)} does not fit bias {list(bias.shape)}")
    return kernel, bias
