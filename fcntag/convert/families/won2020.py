"""Won's FCN: won2020-fcn-mtat, -msd and -jamendo, from PyTorch state dicts."""

from __future__ import annotations

import numpy as np

from ...errors import ModelError
from ...model.document import Frontend, Head, Log, ModelDocument, Segments
from ..batchnorm import scale_shift
from ..model_builder import ModelBuilder
from ..provenance import Provenance
from ..readers.state import State
from ..state_groups import is_buffer
from .common import blocks_of, pools_of, set_folded

NETWORK = "Won's FCN"
MODELS = ("won2020-fcn-mtat", "won2020-fcn-msd", "won2020-fcn-jamendo")

EPSILON = 1e-5  # PyTorch's; with Keras' 1e-3 every score is wrong
_CHANNELS = (1, 64, 128, 128, 128, 64)
_POOLS = ((2, 4), (2, 4), (2, 4), (3, 5), (4, 4))
_N_TAGS = 50

FRONTEND = Frontend(
    kind="mel",
    sample_rate=16000,
    n_fft=512,
    hop_length=256,
    framing="center",
    pad_mode="reflect",
    window="hann",
    n_mels=96,
    fmin=0.0,
    fmax=8000.0,
    mel_scale="htk",
    mel_norm="none",
    power_exponent=1,
    rounding="none",
    log=Log(kind="db", amin=1e-10, ref="one", top_db=None),
    normalization="scalar",
    layout="mel_time",
)
SEGMENTS = Segments(
    rule="spread",
    n_samples=464000,  # 29 s, 1813 frames
    count=16,
    short="repeat",
    min_samples=1279 * 256,  # 1280 frames, the fewest that the pools leave one column of
)


def matches(state: State) -> bool:
    """Whether a state dict is of this network."""
    tensors = _own(state)
    return all(
        name in state.odd or (name in tensors and tensors[name].shape == shape) for name, shape in _shapes().items()
    )


def family(state: State) -> str:
    """Always raises ModelError: the three models have one network, so a state dict does not tell which it is."""
    raise ModelError(f"not one of the published files; say whose tags it has: {', '.join(MODELS)}")


def build(provenance: Provenance, state: State) -> tuple[ModelDocument, dict[str, np.ndarray]]:
    """Document and tensors; raises ModelError if the state dict is of another network, or the entry another's."""
    name = provenance.entry.name
    if name not in MODELS:
        raise ModelError(f"holds {NETWORK}; {name} is not: allowed: {', '.join(MODELS)}")
    tensors = _own(state)
    _check(tensors, state.odd)
    document = provenance.document(
        frontend=FRONTEND,
        segments=SEGMENTS,
        blocks=blocks_of(_CHANNELS, pools_of(_POOLS), "relu"),
        head=Head(flatten="chw", in_features=_CHANNELS[-1]),
    )
    builder = ModelBuilder(document)
    # The first batch-norm is not folded into the first convolution, whose zero padding comes after it.
    scale, shift = _batch_norm(tensors, "spec_bn")
    builder.set("input.scale", scale)
    builder.set("input.shift", shift)
    for i in range(len(_POOLS)):
        layer = f"layer{i + 1}"
        weight, bias = tensors[f"{layer}.conv.weight"], tensors[f"{layer}.conv.bias"]
        set_folded(builder, i, weight, bias, *_batch_norm(tensors, f"{layer}.bn"))
    builder.set("head.weight", tensors["dense.weight"])
    builder.set("head.bias", tensors["dense.bias"])
    return builder.build()


def _batch_norm(tensors: dict[str, np.ndarray], layer: str) -> tuple[np.ndarray, np.ndarray]:
    parameters = [tensors[f"{layer}.{name}"] for name in ("weight", "bias", "running_mean", "running_var")]
    return scale_shift(*parameters, rule="standard", epsilon=EPSILON)


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"dense.weight": (_N_TAGS, _CHANNELS[-1]), "dense.bias": (_N_TAGS,)}
    norms = {"spec_bn": 1}
    for i in range(1, 6):
        shapes[f"layer{i}.conv.weight"] = (_CHANNELS[i], _CHANNELS[i - 1], 3, 3)
        shapes[f"layer{i}.conv.bias"] = (_CHANNELS[i],)
        norms[f"layer{i}.bn"] = _CHANNELS[i]
    for layer, channels in norms.items():
        for name in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{layer}.{name}"] = (channels,)
    return shapes


def _own(state: State) -> dict[str, np.ndarray]:
    """The network's tensors by its own names: a trainer's class may hold it as an attribute, e.g. ``model.``."""
    ends = [name.removesuffix("dense.weight") for name in state.tensors if name.endswith("dense.weight")]
    prefix = ends[0] if len(ends) == 1 else ""
    if prefix and not prefix.endswith("."):
        return state.tensors
    return {name.removeprefix(prefix): tensor for name, tensor in state.tensors.items() if name.startswith(prefix)}


def _check(tensors: dict[str, np.ndarray], odd: dict[str, str]) -> None:
    expected = _shapes()
    for name, reason in odd.items():
        if is_buffer(name) or name.startswith("spec."):
            continue
        raise ModelError(f"{name}: {reason}")
    for name, shape in expected.items():
        if name not in tensors:
            raise ModelError(f"{name}: missing; Won's FCN has it")
        if tensors[name].shape != shape:
            raise ModelError(f"{name}: shape is {list(tensors[name].shape)}; Won's FCN has {list(shape)}")
    for name in tensors:
        # Three kinds of tensors are not needed: buffers of the front end, which equal their formulas, those of a loss,
        # and counters.
        if name not in expected and not is_buffer(name) and not name.startswith("spec."):
            raise ModelError(f"{name[:80]}: Won's FCN has no such tensor")
