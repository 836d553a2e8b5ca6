"""Choi's compact CNN (5 x 32): choi2017-compact from Keras 1, choi2017-compact-keras2 from Keras 2."""

from __future__ import annotations

import dataclasses

import numpy as np

from ...errors import ModelError
from ...model.document import Head, Log, ModelDocument, Segments
from ..batchnorm import Rule, scale_shift
from ..model_builder import ModelBuilder
from ..provenance import Provenance
from ..readers.keras import KerasFile
from .common import blocks_of, choi_frontend, pools_of, set_folded, set_keras_head
from .statistics import frozen_statistics

NETWORK = "Choi's compact CNN"
_BODY = "conv1x32k3 bn32" + " conv32x32k3 bn32" * 4
SIGNATURE = f"{_BODY} dense32x50"
SIGNATURE_WITHOUT_HEAD = _BODY  # the released TensorFlow file of the Keras 1 model
KERAS1, KERAS2 = "choi2017-compact", "choi2017-compact-keras2"
MODELS = (KERAS1, KERAS2)

EPSILON = 1e-3  # Keras 1.2 and 2
_CHANNELS = (1, 32, 32, 32, 32, 32)
_POOLS = ((2, 4), (3, 4), (2, 5), (2, 4), (4, 4))

# The front end is that of kapre at the time: frames are not centred, and zeros lie outside the track.
FRONTEND = choi_frontend(
    framing="same_theano",
    pad_mode="constant",
    window="hann_reversed",  # its Fourier transform is a Theano convolution, which flips its kernels
    power_exponent=1,
    log=Log(kind="db", amin=1e-10, ref="max", top_db=80.0),
    normalization="none",
)
FRONTEND_KERAS2 = dataclasses.replace(FRONTEND, framing="same_tensorflow", window="hann", normalization="standardize")
SEGMENTS = Segments(rule="first", n_samples=348000, short="zeros")  # 29 s, 1360 frames
# The pools need 1280 frames; global pooling takes any length above that.
SEGMENTS_KERAS2 = dataclasses.replace(SEGMENTS, min_samples=1279 * 256 + 1)


def matches(file: KerasFile) -> bool:
    """Whether a Keras file holds one of these networks, or all of it but its head."""
    return file.signature() in (SIGNATURE, SIGNATURE_WITHOUT_HEAD)


def family(file: KerasFile) -> str:
    """The one of the two models that a matching file holds."""
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
        blocks=blocks_of(_CHANNELS, pools_of(_POOLS), "elu"),
        head=Head(flatten="max" if name == KERAS2 else "chw", in_features=_CHANNELS[-1], default_features="blocks"),
    )
    builder = ModelBuilder(document)
    frozen = frozen_statistics(name, file) if name == KERAS1 else None
    rule: Rule
    for i, (convolution, norm) in enumerate(zip(file.convolutions, file.batch_norms, strict=True)):
        if frozen is not None:
            mean, variance, rule, epsilon = frozen.means[i], frozen.variances[i], frozen.rule, frozen.epsilon
        else:
            mean, variance, rule, epsilon = norm.mean, norm.spread, "standard", EPSILON
        scale, shift = scale_shift(norm.gamma, norm.beta, mean, variance, rule=rule, epsilon=epsilon)
        set_folded(builder, i, convolution.weight, convolution.bias, scale, shift)
    set_keras_head(builder, file.dense_layers[-1])
    return builder.build()
