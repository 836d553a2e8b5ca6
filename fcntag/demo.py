"""A short piece of music made of arithmetic, so that there is something to tag where no recording may ship.

Nine bars in a minor key: plucked strings (Karplus and Strong 1983) over bass, drums and a soft pad. The seed picks
tempo, chords and picking pattern, and all the noise: the same seed gives the same piece.
"""

from __future__ import annotations

import numpy as np

SAMPLE_RATE = 44100
BARS = 9
BEATS = 4  # a bar

# Chords as MIDI notes, bass note first; every progression is in A minor or its relative major.
_PROGRESSIONS = (
    ((45, 57, 60, 64, 69), (41, 53, 57, 60, 65), (48, 55, 60, 64, 67), (43, 55, 59, 62, 67)),  # Am F C G
    ((45, 57, 60, 64, 69), (38, 57, 62, 65, 69), (40, 56, 59, 64, 68), (45, 57, 60, 64, 69)),  # Am Dm E Am
    ((48, 55, 60, 64, 67), (43, 55, 59, 62, 67), (45, 57, 60, 64, 69), (41, 53, 57, 60, 65)),  # C G Am F
)
_PATTERNS = ((1, 2, 3, 4, 3, 2, 3, 2), (1, 3, 2, 4, 2, 3, 2, 3), (1, 2, 4, 3, 2, 4, 3, 2))  # chord notes by eighths


def synthesise(seed: int = 0) -> np.ndarray:
    """The piece, about 20 s.

    Parameters
    ----------
    seed : int >= 0

    Returns
    -------
    float32 [n_samples, 2] at SAMPLE_RATE, peak 0.8
    """
    rng = np.random.default_rng(seed)
    chords = _PROGRESSIONS[rng.integers(len(_PROGRESSIONS))]
    pattern = _PATTERNS[rng.integers(len(_PATTERNS))]
    beat = 60 / rng.uniform(112, 124)  # seconds
    bar = BEATS * beat
    tail = 1.2  # seconds for the last notes to fade
    mix = np.zeros((round((BARS * bar + tail) * SAMPLE_RATE), 2))
    strings: dict[tuple[int, float], np.ndarray] = {}  # each note is plucked once and heard often

    def string(note: int, seconds: float) -> np.ndarray:
        if (note, seconds) not in strings:
            strings[note, seconds] = _pluck(rng, _hz(note), seconds)
        return strings[note, seconds]

    for k in range(BARS):
        start = k * bar
        bass, *notes = chords[k % len(chords)]
        for eighth, index in enumerate(pattern):
            at = start + eighth * beat / 2 + rng.normal(0, 0.004)  # no hand is exact
            loud = (0.55 if eighth % 2 == 0 else 0.42) * rng.uniform(0.9, 1.1)
            _add(mix, at, loud * string(notes[index - 1], 1.6), pan=-0.25 + 0.12 * index)
        for note in notes:  # the chord under the picking, quieter, from the other side
            _add(mix, start + 0.012 * (note % 5), 0.16 * string(note, 2.4), pan=0.35)
        if k >= 2:  # strings alone first
            _add(mix, start, 0.08 * _pad(notes, bar), pan=0.0)
            for at, length in ((0.0, 1.4), (1.5, 0.5), (2.0, 1.4), (3.5, 0.5)):
                _add(mix, start + at * beat, 0.3 * _bass(_hz(bass - 12 if bass > 43 else bass), length * beat), pan=0.0)
            for at in (0.0, 2.0, 2.5):
                _add(mix, start + at * beat, 0.9 * _kick(), pan=0.0)
            for at in (1.0, 3.0):
                _add(mix, start + at * beat, 0.8 * _snare(rng), pan=0.05)
            for eighth in range(2 * BEATS):
                _add(mix, start + eighth * beat / 2, (0.25 if eighth % 2 else 0.4) * _hat(rng), pan=0.3)
    return (0.8 * mix / np.abs(mix).max()).astype(np.float32)


def _hz(note: int) -> float:
    """Frequency of a MIDI note in Hz."""
    return 440.0 * 2.0 ** ((note - 69) / 12)


def _time(seconds: float) -> np.ndarray:
    return np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE


def _add(mix: np.ndarray, at: float, sound: np.ndarray, pan: float) -> None:
    """Add a mono sound at ``at`` seconds; pan -1 (left) to 1 (right), equal power."""
    start = max(0, round(at * SAMPLE_RATE))
    sound = sound[: len(mix) - start]
    angle = (pan + 1) * np.pi / 4
    mix[start : start + len(sound)] += sound[:, None] * (np.cos(angle), np.sin(angle))


def _pluck(rng: np.random.Generator, hz: float, seconds: float) -> np.ndarray:
    """Karplus-Strong string: a burst of noise goes round a delay line that averages neighbours.

    A whole turn of the delay line is one array operation: y_k = 0.5 * (y_{k-1} + y_{k-1} one sample late).
    """
    period = max(2, round(SAMPLE_RATE / hz - 0.5))  # the average delays by half a sample
    turns = -(-round(seconds * SAMPLE_RATE) // period)
    line = rng.uniform(-1, 1, period)
    line = 0.5 * (line + np.roll(line, 1))  # a finger is softer than noise
    line -= line.mean()
    out = np.empty((turns, period))
    damping = 0.5 ** (1 / (0.9 * hz))  # half after 0.9 s, whatever the pitch
    for k in range(turns):
        out[k] = line
        line = damping * 0.5 * (line + np.concatenate((line[-1:], line[:-1])))
    sound = out.ravel()[: round(seconds * SAMPLE_RATE)]
    fade = min(len(sound), SAMPLE_RATE // 20)
    sound[-fade:] *= np.linspace(1, 0, fade)
    return sound


def _bass(hz: float, seconds: float) -> np.ndarray:
    """A round electric bass: few harmonics, each fading faster than the one below."""
    t = _time(seconds)
    sound = sum(np.sin(2 * np.pi * k * hz * t) * np.exp(-(1.2 + k) * t) / k for k in range(1, 6))
    return np.asarray(sound) * np.minimum(1, t / 0.006) * np.minimum(1, (seconds - t) / 0.03)


def _pad(notes: list[int], seconds: float) -> np.ndarray:
    """Soft chords: two detuned sines and an octave a note, slow attack."""
    t = _time(seconds)
    sound = np.zeros(len(t))
    for note in notes:
        for detune, level in ((0.997, 1.0), (1.003, 1.0), (2.0, 0.3)):
            sound += level * np.sin(2 * np.pi * _hz(note) * detune * t + note)
    return sound / len(notes) * np.minimum(1, t / 0.6) * np.minimum(1, (seconds - t) / 0.4)


def _kick() -> np.ndarray:
    """A sine that falls from 150 to 50 Hz."""
    t = _time(0.35)
    phase = 2 * np.pi * (50 * t + 100 * 0.03 * (1 - np.exp(-t / 0.03)))
    return np.sin(phase) * np.exp(-9 * t)


def _snare(rng: np.random.Generator) -> np.ndarray:
    """Noise of the wires over the tone of the drum."""
    t = _time(0.22)
    return 0.8 * rng.uniform(-1, 1, len(t)) * np.exp(-18 * t) + 0.6 * np.sin(2 * np.pi * 190 * t) * np.exp(-25 * t)


def _hat(rng: np.random.Generator) -> np.ndarray:
    """Noise with its low end taken off by differencing twice."""
    t = _time(0.09)
    return np.diff(rng.uniform(-1, 1, len(t) + 2), 2) * np.exp(-45 * t)
