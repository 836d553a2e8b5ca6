"""Choi's released narrow FCN-5 (32-128-128-192-256): choi2016-fcn5-narrow and -v2, from Keras 1 files."""

from __future__ import annotations

import numpy as np

from ...errors import ModelError
from ...model.document import Block, Frontend, Head, Log, ModelDocument, Pool, Segments
from ..batchnorm import fold, scale_shift
from ..model_builder import Spec
from ..provenance import Provenance
from ..readers.keras import BatchNorm, Convolution, Dense, KerasFile
from .statistics import frozen_statistics

SIGNATURE = (
    "bn1366 conv1x32k3 bn32 conv32x128k3 bn128 conv128x128k3 bn128 conv128x192k3 bn192 conv192x256k3 bn256 dense256x50"
)
FROZEN, STORED = "choi2016-fcn5-narrow", "choi2016-fcn5-narrow-v2"

# Keras <= 1.0.6 on Theano, with which all of these files were made and used.
EPSILON = 1e-6
# What the input of the later weights has to be standardised with; an estimate (see the notes in the catalogue).
V2_MEAN_DB, V2_STD_DB = -24.0, 16.0

_CHANNELS = (1, 32, 128, 128, 192, 256)
_POOLS = ((2, 4), (2, 4), (2, 4), (3, 5), (4, 4))

FRONTEND = Frontend(
    kind="mel",
    sample_rate=12000,
    n_fft=512,
    hop_length=256,
    framing="center",
    pad_mode="reflect",
    window="hann",
    n_mels=96,
    fmin=0.0,
    fmax=6000.0,
    mel_scale="slaney",
    mel_norm="slaney",
    power_exponent=2,  # the original squared the power spectrogram once more
    rounding="none",
    log=Log(kind="db", amin=1e-10, ref="one", top_db=80.0),
    normalization="per_frame",
    layout="mel_time",
)
SEGMENTS = Segments(rule="center", n_samples=349440, short="zeros")  # 29.12 s, 1366 frames


def family(file: KerasFile) -> str:
    """Which of the two models a file with this module's signature holds: with or without statistics of its own."""
    inner = [layer for layer in file.layers[1:] if isinstance(layer, BatchNorm)]
    return FROZEN if all(layer.is_placeholder for layer in inner) else STORED


def build(provenance: Provenance, file: KerasFile) -> tuple[ModelDocument, dict[str, np.ndarray]]:
    """Document and tensors; raises ModelError if the file is of another network or lacks its statistics."""
    name = provenance.entry.name
    if file.signature() != SIGNATURE:
        raise ModelError(f"layers are {file.signature()}; {name} has {SIGNATURE}")
    if family(file) != name:
        has = "stores none" if family(file) == FROZEN else "stores real ones"
        raise ModelError(f"the file {has} as batch-norm statistics: that is {family(file)}, not {name}")
    document = provenance.document(
        frontend=FRONTEND,
        segments=SEGMENTS,
        blocks=tuple(
            Block(
                kernel=3,
                in_channels=_CHANNELS[i],
                out_channels=_CHANNELS[i + 1],
                activation="elu",
                pool=Pool(window=pool, stride=pool),
            )
            for i, pool in enumerate(_POOLS)
        ),
        head=Head(flatten="chw", in_features=_CHANNELS[-1]),
    )
    spec = Spec(document)
    # One value per time frame: the layer is called "freq" in later files, but its axis is time. It cannot be folded
    # into the first convolution, whose zero padding comes after it.
    first = file.layers[0]
    assert isinstance(first, BatchNorm)
    scale, shift = scale_shift(
        first.gamma, first.beta, first.mean, first.spread, rule="keras105_running_std", epsilon=EPSILON
    )
    if name == STORED:
        scale, shift = scale / V2_STD_DB, shift - scale * (V2_MEAN_DB / V2_STD_DB)
    spec.set("input.scale", scale)
    spec.set("input.shift", shift)
    frozen = frozen_statistics(name, file) if name == FROZEN else None
    for i in range(len(_POOLS)):
        convolution, norm = file.layers[1 + 2 * i], file.layers[2 + 2 * i]
        assert isinstance(convolution, Convolution)
        assert isinstance(norm, BatchNorm)
        if frozen is not None:
            scale, shift = scale_shift(
                norm.gamma, norm.beta, frozen.means[i], frozen.variances[i], rule=frozen.rule, epsilon=frozen.epsilon
            )
        else:
            scale, shift = scale_shift(
                norm.gamma, norm.beta, norm.mean, norm.spread, rule="keras105_running_std", epsilon=EPSILON
            )
        weight, bias = fold(convolution.weight, convolution.bias, scale, shift)
        spec.set(f"blocks.{i}.weight", weight)
        spec.set(f"blocks.{i}.bias", bias)
    dense = file.layers[-1]
    assert isinstance(dense, Dense)
    spec.set("head.weight", dense.weight.T)
    spec.set("head.bias", dense.bias)
    return spec.build()
