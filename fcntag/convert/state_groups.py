"""Tensors of a state dict, by module: convolutions, dense layers and batch-norms; reparametrisations are resolved.

What no layer of a stack has is ignored where its name says what it is (buffers of a front end, of a loss, counters),
and refused by name elsewhere: an unknown tensor may change the scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np

from ..errors import ModelError
from .readers.state import State

Tensors = dict[str, np.ndarray]
NORM = ("weight", "bias", "running_mean", "running_var")
_COUNTERS = ("num_batches_tracked", "n_averaged", "_extra_state", "_metadata")
# Modules that compute the input or the loss, by the parts of their names.
_FRONT_END = (
    "spec",
    "stft",
    "istft",
    "spectrogram",
    "spectrogram_extractor",
    "logmel_extractor",
    "frontend",
    "front_end",
)
_LOSS = ("loss", "loss_fn", "loss_func", "criterion", "objective", "bce")
# Buffers of torchaudio, nnAudio and torchlibrosa, wherever they stand.
_BUFFERS = (
    "window",
    "window_mask",
    "fb",
    "filterbank",
    "mel_basis",
    "melW",
    "mel_fb",
    "dct_mat",
    "wsin",
    "wcos",
    "kernel_sin",
    "kernel_cos",
    "kernel_sin_inv",
    "kernel_cos_inv",
    "w_sum",
    "pos_weight",
)


@dataclass(frozen=True)
class Group:
    """The tensors of one module: ``weight`` and perhaps ``bias``, or the four of a batch-norm."""

    name: str
    kind: Literal["conv", "dense", "norm"]
    tensors: Tensors

    @property
    def outputs(self) -> int:
        """Channels or values that leave it."""
        return len(self.tensors["weight"])

    @property
    def inputs(self) -> int:
        """Channels or values that enter a convolution or a dense layer."""
        return self.tensors["weight"].shape[1]


def groups_of(state: State, ignore: tuple[str, ...]) -> tuple[list[Group], list[str]]:
    """The layers in the order of the file, and the names that were ignored.

    Parameters
    ----------
    state : the tensors
    ignore : patterns of names that the user says do not matter, e.g. ``"aux_head.*"``

    Raises
    ------
    ModelError : a tensor belongs to no layer of a stack; the message names it
    """
    ignored: list[str] = []
    modules: dict[str, Tensors] = {}
    for key, reason in state.odd.items():
        if not _passed_over(key, 0, ignore) and key.rpartition(".")[2] in (*NORM, "weight_g", "weight_v"):
            raise ModelError(f"{key}: {reason}")
        ignored.append(key)
    for key, value in state.tensors.items():
        owner, _, name = _owner(key)
        if key.rpartition(".")[2] in _COUNTERS:
            if key.rpartition(".")[2] != "num_batches_tracked":
                ignored.append(key)
        elif _passed_over(key, value.ndim, ignore):
            ignored.append(key)
        else:
            modules.setdefault(owner, {})[name] = value
    groups = []
    for name, tensors in modules.items():
        group = _group(name, _resolved(name or "the file", tensors))
        if group is not None:
            groups.append(group)
        elif all(value.ndim == 0 for value in tensors.values()):
            ignored += [f"{name}.{key}".lstrip(".") for key in tensors]
        else:
            shapes = ", ".join(f"{key} {list(tensor.shape)}" for key, tensor in tensors.items())[:200]
            raise ModelError(
                f"{name[:80] or 'the file'}: {shapes}: not a 2-D convolution, batch-norm or dense layer; if the scores "
                "do not depend on it, name it in 'ignore' (--spec FILE)"
            )
    return groups, ignored


def _owner(key: str) -> tuple[str, str, str]:
    """Module and name of a tensor; ``parametrizations.weight.original0`` counts as a name."""
    owner, middle, rest = key.partition("parametrizations.")
    if middle and (not owner or owner.endswith(".")):
        return owner.rstrip("."), ".", middle + rest
    return key.rpartition(".")


def is_buffer(key: str, dimensions: int = 0) -> bool:
    """Whether a name is that of a counter, or of a buffer of a front end or a loss: no layer's.

    torchlibrosa keeps the Fourier transform as weights of three dimensions.
    """
    *parts, name = key.split(".")
    if name in (*_BUFFERS, *_COUNTERS) or any(part in _LOSS for part in parts):
        return True
    return dimensions == 3 and any(part in _FRONT_END for part in parts)


def _passed_over(key: str, dimensions: int, ignore: tuple[str, ...]) -> bool:
    if any(fnmatchcase(key, pattern) or key.startswith(f"{pattern.rstrip('.')}.") for pattern in ignore):
        return True
    return is_buffer(key, dimensions)


def _resolved(where: str, tensors: Tensors) -> Tensors:
    """``weight`` in place of what weight_norm and pruning keep in its stead."""
    made = dict(tensors)
    for g, v in (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1")):
        if g in made and v in made:
            made["weight"] = _weight_norm(where, made.pop(g), made.pop(v))
    if "weight_orig" in made and "weight_mask" in made:
        weight, mask = made.pop("weight_orig"), made.pop("weight_mask")
        if weight.shape != mask.shape:
            raise ModelError(f"{where[:80]}: weight_orig {list(weight.shape)} with weight_mask {list(mask.shape)}")
        made["weight"] = weight * mask
    spectral = [key for key in made if key in ("weight_orig", "weight_u") or key.startswith("parametrizations.")]
    if spectral:
        raise ModelError(
            f"{where[:80]}.{spectral[0]}: a weight that is computed when the network runs (spectral_norm or another "
            "parametrization); save the state dict without it: torch.nn.utils.remove_spectral_norm(layer), or "
            "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')"
        )
    if set(made) == {"running_mean", "running_var"}:  # affine=False
        made = {"weight": np.ones_like(made["running_mean"]), "bias": np.zeros_like(made["running_mean"]), **made}
    return made


def _weight_norm(where: str, g: np.ndarray, v: np.ndarray) -> np.ndarray:
    """g * v / |v|, with a norm over every axis along which g has one value."""
    if g.ndim not in (0, v.ndim) or any(n not in (1, m) for n, m in zip(g.shape, v.shape, strict=False)):
        raise ModelError(f"{where[:80]}: weight_norm of {list(v.shape)} with lengths {list(g.shape)}")
    axes = tuple(axis for axis in range(v.ndim) if g.ndim == 0 or g.shape[axis] == 1)
    length = np.sqrt((v * v).sum(axes, keepdims=True))
    with np.errstate(invalid="ignore", divide="ignore"):  # a zero vector gives NaN, as in PyTorch; it is refused later
        return np.asarray(v * (g / length))


def _group(name: str, tensors: Tensors) -> Group | None:
    weight = tensors.get("weight")
    if weight is None:
        return None
    if set(tensors) == set(NORM) and all(t.ndim == 1 and t.shape == weight.shape for t in tensors.values()):
        return Group(name, "norm", tensors)
    if set(tensors) <= {"weight", "bias"} and weight.ndim in (2, 4):
        bias = tensors.get("bias")
        if bias is not None and bias.shape != (len(weight),):
            raise ModelError(f"{name[:80]}.bias: shape is {list(bias.shape)}, for {len(weight)} outputs")
        return Group(name, "conv" if weight.ndim == 4 else "dense", tensors)
    if set(tensors) == {"weight", "bias"} and weight.ndim == 1 and tensors["bias"].shape == weight.shape:
        raise ModelError(
            f"{name[:80]}: weight {list(weight.shape)}, bias {list(weight.shape)}: a normalisation without statistics "
            "of its own (GroupNorm, LayerNorm, or a batch-norm that uses the batch at hand) is not a 2-D convolution, "
            "batch-norm or dense layer"
        )
    return None
