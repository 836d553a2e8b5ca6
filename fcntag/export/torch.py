"""The network as PyTorch modules, and files that PyTorch runs without fcntag."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

from .interface import padding, rows_and_frames

if TYPE_CHECKING:
    from ..model.file import Model

try:
    import torch
    from torch import nn
except ImportError:
    raise ImportError('PyTorch programs need torch, which is not installed: pip install "fcntag[validate]"') from None

DOCUMENT_FILE = "fcntag.json"  # the extra file that holds the document


def network_layers(model: Model) -> list[nn.Module]:
    """The network for ``nn.Sequential``: x [B, 1, H, W], normalised -> scores [B, n_tags]; float32 parameters."""
    blocks = [layer for i in range(len(model.document.blocks)) for layer in block_layers(model, i)]
    return [*blocks, Head(model), nn.Sigmoid()]


def block_layers(model: Model, i: int) -> list[nn.Module]:
    """Block ``i`` alone: its input map [B, C, H, W] -> its pooled output."""
    block = model.document.blocks[i]
    conv = nn.Conv2d(block.in_channels, block.out_channels, block.kernel, padding=block.kernel // 2)
    conv.weight, conv.bias = (_parameter(model, f"blocks.{i}.{name}") for name in ("weight", "bias"))
    layers: list[nn.Module] = [conv]
    if block.activation != "none":
        layers.append({"relu": nn.ReLU, "elu": nn.ELU}[block.activation]())
    if block.post_affine:  # a batch-norm with mean 0 and variance 1 is a scale and a shift
        affine = nn.BatchNorm2d(block.out_channels, eps=0.0)
        affine.weight, affine.bias = (_parameter(model, f"blocks.{i}.{name}") for name in ("scale", "shift"))
        layers.append(affine)
    if block.pool.window != (1, 1) or block.pool.stride != (1, 1):
        layers.append(nn.MaxPool2d(block.pool.window, block.pool.stride))
    return layers


class Features(nn.Module):
    """Last map [B, C, H, W] -> features [B, in_features]."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.flatten = model.document.head.flatten

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.flatten == "max":
            x = x.amax((2, 3))
        elif self.flatten == "mean":
            x = x.mean((2, 3))
        elif self.flatten == "hwc":
            x = x.permute(0, 2, 3, 1)
        return x.flatten(1)


class Head(nn.Module):
    """Last map [B, C, H, W] -> logits [B, n_tags]."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        hidden = len(model.document.head.hidden)
        self.features = Features(model)
        self.hidden = nn.Sequential(*(layer for i in range(hidden) for layer in dense_layers(model, i)))
        (self.dense,) = dense_layers(model, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.dense(self.hidden(self.features(x)))
        return logits


def dense_layers(model: Model, i: int) -> list[nn.Module]:
    """Dense layer ``i`` of the head alone: its input [B, F] -> its output; the last layer's are logits."""
    head = model.document.head
    stem, inputs, outputs = model.document.dense_layers()[i]
    dense = nn.Linear(inputs, outputs)
    dense.weight, dense.bias = (_parameter(model, f"{stem}.{name}") for name in ("weight", "bias"))
    if i == len(head.hidden) or head.hidden[i].activation == "none":
        return [dense]
    return [dense, {"relu": nn.ReLU, "elu": nn.ELU}[head.hidden[i].activation]()]


class LogMel(nn.Module):
    """Waves [B, n_samples] -> log-mel [B, n_rows, n_frames] in float64, not normalised; float64 throughout."""

    def __init__(self, model: Model) -> None:
        from ..model.filters import frame_window, row_filters

        super().__init__()
        self.frontend = frontend = model.document.frontend
        self.padding = padding(frontend, model.document.segments.n_samples)
        filters = row_filters(frontend)
        self.register_buffer("filters", torch.from_numpy(filters))
        self.register_buffer("window", torch.from_numpy(frame_window(frontend)))
        self.mfcc = Mfcc(model) if frontend.kind == "mfcc" else None

    def forward(self, waves: torch.Tensor) -> torch.Tensor:
        rows = self.log_power(waves)
        return rows if self.mfcc is None else self.mfcc(rows)

    def log_power(self, waves: torch.Tensor) -> torch.Tensor:
        """Waves [B, n_samples] -> the logarithm [B, n_mels, n_frames] of the bands', or STFT bins', power."""
        frontend, log = self.frontend, self.frontend.log
        x = waves.to(torch.float64)
        reflect = frontend.framing == "center" and frontend.pad_mode == "reflect"
        if self.padding != (0, 0):
            x = nn.functional.pad(x[:, None], self.padding, mode="reflect" if reflect else "constant")[:, 0]
        spectrum = torch.stft(
            x, frontend.n_fft, frontend.hop_length, window=self.window, center=False, return_complex=True
        )
        bins = torch.view_as_real(spectrum).square().sum(-1)
        power = self.filters @ (bins.sqrt() if frontend.spectrum == "magnitude" else bins)
        if frontend.power_exponent == 2:
            power = power * power
        if frontend.rounding == "float16":  # the original held float32 before: two roundings, as there
            power = power.clamp_max(65504.0).to(torch.float32).to(torch.float16).to(torch.float64)
        if log.kind in ("log10p1", "log1p"):
            gained = log.gain * power + 1.0
            return torch.log10(gained) if log.kind == "log10p1" else torch.log(gained)
        if log.kind in ("ln", "log10"):
            floored = power.clamp_min(log.amin) + log.offset
            return torch.log(floored) if log.kind == "ln" else torch.log10(floored)
        if log.kind == "none":
            return power
        db = 10.0 * torch.log10(power.clamp_min(log.amin))
        peak = db.amax((1, 2), keepdim=True)
        if log.ref == "max":
            db, peak = db - peak, peak - peak
        return db if log.top_db is None else torch.maximum(db, peak - log.top_db)


class Mfcc(nn.Module):
    """Logarithm of the mel power [B, n_mels, n_frames] -> MFCC, deltas, delta-deltas [B, 3 * n_mfcc, n_frames]."""

    def __init__(self, model: Model) -> None:
        from ..model.filters import dct_matrix, delta_frames, delta_weights

        super().__init__()
        frontend = model.document.frontend
        _, n_frames = rows_and_frames(model.document)
        self.register_buffer("dct", torch.from_numpy(dct_matrix(frontend.n_mels, frontend.n_mfcc)))
        self.register_buffer("delta_frames", torch.from_numpy(delta_frames(n_frames)))
        self.register_buffer("delta_weights", torch.from_numpy(delta_weights().T.copy()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.dct @ x
        deltas = x[:, :, self.delta_frames] @ self.delta_weights  # [B, n_mfcc, n_frames, 2]
        return torch.cat([x, deltas.permute(0, 3, 1, 2).flatten(1, 2)], 1)


class Normalise(nn.Module):
    """Log-mel [B, n_rows, n_frames] -> the network's input [B, H, W], in the type of the log-mel."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        frontend = model.document.frontend
        self.normalization, self.time_axis = frontend.normalization, frontend.time_axis
        self.standardized_axes = frontend.standardized_axes
        shape = {"scalar": (1, 1, 1), "per_mel": (1, -1, 1), "per_frame": (1, 1, -1)}.get(frontend.normalization)
        for name in ("scale", "shift"):
            value = None if shape is None else torch.from_numpy(model.tensors[f"input.{name}"].reshape(shape).copy())
            self.register_buffer(name, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if axes := self.standardized_axes:
            dtype, x = x.dtype, x.to(torch.float64)
            if axes == (2,):  # a band that never changes is 0 exactly
                x = x - x[:, :, :1]
            x = x - x.mean(axes, keepdim=True)
            x = (x / (x.square().mean(axes, keepdim=True).sqrt() + 1e-10)).to(dtype)
        elif self.normalization != "none":
            x = self.scale * x + self.shift
        return x if self.time_axis == 1 else x.transpose(1, 2)


class Module(nn.Module):
    """The exported model, in evaluation mode; :mod:`fcntag.export` describes its input and outputs.

    Attributes
    ----------
    document : the model's document, as JSON
    example : an input of two segments, zeros
    """

    def __init__(self, model: Model, *, frontend: bool = False, blocks: bool = False) -> None:
        super().__init__()
        document = model.document
        self.document = document.to_json()
        self.log_mel = LogMel(model) if frontend else None
        self.normalise = Normalise(model)
        self.blocks = nn.ModuleList(nn.Sequential(*block_layers(model, i)) for i in range(len(document.blocks)))
        self.head = Head(model)
        self.returns_blocks = blocks
        self.example = (
            torch.zeros(2, document.segments.n_samples) if frontend else torch.zeros(2, *rows_and_frames(document))
        )
        self.eval().requires_grad_(False)

    def forward(self, x: torch.Tensor) -> Any:
        """Scores [B, n_tags]; with ``blocks`` a tuple (scores, block 1, block 2, ...)."""
        if self.log_mel is not None:
            x = self.log_mel(x)
        y = self.normalise(x).to(self.head.dense.weight.dtype)[:, None]
        maps = []
        for block in self.blocks:
            y = block(y)
            maps.append(y)
        scores = torch.sigmoid(self.head(y))
        return (scores, *maps) if self.returns_blocks else scores


def script_bytes(module: Module) -> bytes:
    """TorchScript, for ``torch.jit.load``."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode():
        # Deprecated for compiling models, and still the one format that every PyTorch since 1.0 reads, from C++ too.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(module, module.example)
        torch.jit.save(traced, buffer, _extra_files={DOCUMENT_FILE: module.document.encode()})
    return buffer.getvalue()


def program_bytes(module: Module) -> bytes:
    """An exported program, for ``torch.export.load``."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, (module.example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        torch.export.save(program, buffer, extra_files={DOCUMENT_FILE: module.document})
    return buffer.getvalue()


def _parameter(model: Model, name: str) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(model.tensors[name].copy()), requires_grad=False)
