"""Write embedded.npz: what the oracle gives for the embedded models on synthetic windows.

    python tests/golden/make_golden.py

Run it only when the oracle or the embedded weights change on purpose, after the tests against the original code
(``test_golden_*.py``, with the reference material) have passed: these numbers are only as good as that.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

RATE, N_SAMPLES = 16000, 48128  # one window of the musicnn models
MODELS = ("mtt-vgg", "msd-vgg", "msd-vgg-as-shipped")
FRAMES = slice(0, None, 9)  # of 187: every part of the window, an eighth of the bytes
PATH = Path(__file__).parent / "embedded.npz"


def piece() -> np.ndarray:
    """Three seconds, int16 [N_SAMPLES]: plucked chords, noise on every beat, a rising tone, then near silence."""
    t = np.arange(N_SAMPLES) / RATE
    wave = 0.05 * np.sin(2 * np.pi * (200 * t + 600 * t**2))
    for beat, root in enumerate((220.0, 174.6, 261.6, 196.0)):
        start = int(beat * 0.6 * RATE)
        local = t[: N_SAMPLES - start]
        for ratio in (1.0, 1.26, 1.5, 2.0):
            for harmonic in range(1, 6):
                tone = np.sin(2 * np.pi * root * ratio * harmonic * local)
                wave[start:] += 0.06 / harmonic * np.exp(-local * (2 + harmonic)) * tone
        noise = np.random.default_rng(beat).uniform(-1, 1, len(local))
        wave[start:] += 0.2 * np.exp(-local * 40) * noise
    wave[int(2.6 * RATE) :] *= 1e-3
    return np.round(wave / np.abs(wave).max() * 0.8 * 32767).astype(np.int16)


def signals(pcm16: np.ndarray) -> dict[str, np.ndarray]:
    """Windows [1, N_SAMPLES] by name; all but the stored piece are exact in any arithmetic."""
    impulses = np.zeros(N_SAMPLES, np.float32)
    impulses[[0, 20_000, N_SAMPLES - 1]] = 0.5, 1.0, -1.0
    square = np.where(np.arange(N_SAMPLES) // 32 % 2, -0.25, 0.25).astype(np.float32)  # 250 Hz
    return {
        "piece": (pcm16 / 32768.0).astype(np.float32)[None],
        "silence": np.zeros((1, N_SAMPLES), np.float32),
        "impulses": impulses[None],
        "square": square[None],
    }


def main() -> None:
    from fcntag import oracle
    from fcntag.catalogue.store import load_model

    pcm16 = piece()
    out: dict[str, np.ndarray] = {"pcm16": pcm16}
    for signal, waves in signals(pcm16).items():
        for name in MODELS:
            model = load_model(name)
            x = oracle.network_input(model, waves)
            if name != "msd-vgg-as-shipped":
                out[f"{signal}/{name}/input"] = x[0, FRAMES].astype(np.float32)
            maps = oracle.blocks(model, x)
            out[f"{signal}/{name}/mean"] = np.concatenate([m[0].mean(axis=(1, 2)) for m in maps]).astype(np.float32)
            out[f"{signal}/{name}/l2"] = np.concatenate([np.sqrt((m[0] ** 2).sum(axis=(1, 2))) for m in maps]).astype(
                np.float32
            )
            out[f"{signal}/{name}/features"] = oracle.flatten(maps[-1], model.document.head.flatten)[0]
            out[f"{signal}/{name}/logits"] = oracle.logits(model, x)[0]
            out[f"{signal}/{name}/scores"] = oracle.scores_of(model, x)[0]
    np.savez_compressed(PATH, **out)
    print(f"{PATH.name}: {PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
