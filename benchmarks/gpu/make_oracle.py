"""Writes ``oracle.safetensors``: what the oracle says of every case of correctness.py, and of the bench's clips.

    export PYTHONPATH=.:tests
    python benchmarks/gpu/make_oracle.py

Needs numba, and some minutes. Run it again when the cases, the networks of the paper or the embedded models change;
tests/test_gpu_references.py tells.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gpu import cases, correctness
from gpu.references import STORED, Recorder, References, write

from fcntag.bench.cuda.group import random_clips
from fcntag.catalogue.names import load_any

# The models that quick.py times: the bench compares the first of its random clips with the oracle.
TIMED = ("fcn4", "fcn5-narrow", "mtt-vgg")


class Asker:
    """Asks ``references`` for what a Checker asks for, and runs no engine."""

    def __init__(self, references: References, say: Any = print) -> None:
        self.references, self.begin = references, say

    def whole(self, name: str, model: Any) -> None:
        """As Checker.whole."""
        self.references.scores(name, model, cases.sounds(name, model, 2))
        self.references.network(name, model, cases.inputs(name, model, 2, *cases.WHOLE[name]))

    def invariance(self, name: str, model: Any, repeats: int) -> None:
        """As Checker.invariance."""
        del repeats
        case = f"{name}, same bits"
        self.references.scores(case, model, cases.sounds(case, model, 5)[:1])

    def network(self, name: str, model: Any, x: np.ndarray, batches: tuple[int, ...] = (1,)) -> None:
        """As Checker.network."""
        del batches
        self.references.network(name, model, x)

    def front_end(self, name: str, model: Any) -> None:
        """As Checker.front_end."""
        self.references.log_mel(name, model, cases.sounds(name, model, 3))

    def pcm(self, model: Any) -> None:
        """As Checker.pcm."""
        for name, _, pcm, mono in cases.pcm_sounds(model):
            self.references.scores(name, model, mono, made_of=pcm)

    def mfcc(self, core: Any) -> None:
        """Ask for nothing: its definition takes no time."""

    def bench(self) -> None:
        """The scores that the bench's float32 engine is compared with."""
        for name in TIMED:
            self.begin(f"bench {name}")
            model, _ = load_any(name)
            self.references.scores(f"bench, {name}", model, random_clips(model)[:1])


def ask_for_everything(asker: Asker) -> None:
    """All cases, those of the emulator included."""
    correctness.walk(asker, None, small=False)
    correctness.walk(asker, None, small=True)
    asker.bench()


if __name__ == "__main__":
    recorder = Recorder()
    ask_for_everything(Asker(recorder))
    write(STORED, recorder.tensors)
    print(f"{len(recorder.tensors)} tensors, {STORED.stat().st_size} bytes")
