"""A model's front end in PyTorch, JAX and torchaudio, with which the GPU peers turn waves into log-mel.

Each is written as one writes it with that library, from the document's own constants, and knows every framing,
logarithm and normalisation that a document may ask for. The tests compare them with the oracle, and the bench compares
their results with fcntag's before it times them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...model import filters

if TYPE_CHECKING:
    from ...model.document import Frontend
    from ...model.file import Model


def padding(frontend: Frontend, n_samples: int) -> tuple[int, int]:
    """Samples in front of and behind a segment, so that frame t is [t * hop_length, t * hop_length + n_fft)."""
    left = frontend.pad_left(n_samples)
    right = max(0, (frontend.n_frames(n_samples) - 1) * frontend.hop_length + frontend.n_fft - left - n_samples)
    if frontend.framing == "center" and frontend.pad_mode == "reflect":
        right = max(right, frontend.n_fft // 2)
    return left, right


def constants(frontend: Frontend) -> tuple[np.ndarray, np.ndarray]:
    """Window [n_fft] and filters [n_rows, n_fft // 2 + 1], float32; ValueError where peers have no such front end."""
    if frontend.kind == "mfcc":
        raise ValueError("no peer is built for a front end of kind 'mfcc'")
    window = filters.frame_window(frontend)
    return window.astype(np.float32), filters.row_filters(frontend).astype(np.float32)


def input_tensors(model: Model) -> tuple[np.ndarray, np.ndarray] | None:
    """Scale and shift of the normalisation, shaped for [B, n_mels, n_frames]; None where it has none."""
    kind = model.document.frontend.normalization
    if kind == "none" or model.document.frontend.standardized_axes:
        return None
    shape = {"scalar": (1, 1), "per_mel": (-1, 1), "per_frame": (1, -1)}[kind]
    scale, shift = (model.tensors[f"input.{name}"].reshape(shape) for name in ("scale", "shift"))
    return scale, shift


class TorchFrontend:
    """Waves [B, n_samples] on ``device`` -> network input [B, height, width], float32."""

    def __init__(self, model: Model, height: int, width: int, device: str) -> None:
        import torch

        self.torch, self.frontend = torch, model.document.frontend
        self.size = (height, width)
        n_samples = model.document.segments.n_samples
        self.pad, self.n_frames = padding(self.frontend, n_samples), self.frontend.n_frames(n_samples)
        self.window, self.filters = (torch.from_numpy(a).to(device) for a in constants(self.frontend))
        tensors = input_tensors(model)
        self.normalise = None if tensors is None else tuple(torch.from_numpy(a.copy()).to(device) for a in tensors)

    def __call__(self, waves: Any) -> Any:
        return self.finish(self.log(self.mel_power(waves)))

    def mel_power(self, waves: Any) -> Any:
        """[B, n_samples] -> [B, n_mels, n_frames]"""
        torch, f = self.torch, self.frontend
        if self.pad != (0, 0):
            mode = "reflect" if f.framing == "center" and f.pad_mode == "reflect" else "constant"
            waves = torch.nn.functional.pad(waves[:, None], self.pad, mode=mode)[:, 0]
        spectrum = torch.stft(waves, f.n_fft, f.hop_length, window=self.window, center=False, return_complex=True)
        parts = torch.view_as_real(spectrum[..., : self.n_frames])
        power = parts[..., 0].square() + parts[..., 1].square()
        return torch.matmul(self.filters, power.sqrt() if f.spectrum == "magnitude" else power)

    def log(self, power: Any) -> Any:
        torch, f = self.torch, self.frontend
        if f.power_exponent != 1:
            power = power**f.power_exponent
        if f.rounding == "float16":
            power = power.clamp(max=65504.0).half().float()
        if f.log.kind == "none":
            return power
        if f.log.kind == "log10p1":
            return torch.log10(f.log.gain * power + 1.0)
        if f.log.kind == "log1p":
            return torch.log1p(f.log.gain * power)
        if f.log.kind in ("ln", "log10"):
            power = power.clamp(min=f.log.amin) + f.log.offset
            return torch.log(power) if f.log.kind == "ln" else torch.log10(power)
        db = 10.0 * torch.log10(power.clamp(min=f.log.amin))
        peak = db.amax((1, 2), keepdim=True)
        if f.log.ref == "max":
            db, peak = db - peak, torch.zeros_like(peak)
        return db if f.log.top_db is None else torch.maximum(db, peak - f.log.top_db)

    def finish(self, x: Any) -> Any:
        """Normalise, lay out, and cut to the part that the network reads."""
        if axes := self.frontend.standardized_axes:
            x = (x - x.mean(axes, keepdim=True)) / (x.std(axes, correction=0, keepdim=True) + 1e-10)
        elif self.normalise is not None:
            x = x * self.normalise[0] + self.normalise[1]
        x = x if self.frontend.time_axis == 1 else x.transpose(1, 2)
        return x[:, : self.size[0], : self.size[1]].contiguous()


class TorchaudioFrontend(TorchFrontend):
    """The same front end by torchaudio: mel, frames centred or unpadded, Hann's window, filters that it knows."""

    def __init__(self, model: Model, height: int, width: int, device: str) -> None:
        import warnings

        import torchaudio

        super().__init__(model, height, width, device)
        f = self.frontend
        if f.kind != "mel":
            raise ValueError(f"torchaudio is timed on mel only, not on kind {f.kind!r}")
        if f.framing not in ("center", "valid") or f.window != "hann":
            raise ValueError(f"torchaudio has no framing {f.framing!r} with window {f.window!r}")
        if f.win_position == "start" and f.window_length < f.n_fft:
            raise ValueError("torchaudio has no window at the start of a longer frame")
        if f.mel_scale == "tensorflow" or f.mel_norm == "sum":
            raise ValueError(f"torchaudio has no mel_scale {f.mel_scale!r} with mel_norm {f.mel_norm!r}")
        with warnings.catch_warnings():
            # torchaudio warns of mel filters that lie between two bins, which the document asks for.
            warnings.simplefilter("ignore")
            self.transform = torchaudio.transforms.MelSpectrogram(
                sample_rate=f.sample_rate,
                n_fft=f.n_fft,
                win_length=f.window_length,
                hop_length=f.hop_length,
                f_min=f.fmin,
                f_max=f.fmax,
                n_mels=f.n_mels,
                center=f.framing == "center",
                pad_mode=f.pad_mode,
                power=1.0 if f.spectrum == "magnitude" else 2.0,
                norm=None if f.mel_norm == "none" else f.mel_norm,
                mel_scale=f.mel_scale,
            ).to(device)
        plain = f.log.kind == "db" and f.log.ref == "one" and f.power_exponent == 1 and f.rounding == "none"
        self.to_db = torchaudio.transforms.AmplitudeToDB("power", f.log.top_db) if plain else None
        if self.to_db is not None:
            self.to_db.amin = f.log.amin

    def mel_power(self, waves: Any) -> Any:
        return self.transform(waves)

    def log(self, power: Any) -> Any:
        # Without a channel axis, top_db would be counted from the loudest clip of the batch, and not in each clip.
        return super().log(power) if self.to_db is None else self.to_db(power[:, None])[:, 0]


def jax_frontend(model: Model, height: int, width: int) -> Any:
    """A function of waves [B, n_samples] -> network input [B, height, width], float32, for ``jax.jit``."""
    import jax
    from jax import numpy as jnp

    f = model.document.frontend
    n_samples = model.document.segments.n_samples
    pad, n_frames = padding(f, n_samples), f.n_frames(n_samples)
    window, filters = constants(f)
    index = np.arange(n_frames)[:, None] * f.hop_length + np.arange(f.n_fft)
    normalise = input_tensors(model)
    reflect = f.framing == "center" and f.pad_mode == "reflect"

    def run(waves: Any) -> Any:
        waves = jnp.pad(waves, ((0, 0), pad), mode="reflect" if reflect else "constant")
        spectrum = jnp.fft.rfft(waves[:, index] * window)
        power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
        power = jnp.sqrt(power) if f.spectrum == "magnitude" else power
        power = jnp.einsum("btf,mf->bmt", power, filters, precision=jax.lax.Precision.HIGHEST)
        power = power**f.power_exponent
        if f.rounding == "float16":
            power = jnp.minimum(power, 65504.0).astype(jnp.float16).astype(jnp.float32)
        if f.log.kind == "none":
            x = power
        elif f.log.kind == "log10p1":
            x = jnp.log10(f.log.gain * power + 1.0)
        elif f.log.kind == "log1p":
            x = jnp.log1p(f.log.gain * power)
        elif f.log.kind in ("ln", "log10"):
            x = jnp.maximum(power, f.log.amin) + f.log.offset
            x = jnp.log(x) if f.log.kind == "ln" else jnp.log10(x)
        else:
            x = 10.0 * jnp.log10(jnp.maximum(power, f.log.amin))
            peak = x.max((1, 2), keepdims=True)
            if f.log.ref == "max":
                x, peak = x - peak, jnp.zeros_like(peak)
            if f.log.top_db is not None:
                x = jnp.maximum(x, peak - f.log.top_db)
        if axes := f.standardized_axes:
            x = (x - x.mean(axes, keepdims=True)) / (x.std(axes, keepdims=True) + 1e-10)
        elif normalise is not None:
            x = x * normalise[0] + normalise[1]
        x = x if f.time_axis == 1 else x.transpose(0, 2, 1)
        return x[:, :height, :width]

    return run
