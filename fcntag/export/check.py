"""Comparing an exported file, in its own runtime, with the engine."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engine import CpuEngine
from ..errors import ModelError
from .interface import rows_and_frames

if TYPE_CHECKING:
    from ..model.file import Model

SEGMENTS = 3  # not the batch size that a program was traced with


def difference(model: Model, path: str, *, frontend: bool = False, blocks: bool = False) -> float:
    """Largest difference of a score between the file at ``path`` and the engine (CPU, float32), on random input.

    The arguments are those that the file was exported with. Raises ImportError where ONNX Runtime is missing,
    ModelError if the file has other outputs than it should.
    """
    rng = np.random.default_rng(0)
    with CpuEngine(model, max_batch=SEGMENTS, reduce=False) as engine:
        if frontend:
            x = rng.uniform(-0.5, 0.5, (SEGMENTS, model.document.segments.n_samples)).astype(np.float32)
            expected = engine.scores(x)
        else:
            x = random_log_mel(model, rng, SEGMENTS)
            expected = engine.scores_of(normalised(model, x))
    outputs = run_file(path, x)
    if len(outputs) != 1 + blocks * len(model.document.blocks) or outputs[0].shape != expected.shape:
        raise ModelError(f"{path}: gives {[list(output.shape) for output in outputs]}, not the scores it should")
    return float(np.abs(outputs[0] - expected).max())


def random_log_mel(model: Model, rng: np.random.Generator, batch: int) -> np.ndarray:
    """Log-mel [batch, n_rows, n_frames] in the range of the model's logarithm, of MFCC as most are; not normalised."""
    frontend = model.document.frontend
    low, high = (-80.0, 0.0) if frontend.log.kind == "db" else (0.0, 4.0)
    if frontend.kind == "mfcc":
        low, high = -20.0, 20.0
    return rng.uniform(low, high, (batch, *rows_and_frames(model.document))).astype(np.float32)


def normalised(model: Model, log_mel: np.ndarray) -> np.ndarray:
    """Log-mel [B, n_rows, n_frames] -> the network's input [B, H, W], float32 from float64."""
    frontend, x = model.document.frontend, log_mel.astype(np.float64)
    if axes := frontend.standardized_axes:
        if axes == (2,):  # a band that never changes is 0 exactly
            x = x - x[:, :, :1]
        x = (x - x.mean(axes, keepdims=True)) / (x.std(axes, keepdims=True) + 1e-10)
    elif frontend.normalization != "none":
        shape = {"scalar": (1, 1, 1), "per_mel": (1, -1, 1), "per_frame": (1, 1, -1)}[frontend.normalization]
        scale, shift = (model.tensors[f"input.{n}"].astype(np.float64).reshape(shape) for n in ("scale", "shift"))
        x = x * scale + shift
    if frontend.time_axis == 0:
        x = x.transpose(0, 2, 1)
    return np.ascontiguousarray(x, dtype=np.float32)


def run_file(path: str, x: np.ndarray) -> list[np.ndarray]:
    """All outputs of an exported file for ``x``."""
    suffix = Path(path).suffix.lower()
    if suffix == ".onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return [np.asarray(output) for output in session.run(None, {session.get_inputs()[0].name: x})]
    import torch

    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        program: Any = torch.jit.load(path) if suffix == ".pt" else torch.export.load(path).module()
        outputs = program(torch.from_numpy(x))
    return [output.numpy() for output in (outputs if isinstance(outputs, (tuple, list)) else [outputs])]
