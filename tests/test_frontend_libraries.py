"""Every recipe of docs/frontends.md against the library that it names: the oracle and the engine.

The page is the test's input: its Python functions are run, and its JSON is the front end of a model.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.make_models import FRONTEND, block, make_model
from support.numerics import max_abs

from fcntag import demo, oracle
from fcntag.engine import create_engine
from fcntag.model.document import Frontend, Log

PAGE = Path(__file__).parents[1] / "docs" / "frontends.md"
RECIPE = re.compile(r"^(#{2,3}) ([^\n]+)\n(?:(?!^#).)*?```python\n(.*?)```\s*```json\n(.*?)```", re.M | re.S)
# The libraries compute in float32, of which an FFT of so many points keeps about six digits of the largest bin. Silent
# bands lie at that floor. In a scale of logarithms their error is larger than elsewhere, so that the floors of the
# recipes decide how near a library comes: in units of the log, of values between 0 and 80 dB or 0 and 10.
TOLERANCE = {
    "librosa": 2e-3,
    "librosa, amplitude": 2e-3,
    "torchaudio": 2e-3,
    "torchaudio, log of a shorter window": 2e-3,
    "nnAudio": 1e-3,
    "torchlibrosa": 2e-3,
    "kapre": 2e-3,
    "tf.signal": 1e-4,
    "tf.signal, padded at the end": 1e-3,
    "essentia": 1e-4,
}


def recipes() -> dict[str, tuple[str, dict[str, Any]]]:
    text = PAGE.read_text(encoding="utf-8")
    return {name: (code, json.loads(settings)) for _, name, code, settings in RECIPE.findall(text)}


def frontend_of(settings: dict[str, Any]) -> Frontend:
    return Frontend(**{**settings, "log": Log(**settings["log"])})


def audio(rate: int) -> np.ndarray:
    """Two seconds and a bit of music, mono, float32, at ``rate``, with noise far below it: no band is silent."""
    import soxr

    stereo = demo.synthesise(0).reshape(-1, 2)[44100 : 44100 + 100_000]
    mono = soxr.resample(stereo.mean(axis=1).astype(np.float64), 44100, rate)
    noise = np.random.default_rng(0).standard_normal(len(mono))
    return (0.5 * mono / np.abs(mono).max() + 1e-3 * noise).astype(np.float32)


def import_or_skip(name: str) -> None:
    """Skip where a library is not installed; one that is there and fails is an error."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    if name == "torchaudio" and "torchaudio" not in sys.modules:
        # Its compiled part is linked against CUDA's PyTorch, and cannot be loaded beside one for the CPU. The front
        # ends do not use it.
        stub = types.ModuleType("torchaudio._extension")
        stub._IS_TORCHAUDIO_EXT_AVAILABLE = stub._IS_ALIGN_AVAILABLE = False
        stub.fail_if_no_align = lambda function: function
        stub.lazy_import_sox_ext = None
        sys.modules["torchaudio._extension"] = stub
    if name in ("tensorflow", "kapre"):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    importlib.import_module(name)


def test_the_page_has_a_recipe_for_every_library() -> None:
    found = recipes()
    assert set(found) == set(TOLERANCE)
    libraries = {name.partition(",")[0] for name in found}
    assert libraries == {"librosa", "torchaudio", "nnAudio", "torchlibrosa", "kapre", "tf.signal", "essentia"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TOLERANCE)
def test_the_recipe_is_the_library(name: str, rng: np.random.Generator) -> None:
    code, settings = recipes()[name]
    library = name.partition(",")[0]
    import_or_skip({"tf.signal": "tensorflow"}.get(library, library))
    frontend, scope = frontend_of(settings), {}
    wave = audio(frontend.sample_rate)
    exec(compile(code, str(PAGE), "exec"), scope)  # the page's own code
    theirs = np.asarray(scope["front_end"](wave), np.float64)
    ours = oracle.log_mel(frontend, wave[None])[0]
    assert ours.shape == theirs.shape
    assert max_abs(ours, theirs) <= TOLERANCE[name]
    # The values vary by far more than the tolerance, so that other settings would not pass.
    assert ours.std() > 100 * TOLERANCE[name]
    fields = {key: getattr(frontend, key) for key in settings}
    model = make_model(rng, [block(2, window=(1, 1))], n_samples=len(wave), flatten="max", **fields)
    with create_engine(model, reduce=False) as engine:
        assert max_abs(engine.log_mel(wave[None])[0], theirs) <= TOLERANCE[name]


def test_the_recipes_differ_from_one_another() -> None:
    """Each recipe's numbers are its own: with another's settings, on the same audio, the values would be far off."""
    of_16_khz = {name: frontend_of(s) for name, (_, s) in recipes().items() if s["sample_rate"] == 16000}
    wave = audio(16000)
    assert len(of_16_khz) >= 4
    shapes = {name: oracle.log_mel(frontend, wave[None])[0] for name, frontend in of_16_khz.items()}
    names = list(shapes)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            a, b = shapes[one], shapes[other]
            assert a.shape != b.shape or max_abs(a, b) > 0.1
