"""musicnn 0.1.0's VGG models: mtt-vgg and msd-vgg, from their TensorFlow checkpoints."""

from __future__ import annotations

import numpy as np

from ...catalogue.facts import entry
from ...errors import ModelError
from ...model.document import Frontend, Head, Log, ModelDocument, Pool, Segments, Variant
from ..batchnorm import scale_shift
from ..model_builder import ModelBuilder
from ..provenance import Provenance
from ..readers.tensorflow_checkpoint import Checkpoint
from .common import blocks_of

NETWORK = "musicnn's VGG models (MTT_vgg, MSD_vgg)"
MODELS = ("mtt-vgg", "msd-vgg")

# The constant of TensorFlow's layer. Many variances are nearly zero, so that another one would change the scores.
EPSILON = 1e-3
_CHANNELS = 128
_N_TAGS = 50

# (window, stride), each (time, mel). The first of MTT_vgg's windows is not its stride.
_POOLS = {
    "mtt-vgg": (((4, 1), (2, 2)), ((2, 2), (2, 2)), ((2, 2), (2, 2)), ((2, 2), (2, 2)), ((4, 4), (4, 4))),
    "msd-vgg": (((4, 1), (4, 1)), ((1, 4), (1, 4)), ((2, 2), (2, 2)), ((2, 2), (2, 2)), ((4, 4), (4, 4))),
}


def _pools(name: str) -> tuple[Pool, ...]:
    return tuple(Pool(window=window, stride=stride) for window, stride in _POOLS[name])


FRONTEND = Frontend(
    kind="mel",
    sample_rate=16000,
    n_fft=512,
    hop_length=256,
    # The original centres its frames on the whole track; a patch takes its own context from the track instead
    # (segments.lead and .trail), so that the same frames come out.
    framing="valid",
    pad_mode="constant",
    window="hann",
    n_mels=96,
    fmin=0.0,
    fmax=8000.0,
    mel_scale="slaney",
    mel_norm="slaney",
    power_exponent=1,
    rounding="float16",
    log=Log(kind="log10p1", gain=10000.0),
    normalization="scalar",
    layout="time_mel",
)

SEGMENTS = Segments(
    rule="hop",
    n_samples=186 * 256 + 512,  # 187 frames
    hop_samples=187 * 256,
    lead=256,  # n_fft / 2 zeros of the original's centred framing, in front and behind
    trail=256,
    short="repeat",
)


def matches(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint is one of musicnn's VGG models, by the names and shapes of its tensors."""
    shapes = checkpoint.names()
    return all(shapes.get(name) == shape for name, shape in _shapes().items())


def family(checkpoint: Checkpoint) -> str:
    """Always raises ModelError: the two models have tensors of the same shapes."""
    raise ModelError(f"not one of the published checkpoints; say whose tags it has: {' or '.join(MODELS)}")


def build(provenance: Provenance, checkpoint: Checkpoint) -> tuple[ModelDocument, dict[str, np.ndarray]]:
    """Document and tensors; raises ModelError if the checkpoint is damaged, or the entry is another network's."""
    name = provenance.entry.name
    if name not in MODELS:
        raise ModelError(f"is a musicnn checkpoint; {name} is not: allowed: {' or '.join(MODELS)}")
    stored = checkpoint.names()
    for tensor, shape in _shapes().items():
        if stored.get(tensor) != shape:
            raise ModelError(f"{tensor}: shape is {stored.get(tensor, 'missing')}; musicnn's VGG models have {shape}")
    channels = (1, *[_CHANNELS] * 5)
    blocks = blocks_of(channels, _pools(name), "relu", post_affine=True)
    variants: tuple[Variant, ...] = ()
    if name == "msd-vgg":
        variants = (Variant(name="as-shipped", note=entry("msd-vgg-as-shipped").notes[0], pools=_pools("mtt-vgg")),)
    document = provenance.document(
        frontend=FRONTEND,
        segments=SEGMENTS,
        blocks=blocks,
        head=Head(flatten="hwc", in_features=2 * _CHANNELS),
        variants=variants,
    )
    builder = ModelBuilder(document)
    _set_affine(builder, "input", checkpoint, "batch_normalization")
    for i in range(len(blocks)):
        kernel = checkpoint.read(f"{i + 1}CNN/kernel")
        builder.set(f"blocks.{i}.weight", kernel.transpose(3, 2, 0, 1))
        builder.set(f"blocks.{i}.bias", checkpoint.read(f"{i + 1}CNN/bias"))
        _set_affine(builder, f"blocks.{i}", checkpoint, f"batch_normalization_{i + 1}")
    builder.set("head.weight", checkpoint.read("dense/kernel").T)
    builder.set("head.bias", checkpoint.read("dense/bias"))
    return builder.build()


def _set_affine(builder: ModelBuilder, target: str, checkpoint: Checkpoint, layer: str) -> None:
    parameters = [checkpoint.read(f"{layer}/{name}") for name in ("gamma", "beta", "moving_mean", "moving_variance")]
    scale, shift = scale_shift(*parameters, rule="standard", epsilon=EPSILON)
    builder.set(f"{target}.scale", scale)
    builder.set(f"{target}.shift", shift)


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"dense/kernel": (2 * _CHANNELS, _N_TAGS), "dense/bias": (_N_TAGS,)}
    for i in range(1, 6):
        shapes[f"{i}CNN/kernel"] = (3, 3, _CHANNELS if i > 1 else 1, _CHANNELS)
        shapes[f"{i}CNN/bias"] = (_CHANNELS,)
    for i in range(6):
        layer = f"batch_normalization_{i}" if i else "batch_normalization"
        for name in ("gamma", "beta", "moving_mean", "moving_variance"):
            shapes[f"{layer}/{name}"] = (_CHANNELS if i else 1,)
    return shapes
