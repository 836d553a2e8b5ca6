#!/usr/bin/env python3
"""Render a tagged dataset from the scores that music21 ships and two free soundfonts: clips, dataset.csv, manifest.

    pip install "fcntag[render]" && pip install --no-deps tinysoundfont  # its PyAudio would only play sound
    apt-get download fluid-soundfont-gm timgm6mb-soundfont
    for f in *-soundfont*.deb; do dpkg-deb -x $f sf; done
    python recipes/render_music21.py data --train-soundfont sf/usr/share/sounds/sf2/FluidR3_GM.sf2 \
        --test-soundfont sf/usr/share/sounds/sf2/TimGM6mb.sf2

FluidR3 GM (MIT) plays the clips to train and to validate, TimGM6mb (GPL-2; it has no bearing on what is played) those
to test: no sample is in both. Pieces are disjoint by work between the splits, and so are tunes that go by one title or
begin alike. Instruments, tempo, key and reverb are drawn for every clip; the tags say what was drawn. One seed gives
one dataset, on any number of processes. What is there already is not rendered again. render_scores.py lists the
collections and their terms.

Exit codes: 0 ok, 2 usage or a missing package or soundfont, 75 stopped by --stop-after: run it again.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import hashlib
import importlib.metadata
import io
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from render_plan import DRUMS, SECONDS, SPLITS, TAGS, Note, Piece, Plan, events, plan_clips
from render_scores import COLLECTIONS, read_pieces, sources

from fcntag.model.file import write_atomically

# The soundfonts' own rate. At a lower one, the synthesiser would alias, as it has no filters.
SYNTH_RATE = 44100
# Keys go down and up at multiples of so many frames: 1.5 ms.
BLOCK = 64
# The version of the cached scores and of clips.jsonl. Raise it with every change of the clips that a seed gives.
FORMAT = 1
# The exit code of --stop-after.
STOPPED = 75


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    deadline = time.monotonic() + options.stop_after if options.stop_after else float("inf")
    out = Path(options.out)
    try:
        soundfonts = {name: _sha256(name) for name in (options.train_soundfont, options.test_soundfont)}
        pieces, unread, done = load_pieces(out / "scores", options.also, options.jobs, deadline)
        if not done:
            return STOPPED
        counts = {"train": options.train, "validation": options.validation, "test": options.test}
        plans = plan_clips(pieces, counts, options.seed)
        settings = {
            "format": FORMAT,
            "seed": options.seed,
            "rate": options.rate,
            "clips": counts,
            "also": sorted(options.also),
            "train_soundfont": [Path(options.train_soundfont).name, soundfonts[options.train_soundfont]],
            "test_soundfont": [Path(options.test_soundfont).name, soundfonts[options.test_soundfont]],
            "versions": {name: importlib.metadata.version(name) for name in ("music21", "tinysoundfont", "numpy")},
        }
        check_settings(out / "settings.json", settings)
        if not render_all(out, plans, {piece.id: piece for piece in pieces}, options, deadline):
            return STOPPED
        plans = [plan for plan in plans if (out / plan.path).exists()]
        write_dataset(out, plans)
        write_manifest(out, plans, settings, unread)
    except (OSError, ImportError, ValueError, importlib.metadata.PackageNotFoundError) as error:
        print(f"render_music21.py: {error}", file=sys.stderr)
        return 2
    print(out / "dataset.csv")
    return 0


# ---- scores ----


def load_pieces(cache: Path, also: list[str], jobs: int, deadline: float) -> tuple[list[Piece], list[str], bool]:
    """The pieces of the corpus, a line on each score that cannot be read, and False if ``deadline`` came first.

    Each score is read once, into a JSON file of its own.
    """
    import music21

    corpus = Path(music21.__file__).parent / "corpus"
    version = importlib.metadata.version("music21")
    tasks = []
    for collection, path in sources(corpus, also):
        name = str(path.relative_to(corpus)).replace("/", "_")
        tasks.append((collection, path, corpus, cache / f"{version}-{FORMAT}" / f"{name}.json"))
    missing = [task for task in tasks if not task[-1].exists()]
    if not run_all(_read_one, missing, jobs, deadline, "scores read"):
        return [], [], False
    pieces, unread = [], []
    for *_, file in tasks:
        data = json.loads(file.read_text(encoding="utf-8"))
        unread += data["unread"]
        for piece in data["pieces"]:
            parts = tuple(tuple(Note(*note) for note in part) for part in piece.pop("parts"))
            pieces.append(Piece(**{**piece, "titles": tuple(piece["titles"]), "parts": parts}))
    return pieces, unread, True


def _read_one(task: tuple[str, Path, Path, Path]) -> None:
    collection, path, corpus, file = task
    pieces, unread = read_pieces(collection, path, corpus)
    data = {"pieces": [dataclasses.asdict(piece) for piece in pieces], "unread": unread}
    write_atomically(file, json.dumps(data, separators=(",", ":")).encode())


# ---- sound ----

# Path -> (Synth, id) of the soundfonts that this process has read, which takes longer than a clip.
_soundfonts: dict[str, Any] = {}


def render(piece: Piece, plan: Plan, soundfont: str, rate: int) -> np.ndarray:
    """Mono float32 [SECONDS * rate] of one clip, peak 0.9."""
    import soxr
    import tinysoundfont

    if soundfont not in _soundfonts:
        synth = tinysoundfont.Synth(samplerate=SYNTH_RATE, gain=-12)
        _soundfonts[soundfont] = (synth, synth.sfload(soundfont))
    synth, number = _soundfonts[soundfont]
    # Voices that are cut off fade for some ms. Those of the clip before must not reach into this one.
    synth.sounds_off()
    synth.generate(SYNTH_RATE // 2)
    channels = [k if k < 9 else k + 1 for k in range(15)]  # channel 9 is that of the drums
    for k, voice in enumerate(plan.voices):
        if voice.program == DRUMS:
            channels[k] = 9
            synth.program_select(9, number, 128, 0, True)
        else:
            synth.program_select(channels[k], number, 0, voice.program)
    n_blocks = int(np.ceil(SECONDS * SYNTH_RATE / BLOCK))
    parts, at = [], 0
    for event in events(piece, plan):
        block = min(int(event.time * SYNTH_RATE / BLOCK), n_blocks)
        if block > at:
            parts.append(np.frombuffer(synth.generate((block - at) * BLOCK), np.float32).copy())
            at = block
        if event.velocity:
            synth.noteon(channels[event.voice], event.key, event.velocity)
        else:
            synth.noteoff(channels[event.voice], event.key)
    if at < n_blocks:
        parts.append(np.frombuffer(synth.generate((n_blocks - at) * BLOCK), np.float32).copy())
    mono = np.concatenate(parts).reshape(-1, 2).mean(1)
    sound = soxr.resample(mono, SYNTH_RATE, rate, "HQ")[: round(SECONDS * rate)]
    if plan.reverb_s:
        sound = reverb(sound, rate, plan)
    peak = float(np.abs(sound).max())
    if not np.isfinite(peak) or peak == 0.0:
        raise ValueError(f"{plan.path}: silent")
    return (0.9 / peak * sound).astype(np.float32)


def reverb(sound: np.ndarray, rate: int, plan: Plan) -> np.ndarray:
    """The sound in a room: a share ``plan.wet`` is convolved with noise that falls by 60 dB in ``plan.reverb_s`` s."""
    rng = np.random.default_rng(list(plan.path.encode()))
    n = round(plan.reverb_s * rate)
    tail = rng.standard_normal(n) * 10 ** (-3 * np.arange(n) / n)
    tail[: rate // 100] *= np.linspace(0, 1, rate // 100)  # the walls are some metres away
    size = 1 << (len(sound) + n - 1).bit_length()
    wet = np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(tail, size), size)[: len(sound)]
    wet *= np.sqrt((sound**2).sum() / max((wet**2).sum(), 1e-20))
    return (1 - plan.wet) * sound + plan.wet * wet


def render_all(
    out: Path, plans: list[Plan], pieces: dict[str, Piece], options: argparse.Namespace, deadline: float
) -> bool:
    """Render the clips that are missing; False if ``deadline`` came first."""
    tasks = []
    for plan in plans:
        if not (out / plan.path).exists():
            soundfont = options.test_soundfont if plan.split == "test" else options.train_soundfont
            tasks.append((pieces[plan.piece], plan, soundfont, options.rate, out / plan.path))
    return run_all(_render_one, tasks, options.jobs, deadline, "clips rendered")


def _render_one(task: tuple[Piece, Plan, str, int, Path]) -> None:
    import soundfile

    piece, plan, soundfont, rate, file = task
    buffer = io.BytesIO()
    try:
        sound = render(piece, plan, soundfont, rate)
    except ValueError as error:  # one clip less; the others go on
        print(f"left out: {error}", file=sys.stderr, flush=True)
        return
    soundfile.write(buffer, sound, rate, format="FLAC", subtype="PCM_16")
    write_atomically(file, buffer.getvalue())


def run_all(function: Callable[[Any], None], tasks: list[Any], jobs: int, deadline: float, what: str) -> bool:
    """Run the tasks in ``jobs`` processes; False if ``deadline`` came first. Tasks that run then are finished."""
    if not tasks:
        return True
    started, done, left = time.monotonic(), 0, iter(tasks)

    def say() -> None:
        seconds = time.monotonic() - started
        print(f"{what}: {done} of {len(tasks)}, {seconds / max(done, 1):.3f} s each", file=sys.stderr, flush=True)

    with ProcessPoolExecutor(jobs) as pool:
        running = {pool.submit(function, task) for task in islice(left, 2 * jobs)}
        while running:
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                future.result()
                done += 1
                if done % 100 == 0:
                    say()
            if time.monotonic() < deadline:
                running |= {pool.submit(function, task) for task in islice(left, len(finished))}
    say()
    return done == len(tasks)


# ---- the files beside the clips ----


def check_settings(file: Path, settings: dict[str, Any]) -> None:
    """Raise ValueError if the folder has clips of other settings, which must not be taken for these."""
    if file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        changed = sorted(name for name in settings if before.get(name) != settings[name])
        if changed:
            raise ValueError(f"{file.parent}: made with another {', '.join(changed)}; choose another folder")
    write_atomically(file, (json.dumps(settings, indent=1) + "\n").encode())


def write_dataset(out: Path, plans: list[Plan]) -> None:
    """dataset.csv (path, split, a column a tag) for train.py and fcntag eval, and SPLIT.csv without the split.

    Tags that no clip has (a style that was left out) get no column.
    """
    tags = [tag for tag in TAGS if any(tag in plan.tags for plan in plans)]
    for name, chosen in {"dataset": plans, **{s: [p for p in plans if p.split == s] for s in SPLITS}}.items():
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        split = ["split"] if name == "dataset" else []
        writer.writerow(["path", *split, *tags])
        for plan in chosen:
            writer.writerow([plan.path, *([plan.split] if split else []), *(int(tag in plan.tags) for tag in tags)])
        write_atomically(out / f"{name}.csv", text.getvalue().encode())


def write_manifest(out: Path, plans: list[Plan], settings: dict[str, Any], unread: list[str]) -> None:
    """Write clips.jsonl, with every clip's plan and sha256, and manifest.json, with settings, versions and counts."""
    lines = []
    for plan in plans:
        lines.append(json.dumps({**dataclasses.asdict(plan), "tags": plan.tags, "sha256": _sha256(out / plan.path)}))
    data = ("\n".join(lines) + "\n").encode()
    write_atomically(out / "clips.jsonl", data)
    tags = {split: Counter(tag for p in plans if p.split == split for tag in p.tags) for split in SPLITS}
    manifest = {
        **settings,
        "collections": {
            name: c.style for name, c in COLLECTIONS.items() if c.taken == "used" or name in settings["also"]
        },
        "rendered": dict(Counter(plan.split for plan in plans)),
        "pieces": {split: len({plan.piece for plan in plans if plan.split == split}) for split in SPLITS},
        "tag_counts": {tag: {split: tags[split][tag] for split in SPLITS} for tag in TAGS},
        "bytes": sum((out / plan.path).stat().st_size for plan in plans),
        "clips_sha256": hashlib.sha256(data).hexdigest(),
        "unread_scores": unread,
    }
    write_atomically(out / "manifest.json", (json.dumps(manifest, indent=1) + "\n").encode())


def _sha256(path: str | os.PathLike[str]) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in _blocks(file):
            digest.update(block)
    return digest.hexdigest()


def _blocks(file: io.BufferedReader) -> Iterator[bytes]:
    while block := file.read(1 << 20):
        yield block


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", help="folder for the dataset")
    parser.add_argument("--train-soundfont", required=True, metavar="SF2", help="for training and validation")
    parser.add_argument("--test-soundfont", required=True, metavar="SF2", help="for the test")
    for split, default in (("train", 2000), ("validation", 300), ("test", 500)):
        parser.add_argument(f"--{split}", type=int, default=default, metavar="N", help=f"clips (default: {default})")
    also = sorted(name for name, collection in COLLECTIONS.items() if collection.taken == "also")
    parser.add_argument(
        "--also", action="append", default=[], choices=also, help="collections whose rights are reserved"
    )
    parser.add_argument("--rate", type=int, default=12000, metavar="HZ", help="of the clips (default: 12000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes")
    parser.add_argument("--stop-after", type=float, default=0.0, metavar="S", help="exit 75; run again to go on")
    return parser


if __name__ == "__main__":
    sys.exit(main())
