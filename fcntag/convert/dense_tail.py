"""The dense layers behind the last map of a stack, as the document's head and its hidden layers; float64."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError
from ..model.document import Dense as HiddenLayer
from ..model.document import Head
from .batchnorm import fold_into_dense

Array = NDArray[np.float64]


def in_order(values: Array, axes: str, channels: int, height: int, width: int) -> Array:
    """``values`` [..., F] of a map flattened in the order of ``axes``, e.g. "hwc", in the order "chw"."""
    extent = {"c": channels, "h": height, "w": width}
    lead = values.ndim - 1
    cube = values.reshape(*values.shape[:-1], *(extent[axis] for axis in axes))
    order = (*range(lead), *(lead + axes.index(axis) for axis in "chw"))
    return np.ascontiguousarray(cube.transpose(order)).reshape(values.shape)


@dataclass
class _DenseLayer:
    where: str
    weight: Array
    bias: Array
    activation: Literal["relu", "elu", "none"] = "none"


@dataclass
class DenseTail:
    """Dense layers in a chain, with the affines between them folded into the weights behind or in front.

    Attributes
    ----------
    channels, size : of the map whose values are the features
    flatten : how it becomes features
    averaged : the size of the last map, where ``size`` is what is left of it after an average along one axis
    """

    channels: int
    size: tuple[int, int]
    flatten: Literal["chw", "max", "mean"]
    averaged: tuple[int, int] | None = None
    _layers: list[_DenseLayer] = field(default_factory=list)
    _waiting: tuple[Array, Array] | None = None  # scale and shift of what enters the next layer, one a feature

    def dense(self, where: str, weight: Array, bias: Array, axes: str) -> None:
        """Append ``weight`` [O, F] over features in the order of ``axes``, and ``bias`` [O]."""
        height, width = self.size
        features = len(self._layers[-1].weight) if self._layers else self.channels * height * width
        if weight.shape[1] != features:
            arrive = f"{features} x 1 x 1" if self._layers else f"{self.channels} x {height} x {width}"
            raise ModelError(f"{where}: {weight.shape[1]} features, but {arrive} arrive")
        if not self._layers and axes != "chw" and self.size != (1, 1):
            weight = in_order(weight, axes, self.channels, height, width)
        if self._waiting is not None:
            weight, bias = fold_into_dense(weight, bias, *self._waiting)
            self._waiting = None
        if not self._layers and self.averaged is not None:
            # An average along one axis: every position of that axis has its part of the weight.
            cube = weight.reshape(len(weight), self.channels, height, width)
            spread = np.broadcast_to(cube, (*cube.shape[:2], *self.averaged))
            parts = self.averaged[0] * self.averaged[1] // (height * width)
            weight = spread.reshape(len(weight), -1) / parts
        self._layers.append(_DenseLayer(where, weight, bias))

    def affine(self, where: str, scale: Array, shift: Array) -> None:
        """scale * x + shift, one a feature."""
        if self._layers:
            last = self._layers[-1]
            if len(scale) != len(last.weight):
                raise ModelError(f"{where}: for {len(scale)} features, but {len(last.weight)} x 1 x 1 arrive")
            if last.activation == "none" and self._waiting is None:
                last.weight, last.bias = last.weight * scale[:, None], last.bias * scale + shift
                return
        if self._waiting is None:
            self._waiting = scale, shift
        else:
            self._waiting = self._waiting[0] * scale, self._waiting[1] * scale + shift

    def activation(self, where: str, kind: Literal["relu", "elu"]) -> None:
        """The last layer's activation."""
        last = self._layers[-1]
        if last.activation == kind == "relu" and self._waiting is None:
            return  # the second of two changes nothing
        if last.activation != "none" or self._waiting is not None:
            raise ModelError(f"{where}: a second activation in the block of {last.where}; built: one")
        last.activation = kind

    def finish(self, tensors: dict[str, Array]) -> Head:
        """The head, its tensors added to ``tensors``; the last layer is the one that gives the logits."""
        *hidden, last = self._layers
        if last.activation != "none" or self._waiting is not None:
            raise ModelError(f"{last.where}: an activation between the last weights and the sigmoid")
        for i, layer in enumerate(hidden):
            tensors[f"head.hidden.{i}.weight"], tensors[f"head.hidden.{i}.bias"] = layer.weight, layer.bias
        tensors["head.weight"], tensors["head.bias"] = last.weight, last.bias
        return Head(
            flatten=self.flatten,
            in_features=self._layers[0].weight.shape[1],
            hidden=tuple(HiddenLayer(out_features=len(layer.weight), activation=layer.activation) for layer in hidden),
        )
