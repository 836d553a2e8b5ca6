"""The order of a state dict's layers: its names, the order of the file and the numbers of channels as evidence.

A state dict is a table of names. PyTorch writes it in the order in which the layers were declared, but helpers sort it,
and a safetensors file is always sorted: ``f.12`` stands before ``f.4`` there. Therefore the order of the file is taken
only where the numbers in the names agree with it. Where they do not, the channels decide if they fit one order only.
Where nothing decides, the network is refused, and the user gives the order (``order`` in the spec).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import ModelError
from .readers.state import natural
from .state_groups import Group

_MAX_STEPS = 20000  # of the search for orders that fit; beyond it an order counts as not decided
_ASK = "give 'order', the names of the layers as they are computed (--spec FILE)"


@dataclass
class Ordered:
    """Layers as they are computed, and their batch-norms.

    Attributes
    ----------
    convs, dense : in order; a convolution that is the head is the last of ``convs``
    input_norm : of the network's input
    norms : the batch-norm of each convolution and dense layer, by the layer's name
    before_dense : of the values that enter the first dense layer
    said : how the order was found, where the file's own was not simply right
    """

    convs: list[Group]
    dense: list[Group]
    input_norm: Group | None = None
    norms: dict[str, Group] = field(default_factory=dict)
    before_dense: Group | None = None
    said: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Facts:
    """What is known beside the tensors: features per channel of the last map, None if not; tags, 0 if not."""

    positions: Callable[[int], int | None]  # of the number of blocks
    n_tags: int
    wanted: Callable[[int], list[int]]  # of the number of blocks: those that have a batch-norm


def order_of(groups: list[Group], ordered: bool, order: tuple[str, ...] | None, facts: Facts) -> Ordered:
    """The order of the layers and the place of every batch-norm.

    Parameters
    ----------
    groups : in the order of the file
    ordered : whether the file's order can be that of the layers
    order : the user's, all convolutions and dense layers, with or without the batch-norms
    facts : what else is known

    Raises
    ------
    ModelError : nothing decides
    """
    reliable = ordered
    if order is not None:
        groups, reliable = _by_user(groups, order), True
    convs = [group for group in groups if group.kind == "conv"]
    dense = [group for group in groups if group.kind == "dense"]
    if not convs or (not dense and len(convs) < 2):
        raise ModelError("no convolutions with a head behind them in it")
    said: list[str] = []
    if order is None:
        tags = facts.n_tags

        def ends_in_tags(group: Group) -> bool:
            return not tags or group.outputs == tags

        before = [group.name for group in (*convs, *dense)]
        dense = _decide(dense, ordered, "dense layers", lambda _: True, ends_in_tags, said)
        positions = facts.positions(len(convs)) if dense else None

        def ends_in_head(group: Group) -> bool:
            if dense:
                return positions is None or group.outputs * positions == dense[0].inputs
            return ends_in_tags(group)

        convs = _decide(convs, ordered, "convolutions", lambda group: group.inputs == 1, ends_in_head, said)
        reliable = ordered and before == [group.name for group in (*convs, *dense)]
    result = Ordered(convs, dense, said=said)
    norms = [group for group in groups if group.kind == "norm"]
    listed = order is not None and all(norm.name in order for norm in norms)
    _place_norms(result, groups, norms, reliable and (order is None or listed), facts)
    if order is None and norms and reliable:
        _check_numbers(result, norms)
    return result


def refuse_several(convs: list[Group]) -> None:
    """Refuse a file of several networks: more than one convolution of one channel, in modules of their own."""
    parts = [conv.name.split(".") for conv in convs if conv.inputs == 1 and any(c.inputs > 1 for c in convs)]
    if len(parts) > 1 and all(len(names) > 1 for names in parts):
        n = next((n for n in range(min(map(len, parts))) if len({names[n] for names in parts}) > 1), 0)
        first = [".".join(names[: n + 1]) for names in parts]
        if len(set(first)) == len(parts):
            raise ModelError(f"holds several networks: {', '.join(first)[:200]}; say which (--key NAME)")


def _by_user(groups: list[Group], order: tuple[str, ...]) -> list[Group]:
    by_name = {group.name: group for group in groups}
    for name in order:
        if name not in by_name:
            known = ", ".join(by_name)[:300]
            raise ModelError(f"order: {name[:80]!r} is no layer of the file; it has: {known}")
    missing = [group.name for group in groups if group.kind != "norm" and group.name not in order]
    if missing or len(set(order)) != len(order):
        raise ModelError(
            f"order: {missing[0][:80] if missing else 'a name'} is {'missing' if missing else 'there twice'}"
        )
    return [by_name[name] for name in order] + [group for group in groups if group.name not in order]


# ---- convolutions, dense layers ----


def before(a: str, b: str) -> bool | None:
    """Whether the numbers in two names say that a comes before b; None if they say nothing.

    They say something where the names' first parts that differ are alike but for numbers: ``layer4.conv``,
    ``layer10.conv``, but not ``conv4``, ``deep``.
    """
    for one, other in zip(a.split("."), b.split("."), strict=False):
        if one != other:
            if re.sub(r"[0-9]+", "#", one) != re.sub(r"[0-9]+", "#", other):
                return None
            return natural(one) < natural(other)
    return None


def _decide(
    layers: list[Group],
    ordered: bool,
    what: str,
    begins: Callable[[Group], bool],
    ends: Callable[[Group], bool],
    said: list[str],
) -> list[Group]:
    """The layers in their order; ``begins`` and ``ends`` say whether a layer can be the first and the last."""
    if len(layers) < 2:
        return layers

    def fits(chain: Sequence[Group]) -> bool:
        joints = all(a.outputs == b.inputs for a, b in itertools.pairwise(chain))
        return joints and begins(chain[0]) and ends(chain[-1])

    numbered = _by_numbers(layers)
    disagree = [group.name for group in numbered] != [group.name for group in layers]
    if ordered and not disagree and fits(layers):
        return layers
    total = all(before(a.name, b.name) for a, b in itertools.pairwise(numbered))
    if not ordered and total and fits(numbered):
        said.append(f"the file is sorted by name, so the order of the {what} is that of the numbers in their names")
        return numbered
    if ordered and disagree and fits(numbered) and not fits(layers):
        said.append(f"the order of the {what} is that of the numbers in their names: only it fits the channels")
        return numbered
    if ordered and disagree and fits(numbered) and _only_numbers(layers):
        said.append(
            f"the file has the {what} as {_names(layers)}; taken in the order of these numbers: {_names(numbered)}"
        )
        return numbered
    if ordered and disagree and fits(layers) and not fits(numbered):
        said.append(
            f"the order of the {what} is that of the file, not that of the numbers in their names: only it fits the "
            "channels"
        )
        return layers
    if ordered and disagree and fits(layers):
        raise ModelError(
            f"the file has its {what} as {_names(layers)}, the numbers in the names say {_names(numbered)}, and the "
            f"channels fit both; {_ASK}"
        )
    found = _chains(layers, begins, ends, True) or _chains(layers, begins, ends, False)
    if len(found) == 1:
        said.append(f"the order of the {what} is the only one that fits the channels: {_names(found[0])}")
        return found[0]
    if found:
        why = "do not fit as they stand" if ordered else "are sorted by name"
        raise ModelError(
            f"the order of its {what} cannot be told: {_names(layers)} {why}, and the channels fit several orders; "
            f"{_ASK}"
        )
    return layers if ordered else numbered  # the stack says which layer does not fit


def _by_numbers(layers: list[Group]) -> list[Group]:
    """In the order of the file, but every layer behind those that its numbers say."""
    left, made = list(layers), []
    while left:
        first = next((a for a in left if not any(before(b.name, a.name) for b in left if b is not a)), left[0])
        made.append(first)
        left.remove(first)
    return made


def _only_numbers(layers: list[Group]) -> bool:
    """Whether the names differ in parts that are plain numbers, which PyTorch's own containers give in order."""
    for a in layers:
        for b in layers:
            parts = zip(a.name.split("."), b.name.split("."), strict=False)
            one, other = next(((x, y) for x, y in parts if x != y), ("0", "0"))
            if not (one.isdigit() and other.isdigit()):
                return False
    return True


def _chains(
    layers: list[Group], begins: Callable[[Group], bool], ends: Callable[[Group], bool], numbers: bool
) -> list[list[Group]]:
    """Up to two orders in which every layer takes what the one before gives; with ``numbers`` none against them."""
    found: list[list[Group]] = []
    steps = 0

    def extend(chain: list[Group], left: list[Group]) -> None:
        nonlocal steps
        if not left:
            if ends(chain[-1]):
                found.append(chain)
            return
        for group in left:
            steps += 1
            if len(found) > 1 or steps > _MAX_STEPS:
                return
            fits = chain[-1].outputs == group.inputs if chain else begins(group)
            if fits and not (numbers and any(before(b.name, group.name) for b in left if b is not group)):
                extend([*chain, group], [other for other in left if other is not group])

    extend([], layers)
    return found if steps <= _MAX_STEPS else [*found, *found][:2]


def _names(layers: Sequence[Any]) -> str:
    shown = [group.name[:60] for group in layers[:8]]
    return ", ".join(shown) + (", ..." if len(layers) > len(shown) else "")


# ---- batch-norms ----


def _place_norms(result: Ordered, groups: list[Group], norms: list[Group], reliable: bool, facts: Facts) -> None:
    layers = [*result.convs, *result.dense]
    if not norms:
        return
    if reliable and _by_place(result, groups, layers, facts):
        return
    rest = list(norms)
    for norm in norms:
        owner = _owner_by_name(norm, layers, norms)
        if owner is not None and owner.name not in result.norms:
            result.norms[owner.name] = norm
            rest.remove(norm)
    rest = _take_input_norm(result, rest)
    rest = _take_before_dense(result, rest)
    open_ = [layer for layer in layers if layer.name not in result.norms]
    rest.sort(key=lambda norm: natural(norm.name))
    wanted = facts.wanted(len(result.convs) - (not result.dense))
    for candidates in (open_, [c for c in open_ if c in result.convs], [result.convs[i] for i in wanted]):
        pairs = list(zip(candidates, rest, strict=False))
        if len(candidates) == len(rest) and all(a.outputs == b.outputs and a in open_ for a, b in pairs):
            result.norms |= {layer.name: norm for layer, norm in pairs}
            rest = []
    if rest:
        raise ModelError(
            f"{rest[0].name}: which of {len(norms)} batch-norms belongs to which block cannot be told; {_ASK}, with "
            "the batch-norms"
        )


def _by_place(result: Ordered, groups: list[Group], layers: list[Group], facts: Facts) -> bool:
    """By the order of the file: a batch-norm belongs to the layer before it. Whether that works out."""
    behind: dict[str, list[Group]] = {"": []}
    at = ""
    for group in groups:
        if group.kind == "norm":
            behind.setdefault(at, []).append(group)
        else:
            at = group.name
    first, last = behind.pop(""), result.convs[-1].name
    if len(first) > 1:
        return False
    if result.dense and len(behind.get(last, [])) == 2:
        before_dense = behind[last].pop()
        if before_dense.outputs != result.dense[0].inputs:
            return False
        result.before_dense = before_dense
    head = layers[-1]
    many = any(len(found) > 1 for found in behind.values())
    fit = all(norm.outputs == layer.outputs for layer in layers for norm in behind.get(layer.name, []))
    if result.dense and len(behind.get(last, [])) == 1 and not fit:
        norm = behind[last][0]
        if norm.outputs == result.dense[0].inputs and norm.outputs != result.convs[-1].outputs:
            result.before_dense = behind[last].pop()
            fit = all(norm.outputs == layer.outputs for layer in layers for norm in behind.get(layer.name, []))
    convs = result.convs[: len(result.convs) - (not result.dense)]
    alone = all(not behind.get(conv.name) for conv in convs)
    if many or not fit or (behind.get(head.name) and alone and len(behind[head.name]) == 1 and len(convs) == 1):
        # They were declared behind all convolutions, and belong to the blocks in order.
        rest = [norm for layer in layers for norm in behind.get(layer.name, [])]
        wanted = [convs[i] for i in facts.wanted(len(convs))]
        if len(rest) != len(wanted) or any(a.outputs != b.outputs for a, b in zip(rest, wanted, strict=True)):
            result.before_dense = None
            return False
        result.norms = {layer.name: norm for layer, norm in zip(wanted, rest, strict=True)}
    else:
        result.norms = {name: found[0] for name, found in behind.items() if found}
    result.input_norm = first[0] if first else None
    return True


def _owner_by_name(norm: Group, layers: list[Group], norms: list[Group]) -> Group | None:
    """The layer whose name says that a batch-norm is its own, or None."""
    parent, _, last = norm.name.rpartition(".")
    same = [layer for layer in layers if layer.name.rpartition(".")[0] == parent]
    if last.isdigit():
        # Within one container of numbers: behind the layer before it.
        numbered = [a for a in same if a.name.rpartition(".")[2].isdigit()]
        ahead = [a for a in numbered if int(a.name.rpartition(".")[2]) < int(last)]
        if numbered:
            owner = max(ahead, key=lambda a: int(a.name.rpartition(".")[2]), default=None)
            return owner if owner is not None and owner.outputs == norm.outputs else None
    siblings = [other for other in norms if other.name.rpartition(".")[0] == parent]
    if parent and len(same) == len(siblings) == 1:
        return same[0] if same[0].outputs == norm.outputs else None
    numbers = _numbers(norm.name)
    alike = [a for a in layers if numbers and _numbers(a.name) == numbers and a.outputs == norm.outputs]
    if len(alike) > 1:  # conv1, fc1: a batch-norm of convolutions, unless its name tells otherwise
        of_dense = re.search(r"fc|dense|lin|1d", norm.name.lower()) is not None
        alike = [a for a in alike if (a.kind == "dense") == of_dense]
    if len(alike) != 1:
        return None
    rivals = [other for other in norms if _numbers(other.name) == numbers and other.outputs == norm.outputs]
    return alike[0] if len(rivals) == 1 or len({other.name for other in rivals}) == 1 else None


def _numbers(name: str) -> tuple[int, ...]:
    return tuple(int(digits[:18]) for digits in re.findall(r"[0-9]+", name))


def _take_input_norm(result: Ordered, rest: list[Group]) -> list[Group]:
    """Take the batch-norm that fits no layer, or has one value, as the input's."""
    outputs = {layer.outputs for layer in (*result.convs, *result.dense)}
    if result.dense:
        outputs.add(result.dense[0].inputs)
    odd = [norm for norm in rest if norm.outputs not in outputs]
    if len(odd) == 1:
        result.input_norm = odd[0]
        return [norm for norm in rest if norm is not odd[0]]
    return rest


def _take_before_dense(result: Ordered, rest: list[Group]) -> list[Group]:
    if not result.dense:
        return rest
    fit = [norm for norm in rest if norm.outputs == result.dense[0].inputs]
    is_own = result.dense[0].inputs not in {conv.outputs for conv in result.convs}
    if len(fit) == 1 and (is_own or result.convs[-1].name in result.norms):
        result.before_dense = fit[0]
        return [norm for norm in rest if norm is not fit[0]]
    return rest


def _check_numbers(result: Ordered, norms: list[Group]) -> None:
    """Refuse batch-norms whose place in the file contradicts the numbers in their names, all of them."""
    layers = [*result.convs, *result.dense]
    named = {norm.name: _owner_by_name(norm, layers, norms) for norm in result.norms.values()}
    if any(owner is None for owner in named.values()) or len({o.name for o in named.values() if o}) != len(named):
        return
    for name, norm in result.norms.items():
        owner = named[norm.name]
        if owner is not None and owner.name != name:
            raise ModelError(
                f"{norm.name}: stands behind {name} in the file, and its name belongs to {owner.name}; {_ASK}, with "
                "the batch-norms"
            )
