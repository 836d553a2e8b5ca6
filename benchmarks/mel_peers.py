"""Log-mel as one writes it with NumPy, SciPy or PyTorch: float32, one thread, the model's own constants.

From waveform [n_samples] to [n_frames, n_mels], for front ends with mel power 1 and scalar or no normalisation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fcntag.model import filters
from fcntag.model.document import Frontend
from fcntag.model.file import Model

# Frames of so many samples are transformed at once, so that their spectra stay in the cache. The whole track at once
# takes twice the time.
CHUNK_SAMPLES = 256 * 512


class NumpyMel:
    """Frames, window, real FFT, power, mel filters and log in NumPy, with NumPy's or SciPy's FFT."""

    def __init__(self, model: Model, fft: str = "numpy") -> None:
        self.frontend = frontend = model.document.frontend
        check(frontend)
        self.window, self.filters = constants(frontend)
        self.rfft: Callable[[np.ndarray], np.ndarray] = np.fft.rfft
        if fft == "scipy":
            import scipy.fft

            self.rfft = scipy.fft.rfft
        self.scale = float(model.tensors["input.scale"][0]) if "input.scale" in model.tensors else 1.0
        self.shift = float(model.tensors["input.shift"][0]) if "input.shift" in model.tensors else 0.0

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        frontend = self.frontend
        mode: Any = frontend.pad_mode
        padded = np.pad(wave, frontend.n_fft // 2, mode=mode)
        frames = np.lib.stride_tricks.sliding_window_view(padded, frontend.n_fft)[:: frontend.hop_length]
        out = np.empty((len(frames), frontend.n_mels), np.float32)
        chunk = CHUNK_SAMPLES // frontend.n_fft
        for start in range(0, len(frames), chunk):
            spectrum = self.rfft(frames[start : start + chunk] * self.window)
            power = spectrum.real**2
            power += spectrum.imag**2
            np.matmul(power, self.filters, out=out[start : start + chunk])
        if frontend.rounding == "float16":
            out = out.astype(np.float16).astype(np.float32)
        return self.log(out)

    def log(self, power: np.ndarray) -> np.ndarray:
        log = self.frontend.log
        if log.kind == "log10p1":
            power *= np.float32(log.gain)
            power += np.float32(1)
            np.log10(power, out=power)
            factor = 1.0
        else:
            np.maximum(power, np.float32(log.amin), out=power)
            np.log10(power, out=power)
            factor = 10.0
        if factor * self.scale != 1.0:
            power *= np.float32(factor * self.scale)
        if self.shift:
            power += np.float32(self.shift)
        return power


class TorchMel:
    """torch.stft, power, matrix product and log in PyTorch."""

    def __init__(self, model: Model) -> None:
        import torch

        torch.set_num_threads(1)
        self.torch, self.frontend = torch, model.document.frontend
        check(self.frontend)
        if self.frontend.log.kind != "db" or self.frontend.rounding != "none" or "input.scale" in model.tensors:
            raise ValueError("TorchMel: dB without rounding or normalisation only")
        window, rows = constants(self.frontend)
        self.window, self.filters = torch.from_numpy(window), torch.from_numpy(rows)

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        torch, frontend = self.torch, self.frontend
        with torch.inference_mode():
            spectrum = torch.stft(
                torch.from_numpy(wave),
                frontend.n_fft,
                frontend.hop_length,
                window=self.window,
                center=True,
                pad_mode=frontend.pad_mode,
                return_complex=True,
            )
            parts = torch.view_as_real(spectrum)
            power = parts[..., 0].square() + parts[..., 1].square()  # half the time of abs() or of a sum over two
            return power.T.matmul(self.filters).clamp_min_(frontend.log.amin).log10_().mul_(10.0).numpy()


def constants(frontend: Frontend) -> tuple[np.ndarray, np.ndarray]:
    """Window [n_fft] and filters [n_bins, n_mels], float32."""
    rows = filters.row_filters(frontend)
    window = filters.frame_window(frontend).astype(np.float32)
    return window, np.ascontiguousarray(rows.T, dtype=np.float32)


def check(frontend: Frontend) -> None:
    """Refuse front ends that these peers do not compute."""
    if frontend.power_exponent != 1 or frontend.log.ref != "one" or frontend.log.top_db is not None:
        raise ValueError("mel peers: power_exponent 1, log.ref 'one' and no top_db only")
    if frontend.normalization not in ("none", "scalar"):
        raise ValueError(f"mel peers: normalization {frontend.normalization!r} is not built; built: none, scalar")
