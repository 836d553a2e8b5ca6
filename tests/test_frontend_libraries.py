"""Every recipe of docs/frontends.md against the library that it names: the oracle, and the engine on the CPU."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.frontend_recipes import audio, frontend_of, recipes
from support.make_models import block, make_model
from support.numerics import max_abs

from fcntag import oracle
from fcntag.engine import create_engine

# In units of the log. The libraries compute in float32: an FFT keeps about six digits of its largest bin, and the log
# of a band far below shows them. The tolerances are some five times what was seen with the pinned versions.
# torchaudio's is larger since its HTK filters come from edges in float32, and essentia's since its window and filters
# are tables of float32.
TOLERANCE = {
    "librosa": 5e-5,
    "librosa, amplitude": 5e-5,
    "torchaudio": 1e-2,
    "torchaudio, log of a shorter window": 1e-4,
    "nnAudio": 5e-5,
    "torchlibrosa": 5e-4,
    "kapre": 1e-3,
    "tf.signal": 1e-4,
    "tf.signal, padded at the end": 1e-4,
    "essentia": 2e-3,
}
MODULES = {"tf.signal": "tensorflow"}  # where the module is not called as the library


def library_of(name: str) -> str:
    return name.partition(",")[0]


def test_the_page_has_a_recipe_for_every_library() -> None:
    found = recipes()
    assert set(found) == set(TOLERANCE)
    libraries = {library_of(name) for name in found}
    assert libraries == {"librosa", "torchaudio", "nnAudio", "torchlibrosa", "kapre", "tf.signal", "essentia"}


@pytest.mark.parametrize(
    "together", [("kapre", "tf.signal"), ("librosa", "torchaudio", "nnAudio", "torchlibrosa", "essentia")]
)
def test_the_recipes_are_the_libraries(together: tuple[str, ...], tmp_path: Path, rng: np.random.Generator) -> None:
    """TensorFlow takes ten seconds to start: what needs it shares a process."""
    missing = [library for library in together if importlib.util.find_spec(MODULES.get(library, library)) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    names = [name for name in TOLERANCE if library_of(name) in together]
    command = [sys.executable, "-m", "support.frontend_recipes", str(tmp_path / "theirs.npz"), *names]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "theirs.npz") as results:
        theirs = {name: results[name].astype(np.float64) for name in names}
    for name in names:
        settings = recipes()[name][1]
        frontend = frontend_of(settings)
        wave = audio(frontend.sample_rate)
        ours = oracle.log_mel(frontend, wave[None])[0]
        assert ours.shape == theirs[name].shape, name
        assert max_abs(ours, theirs[name]) <= TOLERANCE[name], name
        assert ours.std() > 100 * TOLERANCE[name], name  # other settings would be far off
        fields = {key: getattr(frontend, key) for key in settings}
        model = make_model(rng, [block(2, window=(1, 1))], n_samples=len(wave), flatten="max", **fields)
        with create_engine(model, reduce=False) as engine:
            assert max_abs(engine.log_mel(wave[None])[0], theirs[name]) <= TOLERANCE[name], name


def test_the_recipes_differ_from_one_another() -> None:
    """With another recipe's settings the same audio gives other numbers, so that a mix-up would be seen."""
    frontends = [frontend_of(settings) for _, settings in recipes().values() if settings["sample_rate"] == 16000]
    wave = audio(16000)
    images = [oracle.log_mel(frontend, wave[None])[0] for frontend in frontends]
    assert len(images) >= 4
    for i, one in enumerate(images):
        for other in images[i + 1 :]:
            assert one.shape != other.shape or max_abs(one, other) > 0.1
