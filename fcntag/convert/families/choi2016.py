"""Choi's released narrow FCN-5 (32-128-128-192-256): choi2016-fcn5-narrow and -v2, from Keras 1 files."""

from __future__ import annotations

import numpy as np

from ...errors import ModelError
from ...model.document import Head, Log, ModelDocument, Segments
from ..batchnorm import scale_shift
from ..model_builder import ModelBuilder
from ..provenance import Provenance
from ..readers.keras import KerasFile
from .common import blocks_of, choi_frontend, pools_of, set_folded, set_keras_head
from .statistics import frozen_statistics

NETWORK = "Choi's narrow FCN-5"
SIGNATURE = (
    "bn1366 conv1x32k3 bn32 conv32x128k3 bn128 conv128x128k3 bn128 conv128x192k3 bn192 conv192x256k3 bn256 dense256x50"
)
FROZEN, STORED = "choi2016-fcn5-narrow", "choi2016-fcn5-narrow-v2"
MODELS = (FROZEN, STORED)

# The constant of Keras <= 1.0.6 on Theano, which made and used all of these files.
EPSILON = 1e-6
# The later weights need a standardised input. Its mean and deviation are estimates (see the notes in the catalogue).
V2_MEAN_DB, V2_STD_DB = -24.0, 16.0

_CHANNELS = (1, 32, 128, 128, 192, 256)
_POOLS = ((2, 4), (2, 4), (2, 4), (3, 5), (4, 4))

FRONTEND = choi_frontend(
    framing="center",
    pad_mode="reflect",
    window="hann",
    power_exponent=2,  # the original squared the power spectrogram once more
    log=Log(kind="db", amin=1e-10, ref="one", top_db=80.0),
    normalization="per_frame",
)
SEGMENTS = Segments(rule="center", n_samples=349440, short="zeros")  # 29.12 s, 1366 frames


def matches(file: KerasFile) -> bool:
    """Whether a Keras file holds one of these networks."""
    return file.signature() == SIGNATURE


def family(file: KerasFile) -> str:
    """The one of the two models that a matching file holds. The files of one have no batch-norm statistics."""
    return FROZEN if all(layer.is_placeholder for layer in file.batch_norms[1:]) else STORED


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
        blocks=blocks_of(_CHANNELS, pools_of(_POOLS), "elu"),
        head=Head(flatten="chw", in_features=_CHANNELS[-1]),
    )
    builder = ModelBuilder(document)
    # The first batch-norm has one value per time frame. Its layer is called "freq" in later files, but its axis is
    # time. It cannot be folded into the first convolution, whose zero padding comes after it.
    first, *norms = file.batch_norms
    scale, shift = scale_shift(
        first.gamma, first.beta, first.mean, first.spread, rule="keras105_running_std", epsilon=EPSILON
    )
    if name == STORED:
        scale, shift = scale / V2_STD_DB, shift - scale * (V2_MEAN_DB / V2_STD_DB)
    builder.set("input.scale", scale)
    builder.set("input.shift", shift)
    frozen = frozen_statistics(name, file) if name == FROZEN else None
    for i, (convolution, norm) in enumerate(zip(file.convolutions, norms, strict=True)):
        if frozen is not None:
            scale, shift = scale_shift(
                norm.gamma, norm.beta, frozen.means[i], frozen.variances[i], rule=frozen.rule, epsilon=frozen.epsilon
            )
        else:
            scale, shift = scale_shift(
                norm.gamma, norm.beta, norm.mean, norm.spread, rule="keras105_running_std", epsilon=EPSILON
            )
        set_folded(builder, i, convolution.weight, convolution.bias, scale, shift)
    set_keras_head(builder, file.dense_layers[-1])
    return builder.build()
