"""The oracle's stored values of benchmarks/gpu: the oracle's own, of every case, and what differs does not pass."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from gpu import cases, correctness, make_oracle, references
from gpu.references import Computed, Recorder, SketchedMaps, Stored, WholeMaps

from fcntag.engine.cuda import CudaEngine

# Sums are stored in float32, and a machine's exp and log may differ in the last bit.
SAME = 1e-6


@pytest.fixture(scope="module")
def stored() -> Stored:
    return Stored()


@pytest.mark.parametrize("shape", [(3, 5, 7, 11), (2, 4000), (1, 1)])
def test_a_sketch_estimates_the_difference(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    expected = rng.standard_normal(shape)
    maps = SketchedMaps.of(expected)
    for scale in (1e-6, 1e-2, 1.0):
        actual = expected + scale * rng.standard_normal(shape)
        true = WholeMaps(expected).relative_l2(actual)
        assert maps.relative_l2(actual) == pytest.approx(true, rel=0.3)  # four deviations for a large map
    assert maps.relative_l2(expected) <= 1e-15


def test_every_element_counts_in_a_sketch(rng: np.random.Generator) -> None:
    """One wrong value among many: its whole size is in the estimate, wherever it stands."""
    expected = rng.standard_normal((2, 6, 20, 30))
    maps, norm = SketchedMaps.of(expected), float(np.linalg.norm(expected))
    for at in (0, 1, expected.size // 2, expected.size - 1):
        actual = expected.copy()
        actual.flat[at] += 0.5
        assert maps.relative_l2(actual) == pytest.approx(0.5 / norm, rel=1e-9)
    assert maps.relative_l2(expected[:, :5]) == float("inf")
    actual.flat[7] = np.nan
    assert maps.relative_l2(actual) == float("inf")
    swapped = expected[:, ::-1].copy()
    assert maps.relative_l2(swapped) > 0.5
    nothing = SketchedMaps.of(np.zeros((2, 3)))
    assert (nothing.relative_l2(np.zeros((2, 3))), nothing.relative_l2(np.ones((2, 3)))) == (0.0, float("inf"))


def test_every_case_is_stored(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a change of the cases, the paper's networks or the embedded models: run benchmarks/gpu/make_oracle.py."""

    class Silent(Computed):
        """The oracle, which need not compute what this test counts."""

        def network(self, name: str, model: Any, x: np.ndarray) -> Any:
            return None

        def log_mel(self, name: str, model: Any, waves: np.ndarray) -> Any:
            return None

        def scores(self, name: str, model: Any, waves: np.ndarray, made_of: Any = None) -> Any:
            return None

    monkeypatch.setattr(references, "Computed", Silent)
    asked = Stored()
    make_oracle.ask_for_everything(make_oracle.Asker(asked, lambda _: None))
    assert asked.recomputed == []
    assert references.STORED.stat().st_size < 1_000_000


NETWORKS = ("single pixel", "pool (2, 3) stride (1, 2), 5 to 7 channels", *cases.SMALL)


@pytest.mark.parametrize("name", NETWORKS)
def test_stored_networks_are_the_oracles(name: str, stored: Stored) -> None:
    model = cases.network(name)
    x = cases.inputs(name, model, 3)
    found, expected = stored.network(name, model, x), Computed().network(name, model, x)
    assert len(found.maps) == len(expected.maps)
    for kept, computed in zip(found.maps, expected.maps, strict=True):
        assert isinstance(kept, SketchedMaps)
        assert isinstance(computed, WholeMaps)
        assert kept.relative_l2(computed.values) <= SAME
    np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-9, atol=1e-12)
    for precision in references.ROUNDED:
        np.testing.assert_allclose(found.rounded(precision), expected.rounded(precision), rtol=1e-3)


@pytest.mark.parametrize("name", ["Theano", "MFCC, floored", "standardised"])
def test_stored_front_ends_are_the_oracles(name: str, stored: Stored) -> None:
    model, case = cases.tiny(**cases.FRONT_ENDS[name]), f"front end, {name}"
    waves = cases.sounds(case, model, 3)
    computed = Computed().log_mel(case, model, waves)
    assert isinstance(computed, WholeMaps)
    kept = stored.log_mel(case, model, waves)
    assert isinstance(kept, SketchedMaps)
    assert kept.relative_l2(computed.values) <= SAME


def test_stored_scores_are_the_oracles(stored: Stored) -> None:
    model = cases.tiny()
    for name, _, pcm, mono in cases.pcm_sounds(model):
        found = stored.scores(name, model, mono, made_of=pcm)
        np.testing.assert_allclose(found, Computed().scores(name, model, mono), atol=1e-9)
    from fcntag.bench.cuda.group import random_clips
    from fcntag.catalogue.names import load_any

    model, _ = load_any("mtt-vgg")
    for name, waves in (
        ("mtt-vgg", cases.sounds("mtt-vgg", model, 2)),
        ("bench, mtt-vgg", random_clips(model)[:1]),
    ):
        np.testing.assert_allclose(stored.scores(name, model, waves), Computed().scores(name, model, waves), atol=1e-9)
    assert stored.recomputed == []


def test_other_weights_or_inputs_are_computed() -> None:
    stored = Stored()
    (name, *_) = cases.SMALL
    model = cases.network(name)
    x = cases.inputs(name, model, 3)
    found = stored.network(name, model, x + np.float32(1))
    assert isinstance(found.maps[0], WholeMaps)
    other = dataclasses.replace(model, tensors={**model.tensors, "head.bias": model.tensors["head.bias"] + 1})
    assert isinstance(stored.network(name, other, x).maps[0], WholeMaps)
    assert stored.known_scores("tiny, same bits", other, x) is None
    assert stored.recomputed == [name, name]


def test_a_file_of_another_format_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    model = cases.tiny()
    waves = cases.sounds("x", model, 1)
    recorder.scores("x", model, waves)
    references.write(tmp_path / "a.safetensors", recorder.tensors)
    np.testing.assert_array_equal(
        Stored(tmp_path / "a.safetensors").scores("x", model, waves), Computed().scores("x", model, waves)
    )
    monkeypatch.setattr(references, "FORMAT", "2")
    with pytest.raises(ValueError, match="format '1'; this version reads '2'"):
        Stored(tmp_path / "a.safetensors")


def test_sounds_and_inputs_are_the_same_everywhere() -> None:
    """Integers and the generator's own bits made them: these are the first values on every machine."""
    model = cases.tiny()
    waves = cases.sounds("x", model, 2)
    assert waves.dtype == np.float32
    np.testing.assert_array_equal(waves * (1 << 17), np.round(waves * (1 << 17)))
    assert 0.05 < waves.std() < 0.2
    assert np.abs(waves).max() < 1
    assert not np.array_equal(waves[0], waves[1])
    x = cases.inputs("x", model, 2, -3.0, 2.0)
    assert x.dtype == np.float32
    assert (x.mean(), x.std()) == (pytest.approx(-3.0, abs=0.1), pytest.approx(2.0, abs=0.1))


# ---- the engine by stored values, on the emulator ----


def test_the_engine_passes_by_stored_values_and_a_wrong_one_does_not(
    emulated_core: Any, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(correctness, "SMALL", dict(list(cases.SMALL.items())[:1]))
    monkeypatch.setattr(cases, "FRONT_ENDS", dict(list(cases.FRONT_ENDS.items())[:1]))
    options = {"references": stored, "precisions": ("float32", "bfloat16"), "say": lambda _: None}
    found = correctness.check(emulated_core, **options)
    assert not [row for row in found["rows"] if not row["passed"]]
    assert stored.recomputed == []
    json.dumps(found, allow_nan=False)
    correct = CudaEngine.blocks
    monkeypatch.setattr(CudaEngine, "blocks", lambda self, x: [m * np.float32(1 + 1e-5) for m in correct(self, x)])
    found = correctness.check(emulated_core, **options)
    assert {row["what"] for row in found["rows"] if not row["passed"]} == {
        "block 1, relative L2",
        "block 2, relative L2",
    }


def test_the_smoke_test_sees_wrong_scores(emulated_core: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {
        "references": Computed(),
        "models": ("small",),
        "load": lambda name: cases.tiny(),
        "say": lambda _: None,
    }
    found = correctness.smoke(emulated_core, **options)
    assert found["failed"] == 0
    assert [row["precision"] for row in found["rows"]] == ["bfloat16", "bfloat16", "float32", "float32"]
    correct = CudaEngine.scores
    monkeypatch.setattr(
        CudaEngine, "scores", lambda self, waves: correct(self, waves) + (self.precision == "bfloat16") * 0.02
    )
    found = correctness.smoke(emulated_core, **options)
    assert [(r["precision"], r["what"]) for r in found["rows"] if not r["passed"]] == [("bfloat16", "scores, maximum")]


def test_without_numba_a_line_says_so_and_stored_values_are_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NumPy may be newer than numba allows: then numba refuses to be imported."""
    script = Path(correctness.__file__)
    program = (
        "import sys, runpy; sys.modules['fcntag._cuda'] = None; sys.argv = ['correctness.py', *sys.argv[1:]];"
        f" runpy.run_path({str(script)!r}, run_name='__main__')"
    )
    missing = "import sys; sys.modules['numba'] = None;"

    def run(before: str, *options: str) -> str:
        command = [sys.executable, "-c", before + program, *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        return done.stderr

    folders = [str(script.parents[2] / "tests"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, folders)))
    text = 'correctness: the oracle needs numba, which is not installed: pip install "fcntag[validate]"\n'
    assert run(missing) == text
    assert "correctness: this build of fcntag has no CUDA kernels" in run(missing, "--stored")
    (tmp_path / "numba.py").write_text("raise ImportError('Numba needs NumPy 2.4 or less. Got NumPy 2.5.')")
    text = (
        "correctness: the oracle needs numba, which cannot be imported: Numba needs NumPy 2.4 or less. Got NumPy 2.5.\n"
    )
    assert run(f"import sys; sys.path.insert(0, {str(tmp_path)!r});") == text
