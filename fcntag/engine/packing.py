"""A model as the compiled cores take it: plain dicts of numbers and arrays, which csrc/bindings/parse.cpp reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..model import filters

if TYPE_CHECKING:
    from ..model.file import Model

CORE_FFT = 512  # points of the cores' fastest FFT


def melspec_config(model: Model, height: int, width: int) -> dict[str, Any]:
    """The front end as the cores take it, for the lowest rows and first frames of an input [height, width].

    A frame of 256 samples becomes one of 512, whose FFT is faster than a general one: the window is completed with
    zeros, which makes the frame's own DFT every second bin.
    """
    frontend, log = model.document.frontend, model.document.frontend.log
    if not frontend.frames_stand_alone:  # then all of it is computed, and cropped afterwards
        height, width = model.document.input_size()
    n_rows, n_frames = frontend.rows_and_frames(height, width)
    taper, rows = filters.frame_window(frontend), filters.row_filters(frontend)
    if frontend.kind != "mfcc":
        rows = rows[:n_rows]
    n_fft = CORE_FFT if frontend.n_fft == CORE_FFT // 2 else frontend.n_fft
    spread = np.zeros((len(rows), n_fft // 2 + 1))
    spread[:, :: n_fft // frontend.n_fft] = rows
    used = {"per_mel": n_rows, "per_frame": n_frames}.get(frontend.normalization)
    empty = np.zeros(0, np.float32)
    return {
        "n_fft": n_fft,
        "window": np.pad(taper, (0, n_fft - len(taper))),
        "filters": spread.ravel(),
        "n_mels": len(rows),
        "n_mfcc": frontend.n_mfcc,
        "hop_length": frontend.hop_length,
        "pad_mode": frontend.pad_mode if frontend.framing == "center" else "constant",
        "magnitude": frontend.spectrum == "magnitude",
        "power_exponent": frontend.power_exponent,
        "float16": frontend.rounding == "float16",
        "log": log.kind,
        "gain": log.gain,
        "amin": log.amin,
        "offset": log.offset,
        "ref_max": log.ref == "max",
        "top_db": 0.0 if log.top_db is None else log.top_db,
        "normalization": frontend.normalization,
        "scale": model.tensors.get("input.scale", empty)[:used],
        "shift": model.tensors.get("input.shift", empty)[:used],
        "time_mel": frontend.layout == "time_mel",
    }


def block_dicts(model: Model) -> list[dict[str, Any]]:
    return [
        {
            "in_channels": block.in_channels,
            "out_channels": block.out_channels,
            "kernel": block.kernel,
            "activation": block.activation,
            "window": block.pool.window,
            "stride": block.pool.stride,
            "weight": model.tensors[f"blocks.{i}.weight"],
            "bias": model.tensors[f"blocks.{i}.bias"],
            "scale": model.tensors[f"blocks.{i}.scale"] if block.post_affine else None,
            "shift": model.tensors[f"blocks.{i}.shift"] if block.post_affine else None,
        }
        for i, block in enumerate(model.document.blocks)
    ]


def head_dict(model: Model) -> dict[str, Any]:
    head = model.document.head
    return {
        "flatten": head.flatten,
        "in_features": head.in_features,
        "n_tags": len(model.document.tags),
        "hidden": [
            {
                "out_features": layer.out_features,
                "activation": layer.activation,
                "weight": model.tensors[f"head.hidden.{i}.weight"],
                "bias": model.tensors[f"head.hidden.{i}.bias"],
            }
            for i, layer in enumerate(head.hidden)
        ],
        "weight": model.tensors["head.weight"],
        "bias": model.tensors["head.bias"],
    }


def map_head_dict(model: Model, height: int, width: int) -> dict[str, Any]:
    """A head for inputs [height, width] that asks for nothing but its features: the last map, [C, h, w] in one row."""
    height, width = model.document.sizes_from(height, width)[-1]
    size = model.document.blocks[-1].out_channels * height * width
    return {
        "flatten": "chw",
        "in_features": size,
        "n_tags": 1,
        "hidden": [],
        "weight": np.zeros((1, size), np.float32),
        "bias": np.zeros(1, np.float32),
    }
