"""Lists of layers as blocks and a head: what the document computes is what the layers compute, in float64."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from support.make_models import block, make_model

from fcntag import oracle
from fcntag.convert.stack import (
    Activation,
    Affine,
    Conv,
    Dense,
    GlobalPool,
    Layer,
    MaxPool,
    Sigmoid,
    Stack,
)
from fcntag.errors import ModelError
from fcntag.model.file import Model

SIZE = (20, 16)
rng = np.random.default_rng(11)


def conv(inputs: int, outputs: int, kernel: int = 3) -> Conv:
    weight = rng.standard_normal((outputs, inputs, kernel, kernel)) / np.sqrt(inputs) / kernel
    return Conv("conv", weight, 0.5 * rng.standard_normal(outputs), (kernel // 2,) * 4)


def whole_map(inputs: int, outputs: int, height: int, width: int) -> Conv:
    weight = rng.standard_normal((outputs, inputs, height, width)) / np.sqrt(inputs * height * width)
    return Conv("whole", weight, rng.standard_normal(outputs), (0, 0, 0, 0))


def dense(inputs: int, outputs: int, axes: str = "chw") -> Dense:
    return Dense("dense", rng.standard_normal((outputs, inputs)) / np.sqrt(inputs), rng.standard_normal(outputs), axes)


def norm(n: int, axes: str = "c", *, negative: bool = True) -> Affine:
    scale = rng.uniform(0.5, 1.5, n) * (np.where(np.arange(n) % 3 == 1, -1.0, 1.0) if negative else 1.0)
    return Affine("norm", scale, rng.standard_normal(n), axes=axes)


RELU, ELU = Activation("relu", "relu"), Activation("elu", "elu")
POOL = MaxPool("pool", (5, 4), (5, 4))  # to a map of 4 x 4
AVERAGE, MAXIMUM = GlobalPool("average", "average"), GlobalPool("maximum", "max")
TO_ONE = MaxPool("pool", (20, 16), (20, 16))
FEATURES = 6 * 4 * 4

# name: layers, flatten and hidden layers that the document should have, number of blocks
STACKS: dict[str, tuple[list[Layer], str, list[tuple[int, str]], int]] = {
    "flattened, hidden": (
        [conv(1, 6), RELU, POOL, dense(FEATURES, 9), RELU, dense(9, 5)], "chw", [(9, "relu")], 1,
    ),
    "flattened, channel fastest, three hidden": (
        [conv(1, 6), ELU, POOL, dense(FEATURES, 9, "hwc"), ELU, dense(9, 7), RELU, dense(7, 3), dense(3, 5)],
        "chw", [(9, "elu"), (7, "relu"), (3, "none")], 1,
    ),
    "average, hidden": ([conv(1, 6), RELU, AVERAGE, dense(6, 9), RELU, dense(9, 5)], "mean", [(9, "relu")], 1),
    "average": ([conv(1, 6), RELU, norm(6), AVERAGE, dense(6, 5)], "mean", [], 1),
    "maximum, hidden": ([conv(1, 6), ELU, MAXIMUM, dense(6, 9), ELU, dense(9, 5)], "max", [(9, "elu")], 1),
    "map of one, hidden": ([conv(1, 6), RELU, TO_ONE, dense(6, 9), RELU, dense(9, 5)], "chw", [(9, "relu")], 1),
    "map of one, 1x1 convolutions": (
        [conv(1, 6), RELU, TO_ONE, conv(6, 9, 1), RELU, norm(9), conv(9, 5, 1)], "chw", [], 2,
    ),
    "batch-norms around a hidden layer": (
        [conv(1, 6), RELU, POOL, norm(FEATURES, "hwc"), dense(FEATURES, 9, "hwc"), norm(9), RELU, norm(9), norm(9),
         dense(9, 5), norm(5)],
        "chw", [(9, "relu")], 1,
    ),
    "batch-norm of a flattened map": (
        [conv(1, 6), RELU, POOL, norm(FEATURES, "chw"), dense(FEATURES, 5)], "chw", [], 1,
    ),
    "batch-norm of averages": ([conv(1, 6), ELU, AVERAGE, norm(6), dense(6, 5)], "mean", [], 1),
    "batch-norm of maxima": ([conv(1, 6), ELU, MAXIMUM, norm(6), norm(6), dense(6, 5)], "max", [], 1),
    "batch-norm of maxima that rises, activation": (
        [conv(1, 6), MAXIMUM, norm(6, negative=False), ELU, dense(6, 5)], "max", [], 1,
    ),
    "1x1 convolutions behind an average": (
        [conv(1, 6), RELU, AVERAGE, conv(6, 9, 1), RELU, conv(9, 5, 1)], "mean", [(9, "relu")], 1,
    ),
    "whole-map convolution, hidden": (
        [conv(1, 6), RELU, POOL, whole_map(6, 9, 4, 4), RELU, conv(9, 5, 1)], "chw", [(9, "relu")], 1,
    ),
    "map of scores, average": ([conv(1, 6), RELU, conv(6, 5, 1), AVERAGE], "mean", [], 1),
    "map of scores, maximum": ([conv(1, 6), RELU, POOL, conv(6, 5, 1), MAXIMUM], "max", [], 2),
    "map of scores of 3 x 3, batch-norm, average": (
        [conv(1, 6), RELU, conv(6, 5), norm(5), RELU, AVERAGE, norm(5)], "mean", [], 2,
    ),
    "sigmoid in front of the maximum": ([conv(1, 6), RELU, conv(6, 5, 1), Sigmoid("sigmoid"), MAXIMUM], "max", [], 2),
    "negative scales behind a pool": (
        [conv(1, 6), RELU, POOL, norm(6), conv(6, 7), RELU, norm(7), dense(7 * 16, 5)], "chw", [], 2,
    ),
    "negative scales behind the last pool": ([conv(1, 6), POOL, norm(6), dense(FEATURES, 5, "hwc")], "chw", [], 1),
    "negative scales twice behind a pool": (
        [conv(1, 6), ELU, norm(6), POOL, norm(6), norm(6), norm(6), dense(FEATURES, 5)], "chw", [], 1,
    ),
    "negative scales, then an average": ([conv(1, 6), ELU, POOL, norm(6), AVERAGE, dense(6, 5)], "mean", [], 1),
    "negative scales between pool and activation": (
        [conv(1, 6), POOL, norm(6), ELU, dense(FEATURES, 5)], "chw", [], 2,
    ),
    "negative scales between two pools": (
        [conv(1, 6), RELU, POOL, norm(6), MaxPool("pool", (2, 2), (2, 2)), dense(24, 5)], "chw", [], 2,
    ),
    "negative scales, then a maximum": (
        [conv(1, 6), RELU, POOL, norm(6), MAXIMUM, dense(6, 9), RELU, dense(9, 5)], "max", [(9, "relu")], 2,
    ),
}  # fmt: skip


def plainly(layers: list[Layer], x: np.ndarray) -> np.ndarray:
    """The logits of network inputs [B, H, W]: every layer in its order, nothing folded. The network may end in one."""
    y = x[:, None]
    for layer in layers:
        if isinstance(layer, Conv):
            edge = layer.pads[0]
            if edge or layer.weight.shape[2] == 1:
                y = oracle.conv(y, layer.weight, layer.bias)
            else:
                y = np.einsum("bchw,ochw->bo", y, layer.weight)[:, :, None, None] + layer.bias[:, None, None]
        elif isinstance(layer, Affine):
            if layer.axes == "c":
                y = y * layer.scale[:, None, None] + layer.shift[:, None, None]
            else:
                order = [1 + "chw".index(axis) for axis in layer.axes]
                flat = y.transpose(0, *order)
                flat = (flat.reshape(len(y), -1) * layer.scale + layer.shift).reshape(flat.shape)
                y = flat.transpose(0, *(1 + order.index(1 + i) for i in range(3)))
        elif isinstance(layer, Activation):
            y = oracle.activate(y, layer.kind)
        elif isinstance(layer, MaxPool):
            y = oracle.max_pool(y, layer.window, layer.stride)
        elif isinstance(layer, GlobalPool):
            y = (y.mean((2, 3)) if layer.kind == "average" else y.max((2, 3)))[:, :, None, None]
        elif isinstance(layer, Dense):
            order = ["chw".index(axis) + 1 for axis in layer.axes]
            y = (y.transpose(0, *order).reshape(len(y), -1) @ layer.weight.T + layer.bias)[:, :, None, None]
    return y[:, :, 0, 0]


def converted(layers: list[Layer]) -> Model:
    stack = Stack(SIZE)
    for layer in layers:
        stack.add(layer)
    if not any(isinstance(layer, Sigmoid) for layer in layers):
        stack.add(Sigmoid("sigmoid"))
    blocks, head, n_tags = stack.finish()
    template = make_model(np.random.default_rng(0), [block(1)], n_tags=n_tags).document
    document = dataclasses.replace(template, blocks=blocks, head=head).validate()
    assert {name: array.shape for name, array in stack.tensors.items()} == document.tensor_shapes()
    return Model(document, stack.tensors, "", "")


@pytest.mark.parametrize("name", STACKS)
def test_the_document_computes_what_the_layers_compute(name) -> None:
    layers, flatten, hidden, n_blocks = STACKS[name]
    model = converted(layers)
    assert model.document.head.flatten == flatten
    assert [(layer.out_features, layer.activation) for layer in model.document.head.hidden] == hidden
    assert len(model.document.blocks) == n_blocks
    x = np.random.default_rng(1).standard_normal((3, *SIZE))
    np.testing.assert_allclose(oracle.logits(model, x), plainly(layers, x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([conv(1, 6), RELU, conv(6, 5, 1), Sigmoid("s"), AVERAGE], "average: a mean of scores; built: the mean in"),
        ([conv(1, 6), AVERAGE, RELU, dense(6, 5)], "relu: an activation behind a global average, and no dense"),
        ([conv(1, 6), AVERAGE, norm(6), RELU, dense(6, 5)], "relu: an activation behind an affine of features"),
        ([conv(1, 6), POOL, norm(96, "hwc"), MAXIMUM, dense(6, 5)], "maximum: behind an affine of a flattened map"),
        ([conv(1, 6), POOL, norm(95, "hwc"), dense(96, 5)], "norm: for 95 features, but 6 x 4 x 4 arrive"),
        ([conv(1, 6), POOL, dense(95, 9), RELU, dense(9, 5)], "dense: 95 features, but 6 x 4 x 4 arrive"),
        ([conv(1, 6), POOL, dense(96, 9), RELU, dense(8, 5)], "dense: 8 features, but 9 x 1 x 1 arrive"),
        ([conv(1, 6), POOL, dense(96, 9), RELU, ELU, dense(9, 5)], "elu: a second activation in the block of dense"),
        ([conv(1, 6), POOL, dense(96, 9), RELU, norm(8), dense(9, 5)], "norm: for 8 features, but 9 x 1 x 1 arrive"),
        ([conv(1, 6), POOL, dense(96, 9), POOL, dense(9, 5)], r"pool: a window of \[5, 4\] on a map of \[1, 1\]"),
        ([dense(320, 9), RELU, dense(9, 5)], "dense: no convolution before the dense layer"),
        ([dense(320, 5)], "dense: no convolution before the dense layer"),
        ([conv(1, 6), POOL, whole_map(6, 9, 4, 3), RELU, dense(9, 5)], "whole: a kernel of 4 x 3; built"),
        ([conv(1, 6), AVERAGE, conv(6, 9), RELU, whole_map(9, 5, 2, 2)], "whole: the last layer gives a map of 0 x 0"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(layers: list[Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        converted(layers)


def test_more_hidden_layers_than_a_document_holds_are_refused() -> None:
    layers = [conv(1, 6), AVERAGE, dense(6, 4), *(dense(4, 4) for _ in range(8)), dense(4, 5)]
    with pytest.raises(ModelError, match=r"head\.hidden: number: 9"):
        converted(layers)
