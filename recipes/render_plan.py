"""The plan of every clip: split, instruments, tempo, key, room and tags, which follow from the pieces and the seed."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

# Length of a clip, a little more than the 29.12 s that the paper's networks take.
SECONDS = 29.5
SPLITS = ("train", "validation", "test")
# The splits' shares of the works of each style.
SHARES = (0.7, 0.1, 0.2)
# A style of fewer works is left out: its tag would only name the few pieces that it was trained on.
MIN_WORKS = 8
# So many intervals tell a tune: two tunes that begin with the same ones are taken for one.
INCIPIT = 14

# Tag -> General MIDI programs (counted from 0), and the range of keys in which they sound natural.
FAMILIES: dict[str, tuple[tuple[int, ...], tuple[int, int]]] = {
    "piano": ((0, 1, 2, 3), (36, 88)),
    "harpsichord": ((6,), (40, 84)),
    "mallets": ((8, 9, 11, 12, 13), (53, 96)),
    "organ": ((16, 17, 18, 19, 20), (40, 86)),
    "accordion": ((21, 22, 23), (48, 86)),
    "guitar": ((24, 25, 26, 27, 29), (40, 78)),
    "bass": ((32, 33, 34, 35), (28, 52)),
    "strings": ((40, 41, 42, 48, 49, 44), (43, 90)),
    "harp": ((46,), (40, 90)),
    "vocal": ((52, 53), (45, 79)),
    "brass": ((56, 57, 58, 60, 61), (43, 79)),
    "reed": ((64, 65, 66, 68, 70, 71), (46, 84)),
    "flute": ((72, 73, 74, 75, 79), (60, 93)),
    "synth": ((80, 81, 82, 88, 89, 90), (40, 88)),
    "banjo": ((105,), (48, 79)),
    "bagpipe": ((109,), (58, 79)),
}
# How often a family is drawn; the others have 1. A bass is never drawn: it only replaces the lowest part.
WEIGHT = {"vocal": 2.5, "strings": 2.0, "piano": 1.5, "bass": 0.0}
STYLES = ("folk", "medieval", "renaissance", "baroque", "classical", "romantic")
# Beats a minute of each class. The gaps keep the classes apart.
TEMPI = {"slow": (46, 68), "medium": (84, 108), "fast": (132, 176)}
TAGS = (*FAMILIES, "percussion", "instrumental", "solo", "ensemble", *STYLES, *TEMPI)
# The drums have this in place of a program.
DRUMS = -1
# A clip with fewer notes is mostly silence, and another start is drawn.
MIN_NOTES = 12


class Note(NamedTuple):
    """One note of a part: onset and length in quarters, MIDI key."""

    onset: float
    length: float
    key: int


@dataclass(frozen=True)
class Piece:
    """A movement or tune: its parts from the top, each sorted; beat and bar in quarters."""

    id: str  # collection/file, and #number in a file of tunes
    collection: str
    style: str
    titles: tuple[str, ...]
    beat: float
    bar: float
    parts: tuple[tuple[Note, ...], ...]

    @property
    def end(self) -> float:
        """Length in quarters."""
        return max(note.onset + note.length for part in self.parts for note in part)


@dataclass(frozen=True)
class Voice:
    """One part as it is played."""

    family: str
    program: int
    shift: int  # semitones
    velocity: int
    part: int  # of the piece; -1: percussion


@dataclass(frozen=True)
class Plan:
    """One clip: everything that makes its sound, except for the notes and the soundfont."""

    path: str
    split: str
    piece: str
    style: str
    number: int  # which clip of the piece
    start: float  # quarters
    bpm: float  # beats a minute
    tempo: str
    voices: tuple[Voice, ...]
    reverb_s: float  # time to -60 dB; 0: none
    wet: float

    @property
    def tags(self) -> tuple[str, ...]:
        """The clip's tags, in the order of TAGS."""
        families = {voice.family for voice in self.voices}
        pitched = sum(voice.part >= 0 for voice in self.voices)
        has = families | {self.style, self.tempo, "solo" if pitched == 1 and len(self.voices) == 1 else "ensemble"}
        if "vocal" not in families:
            has.add("instrumental")
        return tuple(tag for tag in TAGS if tag in has)


# ---- works and splits ----


def work_of(piece: Piece) -> str:
    """The work that a piece is part of, by its file's name: a folder, opus or cycle. A tune is a work of its own."""
    folder, _, file = piece.id.rpartition("/")
    if folder != piece.collection:
        return folder
    if "#" in file:
        return piece.id
    # Songs of one cycle, or pieces of one opus, have names that differ in a number at the end.
    return f"{folder}/{re.sub(r'[-_ ]?(no|n|mov|movement)[-_ ]?[0-9]+[a-z]?$', '', file.lower())}"


def incipit(piece: Piece) -> str | None:
    """The first intervals of the top part, which are the same in every key; None for a part that is too short."""
    keys = [note.key for note in piece.parts[0]][: INCIPIT + 1]
    if len(keys) <= INCIPIT:
        return None
    return ",".join(str(b - a) for a, b in pairwise(keys))


def plain_title(title: str) -> str:
    """A title without case, articles, kinds of dance and punctuation; "" if nothing is left."""
    words = re.sub(r"[^a-z0-9 ]", "", title.lower().replace("-", " ")).split()
    dull = {"the", "a", "an", "or", "reel", "jig", "hornpipe", "strathspey", "no", "air", "march", "dance"}
    return " ".join(word for word in words if word not in dull)


def group_works(pieces: list[Piece]) -> dict[str, str]:
    """Piece id -> the smallest id of its group. Pieces of one work, of one title, or with one incipit are a group."""
    parent = {piece.id: piece.id for piece in pieces}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    first: dict[tuple[str, str], str] = {}
    for piece in pieces:
        names = [("work", work_of(piece)), *(("title", plain_title(title)) for title in piece.titles)]
        tune = incipit(piece)
        for key in [*names, *([("tune", tune)] if tune else [])]:
            if not key[1]:
                continue
            a, b = root(piece.id), root(first.setdefault(key, piece.id))
            parent[max(a, b)] = min(a, b)
    return {piece.id: root(piece.id) for piece in pieces}


def assign_splits(pieces: list[Piece], seed: int) -> dict[str, str]:
    """Piece id -> split. Groups stay whole. Each split gets its share of every style's, at least one if there are 3."""
    group_of = group_works(pieces)
    styles: dict[str, set[str]] = defaultdict(set)
    for piece in sorted(pieces, key=lambda piece: piece.id):
        styles[piece.style].add(group_of[piece.id])
    split_of: dict[str, str] = {}
    for style in sorted(styles):
        groups = sorted(styles[style] - split_of.keys(), key=lambda name: _hash(seed, style, name))
        if len(groups) < 3:
            split_of |= dict.fromkeys(groups, "train")
            continue
        n_test, n_validation = (max(1, round(share * len(groups))) for share in (SHARES[2], SHARES[1]))
        for k, group in enumerate(groups):
            split_of[group] = "test" if k < n_test else "validation" if k < n_test + n_validation else "train"
    return {piece.id: split_of[group_of[piece.id]] for piece in pieces}


# ---- clips ----


def plan_clips(pieces: list[Piece], counts: dict[str, int], seed: int) -> list[Plan]:
    """``counts[split]`` clips of each split.

    A style's share grows with the cube root of its pieces, so that thousands of tunes leave room for the rest. Within a
    style the pieces take turns, each time with other instruments. A style of fewer than MIN_WORKS works is left out.
    """
    groups = {(piece.style, group) for piece, group in zip(pieces, group_works(pieces).values(), strict=True)}
    works = Counter(style for style, _ in groups)
    pieces = [piece for piece in pieces if works[piece.style] >= MIN_WORKS]
    split_of = assign_splits(pieces, seed)
    plans = []
    for split in SPLITS:
        styles: dict[str, list[Piece]] = defaultdict(list)
        for piece in sorted(pieces, key=lambda piece: _hash(seed, "order", piece.id)):
            if split_of[piece.id] == split:
                styles[piece.style].append(piece)
        weights = {style: len(found) ** (1 / 3) for style, found in sorted(styles.items())}
        done, total = 0, sum(weights.values())
        reached = 0.0
        for style, weight in weights.items():
            reached += weight
            upto = round(counts.get(split, 0) * reached / total)
            for k in range(upto - done):
                turn, index = divmod(k, len(styles[style]))
                plan = draw(styles[style][index], split, turn, seed)
                if plan is not None:
                    plans.append(plan)
            done = upto
    return plans


def draw(piece: Piece, split: str, number: int, seed: int) -> Plan | None:
    """Clip ``number`` of a piece, which follows from seed, piece and number; None if the piece has too few notes."""
    digest = _hash(seed, piece.id, str(number))
    rng = np.random.default_rng(list(bytes.fromhex(digest)))
    tempo = str(rng.choice(list(TEMPI)))
    low, high = TEMPI[tempo]
    bpm = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    length = SECONDS / 60 * bpm * piece.beat
    start = 0.0
    if piece.style != "folk" and piece.end > length:  # tunes are played from their beginning, over and over
        for _ in range(20):
            start = float(np.floor(rng.uniform(0, piece.end - length) / piece.bar) * piece.bar)
            if _sounding(piece, start, length) >= MIN_NOTES:
                break
    if _sounding(piece, start, length) < min(MIN_NOTES, 6):
        return None
    reverb_s = 0.0 if rng.random() < 0.25 else float(rng.uniform(0.3, 2.5))
    return Plan(
        # The digest keeps names apart that differ in odd characters only.
        path=f"{split}/{re.sub('[^A-Za-z0-9.-]+', '_', piece.id)}-{digest[:6]}.flac",
        split=split,
        piece=piece.id,
        style=piece.style,
        number=number,
        start=start,
        bpm=round(bpm, 3),
        tempo=tempo,
        voices=_voices(piece, start, length, rng),
        reverb_s=round(reverb_s, 3),
        wet=round(float(rng.uniform(0.05, 0.3)), 3) if reverb_s else 0.0,
    )


def _sounding(piece: Piece, start: float, length: float) -> int:
    return sum(start <= note.onset < start + length for part in piece.parts for note in part)


def _voices(piece: Piece, start: float, length: float, rng: np.random.Generator) -> tuple[Voice, ...]:
    """Draw the instruments: one family for all parts, or one for each. A tune may be doubled, or have drums as well."""
    names = list(FAMILIES)
    weights = np.array([WEIGHT.get(name, 1.0) for name in names])
    transpose = int(rng.integers(-4, 5))
    parts = [k for k, part in enumerate(piece.parts) if any(start <= n.onset < start + length for n in part)][:12]
    alone = len(parts) == 1
    if alone:
        copies = int(rng.choice((1, 2, 3), p=(0.55, 0.3, 0.15)))
        players = parts * copies
    else:
        players = parts
    same = not alone and rng.random() < 0.45
    n_families = 1 if same or len(players) == 1 else min(len(players), 4)
    chosen = [str(name) for name in rng.choice(names, n_families, replace=False, p=weights / weights.sum())]
    voices = []
    for k, part in enumerate(players):
        keys = np.array([note.key for note in piece.parts[part]]) + transpose
        family = chosen[k % n_families]
        lowest = k == len(players) - 1 and len(players) > 1
        if lowest and family != "vocal" and not same and rng.random() < 0.3:
            family = "bass"
        programs, (low, high) = FAMILIES[family]
        octave = min(range(-3, 4), key=lambda o: (int(((keys + 12 * o < low) | (keys + 12 * o > high)).sum()), abs(o)))
        program = int(rng.choice(programs))
        voices.append(Voice(family, program, transpose + 12 * octave, int(rng.integers(66, 105)), part))
    if piece.style == "folk" and rng.random() < 0.3:
        voices.append(Voice("percussion", DRUMS, 0, int(rng.integers(55, 95)), -1))
    return tuple(voices)


class Event(NamedTuple):
    """Key ``key`` of voice number ``voice`` goes down (velocity > 0) or up, at ``time`` seconds."""

    time: float
    velocity: int
    voice: int
    key: int


def events(piece: Piece, plan: Plan, seconds: float = SECONDS) -> list[Event]:
    """Key events of a clip in order, up before down at one time. Each is at most some ms late, as people play."""
    rng = np.random.default_rng(list(bytes.fromhex(_hash(0, plan.piece, f"{plan.number} {plan.bpm}"))))
    quarter = 60 / plan.bpm / piece.beat
    loop = -(-piece.end // piece.bar) * piece.bar if plan.style == "folk" else float("inf")
    found: list[Event] = []
    for voice, player in enumerate(plan.voices):
        if player.part < 0:
            found += _drums(piece, quarter, voice, player.velocity, seconds)
            continue
        turn = 0.0
        while turn == 0.0 or (loop < float("inf") and turn * quarter < seconds):
            for note in piece.parts[player.part]:
                time = (note.onset + turn - plan.start) * quarter
                if not 0 <= time < seconds:
                    continue
                time += float(rng.uniform(0, 0.012))
                velocity = int(np.clip(player.velocity + rng.integers(-9, 10), 1, 127))
                key = note.key + player.shift
                if 0 <= key <= 127:
                    length = max(0.05, note.length * quarter * 0.94)
                    found += [Event(time, velocity, voice, key), Event(time + length, 0, voice, key)]
            if loop == float("inf"):
                break
            turn += loop
    return sorted(found)


def _drums(piece: Piece, quarter: float, voice: int, velocity: int, seconds: float) -> list[Event]:
    """Kick on the first beat, snare on the others, closed hat on the halves: GM keys 36, 38, 42."""
    found = []
    per_bar = max(1, round(piece.bar / piece.beat))
    for k in range(int(2 * seconds / (piece.beat * quarter)) + 1):
        time = k * piece.beat * quarter / 2
        keys = [42] if k % 2 else [36 if (k // 2) % per_bar == 0 else 38, 42]
        found += [Event(time, velocity, voice, key) for key in keys if time < seconds]
        found += [Event(time + 0.1, 0, voice, key) for key in keys if time < seconds]
    return found


def _hash(seed: int, *parts: str) -> str:
    return hashlib.sha256("\0".join([str(seed), *parts]).encode()).hexdigest()
