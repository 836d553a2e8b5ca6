"""Datasets for the tests of ``fcntag eval``: small, of the published forms, with real sound and known answers."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile

from fcntag import demo

RATE = 16000
MTT_TAGS = ("rock", "guitar", "no vocals", "techno", "hip hop beats")  # the last is no tag of mtt-vgg


def write_clips(folder: Path, names: Iterable[str], seconds: float = 3.2) -> None:
    """A different stretch of the demo piece for each name, at the model's rate, so that nothing is resampled."""
    piece = demo.synthesise(0).mean(axis=1)
    length = round(seconds * RATE)
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        start = (i * 7919) % (len(piece) - length)
        soundfile.write(path, (0.2 + 0.8 * (i % 5) / 4) * piece[start : start + length], RATE)


def write_mtt(path: Path, clips: dict[str, Iterable[str]], tags: Iterable[str] = MTT_TAGS) -> None:
    """An ``annotations_final.csv``: tab separated and quoted, as the published one."""
    tags = list(tags)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerow(["clip_id", *tags, "mp3_path"])
        for i, (name, has) in enumerate(clips.items()):
            writer.writerow([str(i + 2), *("1" if tag in set(has) else "0" for tag in tags), name])


def random_set(
    rng: np.random.Generator, n_clips: int, n_tags: int, digits: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Labels bool and scores float [n_clips, n_tags]; ``digits``: rounded, so that many scores are equal."""
    labels = rng.random((n_clips, n_tags)) < rng.uniform(0.02, 0.5, n_tags)
    labels[0], labels[1] = True, False
    scores = 1 / (1 + np.exp(-rng.normal(labels * 0.8, 1.0)))
    return labels, scores if digits is None else np.round(scores, digits)
