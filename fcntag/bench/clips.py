"""The clip that the bench tags by default: the demo piece, as long as a clip of the data sets."""

from __future__ import annotations

from pathlib import Path

CLIP_SECONDS = 30.0


def write_clip(folder: Path, seed: int = 0) -> Path:
    """Write 30 s of the demo piece (44.1 kHz, stereo) as MP3, or as WAV where libsndfile cannot encode MP3."""
    import numpy as np
    import soundfile

    from .. import demo

    piece = demo.synthesise(seed)
    n_samples = int(CLIP_SECONDS * demo.SAMPLE_RATE)
    clip = np.tile(piece, (-(-n_samples // len(piece)), 1))[:n_samples]
    kind = "MP3" if "MP3" in soundfile.available_formats() else "WAV"
    path = folder / f"demo-{seed}.{kind.lower()}"
    soundfile.write(path, clip, demo.SAMPLE_RATE, format=kind)
    return path
