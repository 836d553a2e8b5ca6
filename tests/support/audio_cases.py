"""Shared by the audio tests: the one-shot way that every streamed result has to equal, and small signals."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import soundfile
import soxr

from fcntag.audio import open_track


def music_like(rng: np.random.Generator, n_frames: int, n_channels: int, sample_rate: int) -> np.ndarray:
    """Chirps and noise, a little different in every channel: float32 [n_frames, n_channels] within +-0.9."""
    t = np.arange(n_frames)[:, None] / sample_rate
    base = 110.0 * (1 + np.arange(n_channels))
    sound = 0.4 * np.sin(2 * np.pi * (base * t + 300.0 * t**2 / (1 + t)))
    sound += 0.1 * rng.standard_normal((n_frames, n_channels))
    return np.clip(sound, -0.9, 0.9).astype(np.float32)


def mono_of(samples: np.ndarray) -> np.ndarray:
    """The mono mix [n] of float32 [n, channels]: what librosa.to_mono gives."""
    return samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)


def one_shot(mono: np.ndarray, sample_rate: int, rate: int) -> np.ndarray:
    """soxr HQ of the whole signal, and librosa's length: ceil(n * rate / sample_rate), zero-padded or cut."""
    n = -(-len(mono) * rate // sample_rate)
    out = mono if rate == sample_rate else soxr.resample(mono, sample_rate, rate, quality="HQ")
    return np.pad(out, (0, max(0, n - len(out))))[:n]


def whole(path: Path | bytes, rate: int) -> np.ndarray:
    """Plain soundfile + mix + soxr, in memory."""
    file = io.BytesIO(path) if isinstance(path, bytes) else str(path)
    samples, sample_rate = soundfile.read(file, dtype="float32", always_2d=True)
    return one_shot(mono_of(samples), sample_rate, rate)


def streamed(source: object, rate: int, **options: object) -> np.ndarray:
    """All blocks of a track, joined."""
    with open_track(source, **options) as track:  # type: ignore[arg-type]
        out = np.concatenate(list(track.blocks(rate)))
        assert len(out) == track.length(rate)
        assert not track.length_changed
        return out


def cut_windows(full: np.ndarray, starts: list[int], n_samples: int) -> list[np.ndarray]:
    """The windows of a signal that is in memory, zeros outside."""
    windows = []
    for start in starts:
        window = np.zeros(n_samples, np.float32)
        a, b = max(0, start), min(len(full), start + n_samples)
        if a < b:
            window[a - start : b - start] = full[a:b]
        windows.append(window)
    return windows


def encode(samples: np.ndarray, sample_rate: int, kind: str) -> bytes:
    """``samples`` [n, channels] as the bytes of a file; ``kind``: wav, f32, flac, ogg, opus, mp3 or aiff."""
    formats = {
        "wav": ("WAV", "PCM_16"),
        "f32": ("WAV", "FLOAT"),
        "flac": ("FLAC", "PCM_16"),
        "ogg": ("OGG", "VORBIS"),
        "opus": ("OGG", "OPUS"),
        "mp3": ("MP3", "MPEG_LAYER_III"),
        "aiff": ("AIFF", "PCM_24"),
    }
    file = io.BytesIO()
    container, subtype = formats[kind]
    n_channels = samples.shape[1] if samples.ndim == 2 else 1
    with soundfile.SoundFile(file, "w", sample_rate, n_channels, format=container, subtype=subtype) as out:
        for at in range(0, len(samples), 1 << 15):  # libsndfile's Vorbis encoder overflows the stack on long writes
            out.write(samples[at : at + (1 << 15)])
    return file.getvalue()


def plain_decoder(data: bytes) -> np.ndarray | None:
    """The mono mix of all that soundfile gives of a file in one read, without fcntag; None where it gives nothing.

    Where it breaks off with an error, what it had delivered counts.
    """

    class Sequential(soundfile.SoundFile):
        def seekable(self) -> bool:
            return False

    try:
        file = Sequential(io.BytesIO(data))
    except soundfile.LibsndfileError:
        return None
    buffer = np.full((min(file.frames, 1 << 20), file.channels), np.nan, np.float32)
    try:
        buffer = buffer[: file.buffer_read_into(buffer, "float32")]
    except soundfile.LibsndfileError:
        buffer = buffer[~np.isnan(buffer[:, 0])]
    return mono_of(buffer) if len(buffer) else None


def decoded(data: bytes) -> tuple[np.ndarray, int, list[str]]:
    """All samples of a file at its own rate, that rate, and the warnings; a second pass has to give the same."""
    with open_track(data) as track:
        out = np.concatenate(list(track.blocks(track.sample_rate)))
        again = np.concatenate(list(track.blocks(track.sample_rate)))
        np.testing.assert_array_equal(again, out)
        assert len(out) == track.n_frames
        return out, track.sample_rate, track.warnings
