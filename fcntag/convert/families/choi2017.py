"""Choi's compact CNN (5 x 32): choi2017-compact from Keras 1, choi2017-compact-keras2 from Keras 2."""

from __future__ import annotations

import dataclasses

import numpy as np

from ...errors import ModelError
from ...model.document import Block, Frontend, Head, Log, ModelDocument, Pool, Segments
from ..batchnorm import Rule, fold, scale_shift
from ..model_builder import Spec
from ..provenance import Provenance
from ..readers.keras import BatchNorm, Convolution, Dense, KerasFile
from .statistics import frozen_statistics

_BODY = "conv1x32k3 bn32" + " conv32x32k3 bn32" * 4
SIGNATURE = f"{_BODY} dense32x50"
SIGNATURE_WITHOUT_HEAD = _BODY  # the released TensorFlow file of the Keras 1 model
KERAS1, KERAS2 = "choi2017-compact", "choi2017-compact-keras2"

EPSILON = 1e-3  # Keras 1.2 and 2
_CHANNELS = 32
_POOLS = ((2, 4), (3, 4), (2, 5), (2, 4), (4, 4))

# kapre at the time: no centring, zeros outside the track.
FRONTEND = Frontend(
    kind="mel",
    sample_rate=12000,
    n_fft=512,
    hop_length=256,
    framing="same_theano",
    pad_mode="constant",
    window="hann_reversed",  # its Fourier transform is a Theano convolution, which flips its kernels
    n_mels=96,
    fmin=0.0,
    fmax=6000.0,
    mel_scale="slaney",
    mel_norm="slaney",
    power_exponent=1,
    rounding="none",
    log=Log(kind="db", amin=1e-10, ref="max", top_db=80.0),
    normalization="none",
    layout="mel_time",
)
FRONTEND_KERAS2 = dataclasses.replace(FRONTEND, framing="same_tensorflow", window="hann", normalization="standardize")
SEGMENTS = Segments(rule="first", n_samples=348000, short="zeros")  # 29 s, 1360 frames
# The pools need 1280 frames; global pooling takes any length above that.
SEGMENTS_KERAS2 = dataclasses.replace(SEGMENTS, min_samples=1279 * 256 + 1)


def family(file: KerasFile) -> str:
    """Which of the two models a file with this module's signature holds."""
    return KERAS2 if file.version == 2 else KERAS1


def build(provenance: Provenance, file: KerasFile) -> tuple[ModelDocument, dict[str, np.ndarray]]:
    """Document and tensors; raises ModelError if the file is of another network or has no dense layer."""
    name = provenance.entry.name
    if file.signature() == SIGNATURE_WITHOUT_HEAD:
        raise ModelError(
            "holds no dense layer, so it cannot tag (the released TensorFlow file of choi2017-compact ends at its last "
            "block); use weights_theano.hdf5, whose convolutions are the same"
        )
    if file.signature() != SIGNATURE:
        raise ModelError(f"layers are {file.signature()}; {name} has {SIGNATURE}")
    if family(file) != name:
        raise ModelError(f"is a Keras {file.version} file: that is {family(file)}, not {name}")
    document = provenance.document(
        frontend=FRONTEND_KERAS2 if name == KERAS2 else FRONTEND,
        segments=SEGMENTS_KERAS2 if name == KERAS2 else SEGMENTS,
        blocks=tuple(
            Block(
                kernel=3,
                in_channels=_CHANNELS if i else 1,
                out_channels=_CHANNELS,
                activation="elu",
                pool=Pool(window=pool, stride=pool),
            )
            for i, pool in enumerate(_POOLS)
        ),
        head=Head(flatten="max" if name == KERAS2 else "chw", in_features=_CHANNELS, default_features="blocks"),
    )
    spec = Spec(document)
    frozen = frozen_statistics(name, file) if name == KERAS1 else None
    rule: Rule
    for i in range(len(_POOLS)):
        convolution, norm = file.layers[2 * i], file.layers[2 * i + 1]
        assert isinstance(convolution, Convolution)
        assert isinstance(norm, BatchNorm)
        if frozen is not None:
            mean, variance, rule, epsilon = frozen.means[i], frozen.variances[i], frozen.rule, frozen.epsilon
        else:
            mean, variance, rule, epsilon = norm.mean, norm.spread, "standard", EPSILON
        scale, shift = scale_shift(norm.gamma, norm.beta, mean, variance, rule=rule, epsilon=epsilon)
        weight, bias = fold(convolution.weight, convolution.bias, scale, shift)
        spec.set(f"blocks.{i}.weight", weight)
        spec.set(f"blocks.{i}.bias", bias)
    dense = file.layers[-1]
    assert isinstance(dense, Dense)
    spec.set("head.weight", dense.weight.T)
    spec.set("head.bias", dense.bias)
    return spec.build()
