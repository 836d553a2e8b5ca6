"""A state dict of any stack of blocks: it holds tensors in the order of the layers, but no activations and no pools.

Those come from ``blocks`` of the user's spec, a list with one object for each convolution (all fields optional)::

    {"activation": "relu" | "elu" | "none",                 default relu
     "batch_norm": "before" | "after" | "none",             of the activation; default: before, where there is one
     "pool": [h, w] | {"window": [h, w], "stride": [h, w]}, default none
     "pool_first": true | false}                            whether the pool comes before activation and batch-norm

or the blocks of the model that is named by ``like``. ``hidden`` is such a list for the dense layers before the last,
with ``activation`` and ``batch_norm`` only. ``flatten``: "chw", "hwc", "max" (global) or "average" (global). ``order``
lists the names of the layers as they are computed, where the file does not tell (:mod:`.state_order`), and ``ignore``
names that the scores do not depend on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import ModelError
from ..model.document import Block
from .batchnorm import scale_shift
from .readers.state import State
from .stack import Activation, Affine, Array, Conv, Dense, GlobalPool, Layer, MaxPool, Sigmoid
from .state_groups import NORM, Group, groups_of
from .state_order import Facts, Ordered, order_of, refuse_several

if TYPE_CHECKING:
    from .user_spec import UserSpec

_OWNERS = {"blocks": "convolution", "hidden": "dense layer but the last"}
_CHOICES = {
    "activation": ("relu", "elu", "none"),
    "batch_norm": ("before", "after", "none"),
    "pool_first": (True, False),
}


@dataclass(frozen=True)
class _Step:
    activation: Literal["relu", "elu", "none"]
    batch_norm: Literal["before", "after", "none", ""]
    window: tuple[int, int]
    stride: tuple[int, int]
    pool_first: bool = False


@dataclass
class StateNetwork:
    """Layers for a Stack, the input's batch-norm, and the same network of PyTorch's own functions to compare with.

    ``said`` holds what was taken and ignored, and ``assumed`` what the tensors cannot show, in words.
    """

    layers: list[Layer]
    scale: Array | None
    shift: Array | None
    run: Callable[[np.ndarray], np.ndarray]  # x [B, H, W] before the input's batch-norm -> logits, float64
    said: list[str]
    assumed: list[str]


def read(state: State, user: UserSpec) -> StateNetwork:
    """Read a state dict by the user's blocks; raises ModelError that names the tensor or the field of a block."""
    groups, ignored = groups_of(state, user.ignore)
    epsilon = state.epsilon if user.epsilon is None else user.epsilon
    if user.flatten in ("chw", "hwc") and not user.flatten_is_given:
        # The order of a flattened map is that of the framework; of another model only where its blocks are meant too.
        user.flatten = state.flatten or (user.flatten if user.blocks is None else "chw")
    convs = [group for group in groups if group.kind == "conv"]
    refuse_several(convs)
    n_convs = len(convs)
    n_dense = sum(group.kind == "dense" for group in groups)
    if not n_convs or n_convs + n_dense < 2:
        raise ModelError("no convolutions with a head behind them in it")
    steps = _steps(user, n_convs - (not n_dense))
    found = order_of(groups, state.ordered, user.order, _facts(user, steps))
    blocks = found.convs if found.dense else found.convs[:-1]
    head = [*found.dense] or [found.convs[-1]]
    hidden = _hidden_steps(user, head)
    _check_norms(found, blocks, steps, user.blocks is not None, "blocks")
    _check_norms(found, head[:-1], hidden, user.hidden is not None, "hidden")
    layers: list[Layer] = []
    calls: list[Callable[[Any], Any]] = []
    if found.input_norm is not None:
        calls.append(_torch_norm(found.input_norm, epsilon))

    def add(kind: str, what: list[Any], where: str) -> None:
        layer, call = _layer(kind, what, where, epsilon)
        layers.append(layer)
        calls.append(call)

    for group, step in zip(blocks, steps, strict=True):
        for kind, *what in _inner("conv", group, found.norms.get(group.name), step):
            add(kind, what, group.name)
    scale, shift = (None, None) if found.input_norm is None else _affine(found.input_norm, epsilon)
    _flatten(user.flatten, head[0], layers, calls)
    if found.before_dense is not None:
        add("norm", [found.before_dense, user.flatten if user.flatten in ("chw", "hwc") else "c"], "")
    last = _Step("none", "", (1, 1), (1, 1))
    for i, (group, step) in enumerate(zip(head, [*hidden, last], strict=True)):
        kind = "whole map" if group.kind == "conv" else "dense"
        axes = "hwc" if user.flatten == "hwc" and not i else "chw"
        for kind_, *what in _inner(kind, group, found.norms.get(group.name), step):
            add(kind_, [*what, axes] if kind_ == "dense" else what, group.name)
    layers.append(Sigmoid("the sigmoid"))

    def run(x: np.ndarray) -> np.ndarray:
        import torch

        y: Any = torch.from_numpy(np.asarray(x, np.float64)[:, None])
        with torch.inference_mode():
            for call in calls:
                y = call(y)
        out: np.ndarray = y.numpy()
        return out

    said = [*state.said, *found.said]
    if ignored:
        said.append(f"ignored {', '.join(ignored[:6])[:300]}" + (f" and {len(ignored) - 6} more" * (len(ignored) > 6)))
    axes = "bands x frames" if user.template().frontend.time_axis == 1 else "frames x bands"
    assumed = [f"the input's axes ({axes})", *_assumed(epsilon, user.flatten, found, blocks, head)]
    return StateNetwork(layers, scale, shift, run, said, assumed)


def _assumed(epsilon: float, flatten: str, found: Ordered, blocks: list[Group], head: list[Group]) -> list[str]:
    names = [group.name for group in (*blocks, *head)]
    shown = ", ".join(name[:40] for name in names[:10]) + (", ..." if len(names) > 10 else "")
    assumed = [f"the order of the layers ({shown})", f"activations, pools and flattening ({flatten})"]
    if flatten == "max" and head[0].kind == "conv":
        assumed.append(f"the global maximum in front of {head[0].name[:40]}, not behind it")
    assumed.append("zero padding 'same' and strides of 1, and no connection past a layer")
    if found.norms or found.input_norm or found.before_dense:
        assumed.append(f"the batch-norms' places and epsilon ({epsilon:g})")
    return assumed


def _facts(user: UserSpec, steps: list[_Step]) -> Facts:
    """What the plan says about the last map."""
    template = user.template()
    size = template.input_size()

    def positions(n_blocks: int) -> int | None:
        if user.flatten in ("max", "average"):
            return 1
        height, width = size
        if len(steps) != n_blocks:
            return None
        for step in steps:
            height = (height - step.window[0]) // step.stride[0] + 1
            width = (width - step.window[1]) // step.stride[1] + 1
        return height * width if height > 0 and width > 0 else None

    tags = user.document["tags"]
    n_tags = len(tags) if user.tags_are_given and isinstance(tags, list) else 0
    wanted = lambda n: [i for i, step in enumerate(steps[:n]) if step.batch_norm != "none"]  # noqa: E731
    hidden = _of_spec(user.hidden, "hidden") if user.hidden is not None else []
    return Facts(positions, n_tags, wanted, tuple(step.batch_norm for step in hidden))


def _inner(kind: str, group: Group, norm: Group | None, step: _Step) -> list[tuple[Any, ...]]:
    """The layers of one block as they are computed."""
    pool = ("pool", step.window, step.stride) if step.window != (1, 1) or step.stride != (1, 1) else None
    inner: list[tuple[Any, ...]] = [(kind, group)]
    if pool is not None and step.pool_first:
        inner.append(pool)
    if norm is not None and step.batch_norm != "after":
        inner.append(("norm", norm, "c"))
    if step.activation != "none":
        inner.append(("activation", step.activation))
    if norm is not None and step.batch_norm == "after":
        inner.append(("norm", norm, "c"))
    if pool is not None and not step.pool_first:
        inner.append(pool)
    return inner


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


def _hidden_steps(user: UserSpec, head: list[Group]) -> list[_Step]:
    """What is computed behind each dense layer but the last."""
    if user.hidden is not None:
        steps = _of_spec(user.hidden, "hidden")
        if any(step.window != (1, 1) or step.stride != (1, 1) or step.pool_first for step in steps):
            raise ModelError("hidden: a pool; dense layers have none")
    else:
        steps = [_Step(layer.activation, "", (1, 1), (1, 1)) for layer in user.like_hidden]
    if len(steps) == len(head) - 1:
        return steps
    if user.hidden is not None:
        raise ModelError(f"{len(head) - 1} dense layers before the last, but {len(steps)} in hidden of the plan")
    if len(head) == 1:
        return []
    raise ModelError(
        f"{head[1].name}: a second dense layer, and nothing says what is computed between: give hidden, e.g. "
        '[{"activation": "relu"}] (--spec FILE)'
    )


def _of_block(block: Block) -> _Step:
    place: Literal["after", ""] = "after" if block.post_affine else ""
    return _Step(block.activation, place, block.pool.window, block.pool.stride)


def _of_spec(blocks: Any, field: str = "blocks") -> list[_Step]:
    if not isinstance(blocks, list):
        raise ModelError(f"{field}: must be a list, one object for each {_OWNERS[field]}")
    steps = []
    for i, entry in enumerate(blocks):
        where = f"{field}[{i}]"
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


def _check_norms(found: Ordered, groups: list[Group], steps: list[_Step], given: bool, field: str) -> None:
    """Refuse a plan that has a batch-norm where the file has none, or the other way round."""
    for i, (group, step) in enumerate(zip(groups, steps, strict=True)):
        norm = found.norms.get(group.name)
        if norm is None and step.batch_norm in ("before", "after"):
            raise ModelError(f"{field}[{i}].batch_norm: {step.batch_norm!r}, but {group.name} has none behind it")
        if norm is not None and step.batch_norm == "none" and given:
            raise ModelError(f"{norm.name}: a batch-norm, but {field}[{i}].batch_norm is 'none'")


def _affine(norm: Group, epsilon: float) -> tuple[Array, Array]:
    try:
        return scale_shift(*(norm.tensors[name] for name in NORM), rule="standard", epsilon=epsilon)
    except ModelError as error:
        raise ModelError(f"{norm.name}: {error}") from None


def _torch_norm(norm: Group, epsilon: float) -> Callable[[Any], Any]:
    """PyTorch's batch-norm, over axis 1 or, for the input, over the image axis of as many values."""
    import torch

    gamma, beta, mean, var = (torch.from_numpy(norm.tensors[name].astype(np.float64)) for name in NORM)

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
        return Affine(what[0].name, *_affine(what[0], epsilon), axes=what[1]), _torch_norm(what[0], epsilon)
    if kind == "activation":
        return Activation(f"{where}'s activation", what[0]), getattr(functions, what[0])
    if kind in ("dense", "whole map"):
        weight = np.asarray(what[0].tensors["weight"], np.float64)
        bias = np.asarray(what[0].tensors.get("bias", np.zeros(len(weight))), np.float64)
        w, b = torch.from_numpy(weight.reshape(len(weight), -1).copy()), torch.from_numpy(bias.copy())
        layer: Layer = (
            Dense(f"{where}.weight", weight, bias, what[1])
            if kind == "dense"
            else (Conv(f"{where}.weight", weight, bias, (0, 0, 0, 0)))
        )
        return layer, lambda x: functions.linear(x, w, b)
    window, stride = what
    return MaxPool(f"{where}'s pool", window, stride), lambda x: functions.max_pool2d(x, window, stride)


def _flatten(flatten: Any, head: Group, layers: list[Layer], calls: list[Callable[[Any], Any]]) -> None:
    """The last map as features."""
    if flatten not in ("chw", "hwc", "max", "average"):
        raise ModelError(f"flatten: {flatten!r} is not one of chw, hwc, max, average")
    if flatten in ("max", "average"):
        layers.append(GlobalPool(f"the global {flatten}", flatten))

    def call(x: Any) -> Any:
        if flatten in ("max", "average"):
            x = x.amax((2, 3)) if flatten == "max" else x.mean((2, 3))
        elif flatten == "hwc" and head.kind == "dense":
            x = x.permute(0, 2, 3, 1)
        return x.flatten(1)

    calls.append(call)
