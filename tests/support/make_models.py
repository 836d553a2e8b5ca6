"""Small models with random weights, for tests that need shapes no published model has."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from fcntag.model.document import FORMAT, Block, Dense, Frontend, Head, Log, ModelDocument, Pool, Segments, Source
from fcntag.model.file import Model

FRONTEND = Frontend(
    kind="mel",
    sample_rate=16000,
    n_fft=512,
    hop_length=256,
    framing="center",
    pad_mode="reflect",
    window="hann",
    n_mels=20,
    fmin=0.0,
    fmax=8000.0,
    mel_scale="slaney",
    mel_norm="slaney",
    power_exponent=1,
    rounding="none",
    log=Log(kind="db", amin=1e-10),
    normalization="none",
    layout="mel_time",
)


def block(
    out_channels: int,
    *,
    kernel: int = 3,
    activation: Any = "relu",
    affine: bool = False,
    window: tuple[int, int] = (1, 1),
    stride: tuple[int, int] | None = None,
) -> Block:
    """A block whose in_channels are filled in by :func:`make_model`; ``stride`` defaults to ``window``."""
    return Block(
        kernel=kernel,
        in_channels=0,
        out_channels=out_channels,
        activation=activation,
        post_affine=affine,
        pool=Pool(window=window, stride=stride or window),
    )


def make_model(
    rng: np.random.Generator,
    blocks: list[Block],
    *,
    n_samples: int = 4000,
    flatten: Any = "chw",
    n_tags: int = 7,
    min_samples: int = 0,
    hidden: Sequence[tuple[int, Any]] = (),
    **frontend: Any,
) -> Model:
    """A valid model: He-scaled random weights, random biases and affines (some scales negative), random head.

    ``hidden``: out_features and activation of the head's hidden layers.
    """
    channels = 1
    chain = []
    for spec in blocks:
        chain.append(dataclasses.replace(spec, in_channels=channels))
        channels = spec.out_channels
    document = ModelDocument(
        format=FORMAT,
        name="random",
        description="random weights",
        tags=tuple(f"tag {i}" for i in range(n_tags)),
        licence="CC0-1.0",
        licence_notice="",
        training_data="none",
        source=Source(url="", sha256="", file="", authors=""),
        metrics=(),
        notes=(),
        frontend=dataclasses.replace(FRONTEND, **frontend),
        segments=Segments(
            rule="hop", n_samples=n_samples, hop_samples=n_samples, short="repeat", min_samples=min_samples
        ),
        blocks=tuple(chain),
        head=Head(flatten=flatten, in_features=1),
    )
    layers = tuple(Dense(out_features=n, activation=activation) for n, activation in hidden)
    head = Head(flatten=flatten, in_features=document.n_features(), hidden=layers)
    document = dataclasses.replace(document, head=head).validate()
    tensors = {}
    for name, shape in document.tensor_shapes().items():
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
        scale = np.sqrt(2.0 / fan_in) if len(shape) > 1 else 0.5
        tensors[name] = (rng.standard_normal(shape) * scale).astype(np.float32)
    return Model(document=document, tensors=tensors, sha256="0" * 64, path="random")
