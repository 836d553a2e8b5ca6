"""The parts that several families of published networks share: a front end, blocks, and folded convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from ...model.document import Block, Frontend, Pool
from ..batchnorm import fold
from ..model_builder import ModelBuilder
from ..readers.keras import Dense


def choi_frontend(**own: Any) -> Frontend:
    """The log-mel of Choi's released models: 96 bands at 12 kHz. ``own`` are the fields in which they differ."""
    return Frontend(
        kind="mel",
        sample_rate=12000,
        n_fft=512,
        hop_length=256,
        n_mels=96,
        fmin=0.0,
        fmax=6000.0,
        mel_scale="slaney",
        mel_norm="slaney",
        rounding="none",
        layout="mel_time",
        **own,
    )


def pools_of(sizes: Sequence[tuple[int, int]]) -> tuple[Pool, ...]:
    """Max-pools whose windows do not overlap: the stride of each is its window."""
    return tuple(Pool(window=size, stride=size) for size in sizes)


def blocks_of(
    channels: Sequence[int],
    pools: Sequence[Pool],
    activation: Literal["relu", "elu"],
    *,
    post_affine: bool = False,
) -> tuple[Block, ...]:
    """Blocks of 3 x 3 kernels; block i takes ``channels[i]`` channels, gives ``channels[i + 1]``, has ``pools[i]``."""
    return tuple(
        Block(
            kernel=3,
            in_channels=channels[i],
            out_channels=channels[i + 1],
            activation=activation,
            post_affine=post_affine,
            pool=pool,
        )
        for i, pool in enumerate(pools)
    )


def set_folded(
    builder: ModelBuilder, i: int, weight: np.ndarray, bias: np.ndarray, scale: np.ndarray, shift: np.ndarray
) -> None:
    """Set the convolution of block ``i``, with the batch-norm (scale, shift) that directly follows it folded in."""
    weight, bias = fold(weight, bias, scale, shift)
    builder.set(f"blocks.{i}.weight", weight)
    builder.set(f"blocks.{i}.bias", bias)


def set_keras_head(builder: ModelBuilder, dense: Dense) -> None:
    """Set the head from a dense layer of a Keras file, which stores [in_features, out_features]."""
    builder.set("head.weight", dense.weight.T)
    builder.set("head.bias", dense.bias)
