"""As tests/test_bindings.py, for the CUDA module on the emulator."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from support.awkward import LAYOUTS
from support.make_models import block, make_model
from test_bindings import parts_of

from fcntag.engine import CudaEngine
from fcntag.model.file import Model

pytestmark = pytest.mark.usefixtures("cuda_core")


@pytest.fixture
def model(rng) -> Model:
    return make_model(rng, [block(8, affine=True, window=(2, 2)), block(12, window=(3, 3))])


def logits_of(core: ModuleType, model: Model, x: np.ndarray, change=lambda array: array) -> np.ndarray:
    blocks, head = parts_of(model, change)
    height, width = model.document.input_size()
    sizes = dict(height=height, width=width, max_batch=2, precision="float32", device=0)
    assert core.Network.planned_bytes(blocks, head, **sizes) > 0
    return core.Network(blocks, head, **sizes).run(x)["logits"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_in_any_layout_give_the_same_scores(cuda_core, model, rng, layout):
    x = rng.standard_normal((2, *model.document.input_size())).astype(np.float32)
    found = logits_of(cuda_core, model, x, LAYOUTS[layout])
    np.testing.assert_array_equal(found, logits_of(cuda_core, model, x))


def test_weights_of_another_type_or_shape_are_refused(cuda_core, model, rng):
    x = rng.standard_normal((2, *model.document.input_size())).astype(np.float32)
    for change, message in (
        (lambda a: a.astype(np.float64), "weight is float64; expected float32"),
        (lambda a: a.T, "weight has shape"),
        (lambda a: a[:0], "weight has shape"),
    ):
        with pytest.raises(ValueError, match=message):
            logits_of(cuda_core, model, x, change)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_stages_and_scorer_read_waves_in_any_layout_or_refuse_them(model, rng, layout):
    waves = rng.uniform(-1, 1, (2, model.document.segments.n_samples)).astype(np.float32)
    change = LAYOUTS[layout]
    read = layout in ("read-only", "subclass", "unaligned")
    with CudaEngine(model, max_batch=2) as engine:
        for run in (
            lambda waves: engine._melspec.run(waves, pad_left=256, n_frames=8),
            lambda waves: engine._scorer.run(waves, engine._shape(waves.shape[1]))[1],
        ):
            if read:
                np.testing.assert_array_equal(run(change(waves)), run(waves))
            else:
                with pytest.raises(TypeError):
                    run(change(waves))
        if layout != "swapped bytes":
            np.testing.assert_array_equal(engine.scores(change(waves)), engine.scores(waves))


def test_sizes_that_a_stage_was_not_planned_for_are_refused(cuda_core, model):
    mfcc = cuda_core.Mfcc(n_mels=20, n_mfcc=5, device=0)
    assert mfcc.run(np.ones((1, 20, 9), np.float32)).shape == (1, 15, 9)
    with pytest.raises(ValueError, match="mfcc: log_mel of 3 bands; planned for 20"):
        mfcc.run(np.ones((1, 3, 9), np.float32))
    with CudaEngine(model, max_batch=1) as engine:
        shape = engine._shape(model.document.segments.n_samples)
        waves = np.zeros((1, shape[0]), np.float32)
        n_samples, pad_left, n_frames, height, width = shape
        for wrong, message in (
            ((n_samples, pad_left, n_frames, height + 1000, width), "the front end gives 20 rows"),
            ((n_samples, pad_left, n_frames, height, width + 1000), "the front end gives 20 rows"),
            ((n_samples, 2**62, n_frames, height, width), "pad_left=.*; allowed"),
        ):
            with pytest.raises(ValueError, match=message):
                engine._scorer.run(waves, wrong)
        assert [a.shape for a in engine._scorer.run(waves[:0], shape)] == [(0, 7), (0, 7)]


def test_device_arrays_with_a_mask_or_torn_values_are_refused(model):
    with CudaEngine(model, max_batch=1) as engine:
        shape = (1, model.document.segments.n_samples)
        for field, value, message in (
            ("mask", object(), "waves: has a mask"),
            ("strides", (4 * shape[1], 6), r"waves: strides of \[16000, 6\] bytes"),
        ):
            interface = {"typestr": "<f4", "shape": shape, "data": (0, False), "version": 3, field: value}
            with pytest.raises(ValueError, match=message):
                engine.scores(SimpleNamespace(__cuda_array_interface__=interface))
