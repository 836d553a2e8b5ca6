"""What the compiled core does with arrays that lie in memory as the core does not read them: right, or one line."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import weakref
from typing import Any

import numpy as np
import pytest
from support.awkward import LAYOUTS
from support.make_models import block, make_model

from fcntag import _C, oracle
from fcntag.engine import create_engine
from fcntag.engine.packing import block_dicts, head_dict, melspec_config
from fcntag.errors import ModelError
from fcntag.model.file import Model


@pytest.fixture
def model(rng) -> Model:
    """Its numbers fit in half precision, so that a cast loses nothing."""
    made = make_model(rng, [block(24, affine=True, window=(2, 2)), block(40, activation="elu", window=(3, 3))])
    halves = {name: array.astype(np.float16).astype(np.float32) for name, array in made.tensors.items()}
    return Model(made.document, halves, made.sha256, made.path)


def parts_of(model: Model, change: Any = lambda array: array) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What ``packing`` hands to the core, with every array changed on its way."""
    changed = [
        {name: change(value) if isinstance(value, np.ndarray) else value for name, value in part.items()}
        for part in (*block_dicts(model), head_dict(model))
    ]
    return changed[:-1], changed[-1]


def make_network(model: Model, blocks: list[dict[str, Any]], head: dict[str, Any]) -> _C.Network:
    height, width = model.document.input_size()
    return _C.Network(
        blocks, head, height=height, width=width, precision="float32", algorithm="auto", pool=_C.ThreadPool(1)
    )


def logits_of(model: Model, x: np.ndarray, change: Any = lambda array: array) -> np.ndarray:
    return make_network(model, *parts_of(model, change)).run(x)["logits"]


def inputs_for(model: Model, rng: np.random.Generator, batch: int = 2) -> np.ndarray:
    return rng.standard_normal((batch, *model.document.input_size())).astype(np.float32)


OTHER_TYPES = {"half": lambda a: a.astype(np.float16), "swapped half": lambda a: a.astype(">f2"), "list": list}


@pytest.mark.parametrize("layout", [*LAYOUTS, *OTHER_TYPES])
def test_weights_in_any_layout_give_the_same_scores(model, rng, layout):
    x = inputs_for(model, rng)
    change = {**LAYOUTS, **OTHER_TYPES}[layout]
    np.testing.assert_array_equal(logits_of(model, x, change), logits_of(model, x))


def test_weights_of_whole_numbers_and_of_one_repeated_row(model, rng):
    x = inputs_for(model, rng)
    whole = {name: np.rint(2 * array) for name, array in model.tensors.items()}
    numbers = Model(model.document, whole, "", "")
    np.testing.assert_array_equal(logits_of(numbers, x, lambda a: a.astype(np.int8)), logits_of(numbers, x))

    def repeated(array: np.ndarray) -> np.ndarray:
        return np.broadcast_to(array[:1], array.shape)

    one = Model(model.document, {name: repeated(array).copy() for name, array in model.tensors.items()}, "", "")
    np.testing.assert_array_equal(logits_of(model, x, repeated), logits_of(one, x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.astype(np.float64), "network: weight is float64; expected float32"),
        (lambda a: a.astype(np.int64), "network: weight is int64; expected float32"),
        (lambda a: a.astype(np.complex64), "network: weight is complex64; expected float32"),
        (lambda a: a.astype(str), r"network: weight is <U.*; expected float32"),
        (lambda a: "weights", "network: weight is <class 'str'>; expected float32"),
        (lambda a: None, r"network: weight has shape \[\]; expected \[24, 1, 3, 3\]"),
        (lambda a: [[1.0], [2.0, 3.0]], "network: weight is <class 'list'>; expected float32"),
        (lambda a: a[..., 0], r"network: weight has shape \[24, 1, 3\]; expected \[24, 1, 3, 3\]"),
        (lambda a: a.T, r"network: weight has shape \[3, 3, 1, 24\]; expected \[24, 1, 3, 3\]"),
        (lambda a: a[:0], r"network: weight has shape \[0, 1, 3, 3\]; expected \[24, 1, 3, 3\]"),
        (lambda a: a.ravel(), r"network: weight has shape \[216\]; expected \[24, 1, 3, 3\]"),
    ],
)
def test_weights_of_another_type_or_shape_are_refused_in_one_line(model, change, message):
    with pytest.raises(ValueError, match=message) as found:
        make_network(model, *parts_of(model, change))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("out_channels", -1, "expected"),
        ("out_channels", 2**31, "Unable to cast"),
        ("in_channels", 2**31 - 1, "expected"),
        ("kernel", 65536, "expected"),
        ("kernel", 0, "expected"),
        ("window", (0, 1), "must be positive"),
        ("stride", (-(2**31), 1), "must be positive"),
    ],
)
def test_sizes_that_arrays_do_not_have_are_refused(model, field, value, message):
    blocks, head = parts_of(model)
    blocks[0][field] = value
    with pytest.raises((ValueError, RuntimeError), match=message):
        make_network(model, blocks, head)


def test_inputs_are_read_only_where_they_are_what_the_core_reads(model, rng):
    x = inputs_for(model, rng)
    network = make_network(model, *parts_of(model))
    expected = network.run(x)["logits"]
    for name in ("read-only", "subclass", "unaligned"):
        np.testing.assert_array_equal(network.run(LAYOUTS[name](x))["logits"], expected)
    for name in ("fortran", "negative stride", "sliced", "swapped bytes"):
        with pytest.raises(TypeError):
            network.run(LAYOUTS[name](x))
    for other in (x.astype(np.float64), x.astype(np.float16), x.astype(np.int32), np.broadcast_to(x[:1], x.shape)):
        with pytest.raises(TypeError):
            network.run(other)
    with pytest.raises(ValueError, match=r"must be \[batch, height, width\], not 2-dimensional"):
        network.run(x[0])


def test_inputs_without_values_give_none(model, rng):
    height, width = model.document.input_size()
    network = make_network(model, *parts_of(model))
    found = network.run(np.zeros((0, height, width), np.float32), features=True, block_means=True, blocks=True)
    assert [len(found[name]) for name in ("scores", "logits", "features", "block_means")] == [0] * 4
    assert [len(a) for a in found["blocks"]] == [0, 0]
    for shape in ((3, 0, width), (3, height, 0), (10**12, 0, width), (10**9, height, 0), (0, 2**32 + height, width)):
        with pytest.raises(ValueError, match=r"network|conv_block"):
            network.run(np.zeros(shape, np.float32), blocks=True)


def test_the_front_end_refuses_what_it_cannot_read(model, rng):
    melspec = _C.MelSpec(melspec_config(model, *model.document.input_size()), pool=_C.ThreadPool(1))
    waves = rng.uniform(-1, 1, (2, model.document.segments.n_samples)).astype(np.float32)
    expected = melspec.run(waves, pad_left=256, n_frames=16)
    for name in ("read-only", "subclass", "unaligned"):
        np.testing.assert_array_equal(melspec.run(LAYOUTS[name](waves), pad_left=256, n_frames=16), expected)
    for name in ("fortran", "negative stride", "sliced", "swapped bytes"):
        with pytest.raises(TypeError):
            melspec.run(LAYOUTS[name](waves), pad_left=256, n_frames=16)
    assert melspec.run(waves[:0], pad_left=256, n_frames=16).shape == (0, 20, 16)
    for shape in ((2, 0), (10**12, 0)):
        with pytest.raises(ValueError, match="melspec: "):
            melspec.run(np.zeros(shape, np.float32), pad_left=256, n_frames=16)
    for pad_left in (2**63 - 1, -(2**63)):
        with pytest.raises(ValueError, match=f"pad_left={pad_left}; allowed"):
            melspec.run(waves, pad_left=pad_left, n_frames=16)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_engine_takes_a_model_and_waves_in_any_layout(model, rng, layout):
    x = inputs_for(model, rng)
    waves = rng.uniform(-1, 1, (2, model.document.segments.n_samples)).astype(np.float32)
    change = LAYOUTS[layout]
    moved = Model(model.document, {name: change(array) for name, array in model.tensors.items()}, "", "")
    for reduce in (False, True):
        with (
            create_engine(model, threads=1, reduce=reduce) as plain,
            create_engine(moved, threads=1, reduce=reduce) as engine,
        ):
            np.testing.assert_array_equal(engine.scores(waves), plain.scores(waves))
            np.testing.assert_array_equal(engine.scores_of(change(x)), plain.scores_of(x))
            np.testing.assert_array_equal(engine.features(waves, "blocks"), plain.features(waves, "blocks"))
            if layout == "swapped bytes":
                with pytest.raises(ValueError, match=r"waves: >f4 .*expected float32"):
                    engine.scores(change(waves))
            else:
                np.testing.assert_array_equal(engine.scores(change(waves)), plain.scores(waves))
    np.testing.assert_array_equal(oracle.logits(moved, x), oracle.logits(model, x))


def test_an_engine_names_what_is_wrong_with_a_model_made_by_hand(model):
    def made(**changed: Any) -> Model:
        return Model(model.document, {**model.tensors, **{n.replace("_", "."): a for n, a in changed.items()}}, "", "")

    weight = model.tensors["head.weight"]
    for bad, message in (
        (made(head_weight=weight.astype(np.float64)), "head.weight: dtype is float64; must be float32"),
        (made(head_weight=weight.T), r"head.weight: shape is \[240, 7\]; the document needs \[7, 240\]"),
        (made(head_weight=weight.tolist()), "head.weight: is list; must be a NumPy array"),
        (made(head_weight=np.ma.masked_less(weight, 0)), "head.weight: has masked values; fill them first"),
        (made(head_other=weight), "'head.other': unknown tensor"),
        (
            Model(model.document, {n: a for n, a in model.tensors.items() if n != "head.bias"}, "", ""),
            "head.bias: missing",
        ),
    ):
        with pytest.raises(ModelError, match=message):
            create_engine(bad, threads=1)


def test_masked_values_and_what_is_no_number_are_refused(model, rng):
    x = inputs_for(model, rng)
    waves = rng.uniform(-1, 1, (2, model.document.segments.n_samples)).astype(np.float32)
    with create_engine(model, threads=1) as engine:
        np.testing.assert_array_equal(engine.scores(np.ma.array(waves)), engine.scores(waves))
        with pytest.raises(ValueError, match="waves: has masked values; fill them first"):
            engine.scores(np.ma.masked_greater(waves, 0.5))
        with pytest.raises(ValueError, match="x: has masked values; fill them first"):
            engine.scores_of(np.ma.masked_greater(x, 0.5))
        for other in (x.astype(np.complex64), x.astype(object), x.astype(str)):
            with pytest.raises(ValueError, match=r"x: .*; expected float32"):
                engine.scores_of(other)


FREED = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[1])
import test_bindings
from support.make_models import block, make_model
model = make_model(np.random.default_rng(1), [block(64, window=(4, 4))], n_tags=50)
x = np.random.default_rng(2).standard_normal((1, *model.document.input_size())).astype(np.float32)
expected = test_bindings.logits_of(model, x)
found = test_bindings.logits_of(model, x, np.asfortranarray)
assert np.array_equal(found, expected), (found, expected)
"""


def test_a_copy_of_an_array_lives_as_long_as_it_is_read():
    """With freed memory overwritten, as another allocation would."""
    subprocess.run(
        [sys.executable, "-c", FREED, os.path.dirname(__file__)],
        env={**os.environ, "MALLOC_PERTURB_": "165"},
        check=True,
    )


def test_an_array_cannot_be_resized_while_it_is_read(model, rng):
    """``resize(refcheck=False)`` would free the memory that a thread reads without Python's lock."""
    x = inputs_for(model, rng, 16)
    base = np.concatenate([x, x])
    network = make_network(model, *parts_of(model))
    for owner, given in ((x, x), (base, base[3:])):
        stop = threading.Event()

        def read(given: np.ndarray = given, stop: threading.Event = stop) -> None:
            while not stop.is_set():
                network.run(given)

        thread = threading.Thread(target=read)
        thread.start()
        try:
            end = time.monotonic() + 60
            while not weakref.getweakrefcount(owner) and time.monotonic() < end:
                pass
            pinned = weakref.getweakrefcount(owner)
        finally:
            stop.set()
            thread.join()
        assert pinned > 0
        assert weakref.getweakrefcount(owner) == 0
    held = weakref.ref(x)
    with pytest.raises(ValueError, match="references"):  # what a weak reference does to it
        x.resize((1,), refcheck=False)
    assert held() is x
