"""The builder refuses what does not fit; batch-norm folds as each version of the original software computed it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from support.make_models import block, make_model

from fcntag.convert.batchnorm import fold, scale_shift
from fcntag.convert.model_builder import ModelBuilder
from fcntag.errors import ModelError
from fcntag.model.document import ModelDocument


@pytest.fixture
def document(rng: np.random.Generator) -> ModelDocument:
    return make_model(rng, [block(2, window=(20, 16))]).document


def filled(document: ModelDocument, **other: np.ndarray) -> ModelBuilder:
    builder = ModelBuilder(document)
    for name, shape in document.tensor_shapes().items():
        builder.set(name, other.get(name, np.ones(shape)))
    return builder


def test_builds_float32(document: ModelDocument) -> None:
    third = np.full(2, 1 / 3)
    built, tensors = filled(document, **{"blocks.0.bias": third}).build()
    assert built == document
    assert list(tensors) == list(document.tensor_shapes())
    assert all(array.dtype == np.float32 for array in tensors.values())
    np.testing.assert_array_equal(tensors["blocks.0.bias"], third.astype(np.float32))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("blocks.1.weight", np.ones(3), r"blocks\.1\.weight: the model has no such tensor; it has: blocks\.0\.weight,"),
        ("blocks.0.scale", np.ones(2), "blocks.0.scale: the model has no such tensor"),
        ("blocks.0.bias", np.ones(3), r"blocks\.0\.bias: shape is \[3\]; the model needs \[2\]"),
        ("blocks.0.bias", np.ones((2, 1)), r"shape is \[2, 1\]"),
        ("blocks.0.bias", np.array([1, np.nan]), "blocks.0.bias: holds NaN or infinity"),
        ("blocks.0.bias", np.array(["a", "b"]), "blocks.0.bias: dtype is <U1; must be a real number type"),
        ("blocks.0.bias", np.ones(2, complex), "blocks.0.bias: dtype is complex128"),
    ],
)
def test_refuses_at_once(document: ModelDocument, name: str, value: np.ndarray, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        ModelBuilder(document).set(name, value)


def test_refuses_twice_unset_and_overflow(document: ModelDocument) -> None:
    builder = ModelBuilder(document)
    builder.set("head.bias", np.ones(7))
    with pytest.raises(ModelError, match=r"head\.bias: set twice"):
        builder.set("head.bias", np.ones(7))
    with pytest.raises(ModelError, match=r"^blocks\.0\.weight, blocks\.0\.bias, head\.weight: not set"):
        builder.build()
    with pytest.raises(ModelError, match=r"head\.bias: a value does not fit into float32"):
        filled(document, **{"head.bias": np.full(7, 1e39)}).build()


def test_denormals_become_zero_and_are_counted(document: ModelDocument) -> None:
    tiny = float(np.finfo(np.float32).tiny)
    values = np.array([tiny, -tiny, tiny / 2, -tiny / 2, 1e-45, 1e-300, 0.0])
    built, tensors = filled(document, **{"head.bias": values}).build()
    np.testing.assert_array_equal(tensors["head.bias"], np.float32([tiny, -tiny, 0, 0, 0, 0, 0]))
    assert built.notes == ("4 weights were smaller than float32's smallest normal number and set to zero.",)


def test_each_rule_of_the_denominator() -> None:
    # gamma 3, beta 5, mean 7, spread 0.25, epsilon 0.01, by hand at x = 11.
    at = 11.0
    expected = {
        "standard": 3 * 4 / math.sqrt(0.26) + 5,
        "keras105": 3 * 4 / (math.sqrt(0.26) + 0.01) + 5,
        "keras105_running_std": 3 * 4 / 0.26 + 5,
    }
    for rule, value in expected.items():
        scale, shift = scale_shift(*np.array([[3.0], [5.0], [7.0], [0.25]]), rule=rule, epsilon=0.01)
        assert (scale.item() * at + shift.item()) == pytest.approx(value, rel=1e-14)
    with pytest.raises(ModelError, match="a variance is negative"):
        scale_shift(*np.array([[3.0], [5.0], [7.0], [-0.25]]), rule="standard", epsilon=0.01)
    with pytest.raises(ModelError, match="rule 'keras3' is unknown"):
        scale_shift(*np.ones((4, 1)), rule="keras3", epsilon=0.01)  # type: ignore[arg-type]


def test_folding_equals_convolution_then_batch_norm(rng: np.random.Generator) -> None:
    weight, bias = rng.standard_normal((4, 3, 3, 3)), rng.standard_normal(4)
    scale, shift = rng.standard_normal(4), rng.standard_normal(4)
    patch = rng.standard_normal((3, 3, 3))  # one output position of a convolution
    plain = np.einsum("oikl,ikl->o", weight, patch) + bias
    folded_weight, folded_bias = fold(weight, bias, scale, shift)
    folded = np.einsum("oikl,ikl->o", folded_weight, patch) + folded_bias
    np.testing.assert_allclose(folded, plain * scale + shift, rtol=1e-12, atol=1e-12)
