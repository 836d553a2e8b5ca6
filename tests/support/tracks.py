"""Tracks for the tests, made of the demo piece: lengths, rates and formats, good and bad."""

from __future__ import annotations

from pathlib import Path

import soundfile

from fcntag import demo

RATE = 16000
GOOD = ["a-piece.flac", "b-12k.wav", "d-short.wav", "e-16k.wav", "g-8k.ogg", "h-48k.wav", "i-16k.flac"]


def write_tracks(folder: Path) -> None:
    """GOOD, of which one is too short for a window, and two that cannot be tagged."""
    piece = demo.synthesise(0)
    mono = piece.mean(axis=1)
    soundfile.write(folder / "a-piece.flac", piece, 44100)
    soundfile.write(folder / "b-12k.wav", mono[:200_000], 12000)
    (folder / "c-text.mp3").write_text("this is not music")
    soundfile.write(folder / "d-short.wav", mono[:8000], RATE)
    soundfile.write(folder / "e-16k.wav", mono[: 16 * 3000], RATE)
    soundfile.write(folder / "f-empty.wav", mono[:0], RATE)
    soundfile.write(folder / "g-8k.ogg", mono[:150_000], 8000)
    soundfile.write(folder / "h-48k.wav", mono[:200_000], 48000)
    soundfile.write(folder / "i-16k.flac", mono[50_000:400_000], RATE)


def all_tracks(folder: Path) -> list[Path]:
    """Everything in the folder, and one that is not there."""
    return [*sorted(folder.iterdir()), folder / "z-missing.wav"]
