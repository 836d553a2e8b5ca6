"""A state dict of any stack of blocks: it holds tensors in the order of the layers, but no activations and no pools.

Those come from ``blocks`` of the user's spec, a list with one object for each convolution (all fields optional)::

    {"activation": "relu" | "elu" | "none",                 default relu
     "batch_norm": "before" | "after" | "none",             of the activation; default: before, where there is one
     "pool": [h, w] | {"window": [h, w], "stride": [h, w]}, default none
     "pool_first": true | false}                            whether the pool comes before activation and batch-norm

or the blocks of the model that is named by ``like``. ``flatten``: "chw", "hwc", "max" (global) or "average" (global).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import ModelError
from ..model.document import Block
from .batchnorm import scale_shift
from .stack import Activation, Affine, Array, Conv, Dense, GlobalPool, Layer, MaxPool, Sigmoid

if TYPE_CHECKING:
    from .user_spec import UserSpec

State = dict[str, np.ndarray]
_NORM = ("weight", "bias", "running_mean", "running_var")
_CHOICES = {
    "activation": ("relu", "elu", "none"),
    "batch_norm": ("before", "after", "none"),
    "pool_first": (True, False),
}


@dataclass(frozen=True)
class _Group:
    """The tensors of one module."""

    name: str
    kind: Literal["conv", "dense", "norm"]
    tensors: State


@dataclass(frozen=True)
class _Step:
    activation: Literal["relu", "elu", "none"]
    batch_norm: Literal["before", "after", "none", ""]
    window: tuple[int, int]
    stride: tuple[int, int]
    pool_first: bool = False


@dataclass
class StateNetwork:
    """Layers for a Stack, the input's batch-norm, and the same network of PyTorch's own functions to compare with."""

    layers: list[Layer]
    scale: Array | None
    shift: Array | None
    run: Callable[[np.ndarray], np.ndarray]  # x [B, H, W] before the input's batch-norm -> logits, float64


def read(state: State, user: UserSpec) -> StateNetwork:
    """Read a state dict by the user's blocks; raises ModelError that names the tensor or the field of a block."""
    groups = _groups(state)
    convs = [group for group in groups if group.kind == "conv"]
    dense = [group for group in groups if group.kind == "dense"]
    if len(dense) > 1:
        raise ModelError(f"{dense[1].name}: a second dense layer; built: one, the head")
    head = dense[0] if dense else convs.pop() if len(convs) > 1 else None
    if head is None or not convs:
        raise ModelError("no convolutions with a head behind them in it")
    steps = _steps(user, len(convs))
    input_norm, norms = _norms(groups, convs, steps, head)
    layers: list[Layer] = []
    calls: list[Callable[[Any], Any]] = []
    if input_norm is not None:
        calls.append(_torch_norm(input_norm, user.epsilon))
    for conv, norm, step in zip(convs, norms, steps, strict=True):
        pool = ("pool", step.window, step.stride) if step.window != (1, 1) or step.stride != (1, 1) else None
        inner: list[Any] = [("conv", conv)]
        if pool is not None and step.pool_first:
            inner.append(pool)
        if norm is not None and step.batch_norm != "after":
            inner.append(("norm", norm))
        if step.activation != "none":
            inner.append(("activation", step.activation))
        if norm is not None and step.batch_norm == "after":
            inner.append(("norm", norm))
        if pool is not None and not step.pool_first:
            inner.append(pool)
        for kind, *what in inner:
            layer, call = _layer(kind, what, conv.name, user.epsilon)
            layers.append(layer)
            calls.append(call)
    scale, shift = (None, None) if input_norm is None else _affine(input_norm, user.epsilon)
    _head(head, user.flatten, layers, calls)
    layers.append(Sigmoid("the sigmoid"))

    def run(x: np.ndarray) -> np.ndarray:
        import torch

        y: Any = torch.from_numpy(np.asarray(x, np.float64)[:, None])
        with torch.inference_mode():
            for call in calls:
                y = call(y)
        out: np.ndarray = y.numpy()
        return out

    return StateNetwork(layers, scale, shift, run)


def _groups(state: State) -> list[_Group]:
    """Tensors by module, in the order of the file."""
    modules: dict[str, State] = {}
    for key, value in state.items():
        module, _, name = key.rpartition(".")
        if name != "num_batches_tracked":
            modules.setdefault(module, {})[name] = value
    groups = []
    for name, tensors in modules.items():
        shown = name[:80] or "the file"
        weight = tensors.get("weight")
        if set(tensors) == set(_NORM) and all(t.ndim == 1 and t.shape == weight.shape for t in tensors.values()):  # type: ignore[union-attr]
            groups.append(_Group(name, "norm", tensors))
        elif set(tensors) <= {"weight", "bias"} and weight is not None and weight.ndim in (2, 4):
            bias = tensors.get("bias")
            if bias is not None and bias.shape != (len(weight),):
                raise ModelError(f"{shown}.bias: shape is {list(bias.shape)}, for {len(weight)} outputs")
            groups.append(_Group(name, "conv" if weight.ndim == 4 else "dense", tensors))
        else:
            shapes = ", ".join(f"{key} {list(tensor.shape)}" for key, tensor in tensors.items())[:200]
            raise ModelError(f"{shown}: {shapes}: not a 2-D convolution, batch-norm or dense layer")
    return groups


def _steps(user: UserSpec, n_convs: int) -> list[_Step]:
    if user.blocks is None and user.like is None:
        raise ModelError(
            "a state dict holds no activations and pools: name a model that has the same (--like NAME), or give blocks "
            "(--spec FILE)"
        )
    steps = [_of_block(block) for block in user.like or ()] if user.blocks is None else _of_spec(user.blocks)
    if len(steps) != n_convs:
        raise ModelError(f"{n_convs} convolutions before the head, but {len(steps)} blocks in the plan")
    return steps


def _of_block(block: Block) -> _Step:
    place: Literal["after", ""] = "after" if block.post_affine else ""
    return _Step(block.activation, place, block.pool.window, block.pool.stride)


def _of_spec(blocks: Any) -> list[_Step]:
    if not isinstance(blocks, list):
        raise ModelError("blocks: must be a list, one object for each convolution")
    steps = []
    for i, entry in enumerate(blocks):
        where = f"blocks[{i}]"
        if not isinstance(entry, dict):
            raise ModelError(f"{where}: must be an object")
        for key, value in entry.items():
            if key != "pool" and key not in _CHOICES:
                raise ModelError(f"{where}.{key[:80]}: unknown field; known: pool, {', '.join(_CHOICES)}")
            if key != "pool" and value not in _CHOICES[key]:
                raise ModelError(f"{where}.{key}: {value!r} is not one of {', '.join(map(str, _CHOICES[key]))}")
        pool = entry.get("pool", [1, 1])
        window, stride = (pool.get("window"), pool.get("stride")) if isinstance(pool, dict) else (pool, pool)
        for value in (window, stride):
            sizes = isinstance(value, list) and len(value) == 2 and all(type(n) is int and n >= 1 for n in value)
            if not sizes:
                raise ModelError(f'{where}.pool: must be [h, w] or {{"window": [h, w], "stride": [h, w]}}')
        activation, place = entry.get("activation", "relu"), entry.get("batch_norm", "")
        steps.append(_Step(activation, place, tuple(window), tuple(stride), entry.get("pool_first", False)))  # type: ignore[arg-type]
    return steps


def _norms(
    groups: list[_Group], convs: list[_Group], steps: list[_Step], head: _Group
) -> tuple[_Group | None, list[_Group | None]]:
    """The input's batch-norm, and each block's.

    A batch-norm belongs to the convolution before it. Where all batch-norms come last, they belong to the blocks in
    order.
    """
    after: dict[str, list[_Group]] = {"": []}
    at = ""
    for group in groups:
        if group.kind == "norm":
            after.setdefault(at, []).append(group)
        else:
            at = group.name
    first = after.pop("")
    behind_head = after.pop(head.name, [])
    found = [after.get(conv.name, []) for conv in convs]
    if behind_head or any(len(norms) > 1 for norms in found):
        rest = [norm for norms in found for norm in norms] + behind_head
        wanted = [i for i, step in enumerate(steps) if step.batch_norm != "none"]
        if len(rest) != len(wanted):
            raise ModelError(f"{rest[0].name}: which of {len(rest)} batch-norms belongs to which block cannot be told")
        found = [[rest[wanted.index(i)]] if i in wanted else [] for i in range(len(convs))]
    if len(first) > 1:
        raise ModelError(f"{first[1].name}: a second batch-norm before the first convolution")
    norms: list[_Group | None] = []
    for i, (conv, one, step) in enumerate(zip(convs, found, steps, strict=True)):
        if not one and step.batch_norm in ("before", "after"):
            raise ModelError(f"blocks[{i}].batch_norm: {step.batch_norm!r}, but {conv.name} has none behind it")
        if one and step.batch_norm == "none":
            raise ModelError(f"{one[0].name}: a batch-norm, but blocks[{i}].batch_norm is 'none'")
        norms.append(one[0] if one else None)
    return (first[0] if first else None), norms


def _affine(norm: _Group, epsilon: float) -> tuple[Array, Array]:
    try:
        return scale_shift(*(norm.tensors[name] for name in _NORM), rule="standard", epsilon=epsilon)
    except ModelError as error:
        raise ModelError(f"{norm.name}: {error}") from None


def _torch_norm(norm: _Group, epsilon: float) -> Callable[[Any], Any]:
    """PyTorch's batch-norm, over axis 1 or, for the input, over the image axis of as many values."""
    import torch

    gamma, beta, mean, var = (torch.from_numpy(norm.tensors[name].astype(np.float64)) for name in _NORM)

    def call(x: Any) -> Any:
        axis = next((a for a in (1, 2, 3) if x.ndim > a and x.shape[a] == len(gamma)), 1)
        y = torch.nn.functional.batch_norm(x.movedim(axis, 1), mean, var, gamma, beta, eps=epsilon)
        return y.movedim(1, axis)

    return call


def _layer(kind: str, what: list[Any], where: str, epsilon: float) -> tuple[Layer, Callable[[Any], Any]]:
    """One layer, and PyTorch's own function for it, in float64 and without folding."""
    import torch

    functions = torch.nn.functional
    if kind == "conv":
        weight = np.asarray(what[0].tensors["weight"], np.float64)
        bias = np.asarray(what[0].tensors.get("bias", np.zeros(len(weight))), np.float64)
        edge = weight.shape[2] // 2
        w, b = torch.from_numpy(weight.copy()), torch.from_numpy(bias.copy())
        return Conv(f"{where}.weight", weight, bias, (edge,) * 4), lambda x: functions.conv2d(x, w, b, padding=edge)
    if kind == "norm":
        return Affine(what[0].name, *_affine(what[0], epsilon)), _torch_norm(what[0], epsilon)
    if kind == "activation":
        return Activation(f"{where}'s activation", what[0]), getattr(functions, what[0])
    window, stride = what
    return MaxPool(f"{where}'s pool", window, stride), lambda x: functions.max_pool2d(x, window, stride)


def _head(head: _Group, flatten: Any, layers: list[Layer], calls: list[Callable[[Any], Any]]) -> None:
    import torch

    if flatten not in ("chw", "hwc", "max", "average"):
        raise ModelError(f"flatten: {flatten!r} is not one of chw, hwc, max, average")
    weight = np.asarray(head.tensors["weight"], np.float64)
    bias = np.asarray(head.tensors.get("bias", np.zeros(len(weight))), np.float64)
    w, b = torch.from_numpy(weight.reshape(len(weight), -1).copy()), torch.from_numpy(bias.copy())
    if flatten in ("max", "average"):
        layers.append(GlobalPool(f"the global {flatten}", flatten))
    if head.kind == "conv":
        layers.append(Conv(f"{head.name}.weight", weight, bias, (0, 0, 0, 0)))
    else:
        layers.append(Dense(f"{head.name}.weight", weight, bias, "hwc" if flatten == "hwc" else "chw"))

    def call(x: Any) -> Any:
        if flatten in ("max", "average"):
            x = x.amax((2, 3)) if flatten == "max" else x.mean((2, 3))
        elif flatten == "hwc" and head.kind == "dense":
            x = x.permute(0, 2, 3, 1)
        return torch.nn.functional.linear(x.flatten(1), w, b)

    calls.append(call)
