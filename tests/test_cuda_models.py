"""Every published model and the paper's networks on the emulated GPU, in every precision, against the float64 oracle.

float32 is tied to the original frameworks by the golden tests; here the other precisions follow it.
"""

from __future__ import annotations

import numpy as np
import pytest
from support.cli_runner import run
from support.make_models import block, make_model
from support.model_fixtures import ORIGINAL_FILES
from support.numerics import assert_block, assert_same_top, assert_unpoisoned, max_abs, relative_l2

from fcntag import Tagger, demo, oracle
from fcntag.catalogue.names import load_any
from fcntag.engine.cuda import CudaEngine
from fcntag.validate import tolerances

pytestmark = pytest.mark.usefixtures("cuda_core")

SCORES = {name: value for name, value in tolerances.SCORES.items() if name != "float32"}
EMBEDDED = ("mtt-vgg", "msd-vgg", "msd-vgg-as-shipped")


def window(model, rng):
    """One window of the piece that ``fcntag demo`` plays, with a little noise: no band is silent."""
    n_samples = model.document.segments.n_samples
    piece = np.resize(demo.synthesise().mean(axis=1), n_samples)  # as if it had been played at the model's rate
    return (0.5 * piece + 0.01 * rng.standard_normal(n_samples)).astype(np.float32)[None]


@pytest.mark.parametrize("precision", SCORES)
@pytest.mark.parametrize(
    "name", [*EMBEDDED, *(pytest.param(name, marks=pytest.mark.shared) for name in ORIGINAL_FILES)]
)
def test_models_in_every_precision(models, rng, name, precision):
    model = models(name)
    waves = window(model, rng)
    expected = oracle.scores(model, waves)
    with CudaEngine(model, precision=precision, max_batch=1) as engine:
        scores = engine.scores(waves)
    assert_unpoisoned(scores)
    assert max_abs(scores, expected) <= SCORES[precision]
    assert_same_top(scores[0], expected[0], 5, 2 * SCORES[precision])


@pytest.mark.parametrize(
    ("name", "precision"), [("fcn5-narrow", p) for p in ("float32", *SCORES)] + [("fcn4", "bfloat16")]
)
def test_networks_of_the_paper_at_full_size(rng, name, precision):
    """Random weights. The CPU engine stands in for the oracle, whose loops would take minutes: it is held to 1e-6."""
    from fcntag.engine import CpuEngine

    model, _ = load_any(name)
    x = rng.standard_normal((1, *model.document.input_size())).astype(np.float32)
    with CpuEngine(model) as exact, CudaEngine(model, precision=precision, max_batch=1) as engine:
        expected, logits = exact.logits(x), engine.logits(x)
    assert_unpoisoned(logits)
    assert (
        relative_l2(logits, expected) <= {"float32": 3e-6, "tf32": 2e-3, "float16": 2e-3, "bfloat16": 1.6e-2}[precision]
    )


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-6), ("tf32", 1e-6), ("bfloat16", 3e-4)])
def test_the_first_block_at_full_size(rng, precision, tolerance):
    """96 x 1366 into 128 channels, the largest map of FCN-4, every element.

    float32 arithmetic but for the 16-bit precisions, which round input and weights to 11 bits: 2^-12 each, at most.
    """
    model = make_model(rng, [block(128, window=(2, 4))], n_mels=96, n_samples=349_440, n_tags=2)
    x = rng.standard_normal((2, *model.document.input_size())).astype(np.float32)
    assert x.shape[1:] == (96, 1366)
    with CudaEngine(model, precision=precision, max_batch=2) as engine:
        (ours,) = engine.blocks(x)
    assert_block(ours, oracle.blocks(model, x)[0], tolerance)


def test_the_command_line_tags_on_the_device(capsys, tmp_path, home):
    import soundfile

    path = tmp_path / "piece.wav"
    soundfile.write(path, demo.synthesise()[: 4 * demo.SAMPLE_RATE], demo.SAMPLE_RATE)
    code, out = run(capsys, "tag", path, "-f", "json", "--device", "cuda", "-b", "2")[:2]
    assert code == 0
    assert '"device": "emulated:0"' in out or '"device":"emulated:0"' in out
    with Tagger("mtt-vgg", device="cpu") as cpu, Tagger("mtt-vgg", device="cuda", max_batch=2) as cuda:
        assert max_abs(cuda.tag(path).scores, cpu.tag(path).scores) <= 2e-6
