"""The input that a model is validated on: noise, random maps, a synthetic piece, and windows of sound files."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import demo
from ..audio.open import open_track
from ..pipeline.decode import read_windows
from ..pipeline.segments import plan_segments

if TYPE_CHECKING:
    from ..model.document import ModelDocument

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Case:
    """Segments for the front end, or an input for the network alone.

    Attributes
    ----------
    name : for people; that of a file is its path
    waves : [B, n_samples] float32 at the model's rate, or None
    x : [B, H, W] float32, where ``waves`` is None
    """

    name: str
    waves: Array | None = None
    x: Array | None = None


def built_in(document: ModelDocument, seed: int = 0) -> list[Case]:
    """White noise that swells from -60 dB to full scale; a normal random network input; the piece of ``fcntag demo``.

    The random input meets both signs in every pixel, which log-mels of sounds do not.
    """
    rng = np.random.default_rng(seed)
    n_samples = document.segments.n_samples
    swell = np.geomspace(1e-3, 1.0, n_samples)
    noise = (swell * rng.uniform(-1.0, 1.0, n_samples)).astype(np.float32)
    normal = rng.standard_normal((1, *document.input_size())).astype(np.float32)
    piece = demo.synthesise(seed).mean(axis=1)  # as if it had been recorded at the model's rate
    quiet = 1e-4 * rng.standard_normal(n_samples)  # no recording is silent to the last bit
    return [
        Case("noise", waves=noise[None]),
        Case("random input", x=normal),
        Case("synthetic piece", waves=(np.resize(piece, n_samples) + quiet).astype(np.float32)[None]),
    ]


def of_file(document: ModelDocument, path: str, windows: int = 1) -> Case:
    """Up to ``windows`` of a track's windows, spread evenly: the one in the middle, if one. Raises AudioError."""
    segments = dataclasses.replace(document.segments, min_samples=0)  # whole windows only: maps of one size
    with open_track(path) as track:
        plan = plan_segments(segments, document.frontend, track.length(document.frontend.sample_rate))
        count = min(windows, len(plan.starts))
        chosen = [plan.starts[int((k + 0.5) * len(plan.starts) / count)] for k in range(count)]
        plan = dataclasses.replace(plan, starts=chosen)
        return Case(track.name, waves=np.stack(list(read_windows(track, plan))))
