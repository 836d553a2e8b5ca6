"""The recipes of docs/frontends.md: their settings, and what their libraries make of a piece of audio.

    python -m support.frontend_recipes OUT.npz NAME...

runs the page's own Python functions, in a process of their own: TensorFlow starts threads, and other tests fork.
"""

from __future__ import annotations

import json
import os
import re
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from fcntag import demo
from fcntag.model.document import Frontend, Log

PAGE = Path(__file__).parents[2] / "docs" / "frontends.md"
RECIPE = re.compile(r"^#{2,3} ([^\n]+)\n(?:(?!^#).)*?```python\n(.*?)```\s*```json\n(.*?)```", re.M | re.S)


def recipes() -> dict[str, tuple[str, dict[str, Any]]]:
    """By heading: the Python code, and the settings."""
    return {name: (code, json.loads(json_text)) for name, code, json_text in RECIPE.findall(PAGE.read_text("utf-8"))}


def frontend_of(settings: dict[str, Any]) -> Frontend:
    return Frontend(**{**settings, "log": Log(**settings["log"])})


def audio(rate: int) -> np.ndarray:
    """Two seconds and a bit of music, mono, float32, at ``rate``, with noise far below it: no band is silent."""
    import soxr

    stereo = demo.synthesise(0).reshape(-1, 2)[44100 : 44100 + 100_000]
    mono = soxr.resample(stereo.mean(axis=1).astype(np.float64), 44100, rate)
    noise = np.random.default_rng(0).standard_normal(len(mono))
    return (0.5 * mono / np.abs(mono).max() + 1e-3 * noise).astype(np.float32)


def without_compiled_torchaudio() -> None:
    """Let torchaudio be imported beside a PyTorch for the CPU.

    The compiled part of its wheels is linked against CUDA's PyTorch, and fails to load. The front ends do not use it.
    """
    stub: Any = types.ModuleType("torchaudio._extension")
    stub._IS_TORCHAUDIO_EXT_AVAILABLE = stub._IS_ALIGN_AVAILABLE = False
    stub.fail_if_no_align = lambda function: function
    stub.lazy_import_sox_ext = None
    sys.modules["torchaudio._extension"] = stub


def main(out: str, names: list[str]) -> None:
    warnings.simplefilter("ignore")
    os.environ["TF_CPP_MIN_LOG_LEVEL"], os.environ["CUDA_VISIBLE_DEVICES"] = "3", ""
    without_compiled_torchaudio()
    results = {}
    for name in names:
        code, settings = recipes()[name]
        scope: dict[str, Any] = {}
        exec(compile(code, str(PAGE), "exec"), scope)  # the page's own code
        results[name] = np.asarray(scope["front_end"](audio(settings["sample_rate"])))
    np.savez(out, **results)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
