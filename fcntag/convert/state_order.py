"""The order of a state dict's layers: its names, the order of the file and the numbers of channels as evidence.

A state dict is a table of names. PyTorch writes it in the order in which the layers were declared, but helpers sort it,
and a safetensors file is always sorted: ``f.12`` stands before ``f.4`` there. Therefore the order of the file is taken
only where the numbers in the names agree with it. Where they do not, the channels decide if they fit one order only.
Where nothing decides, the network is refused, and the user gives the order (``order`` in the spec).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import ModelError
from .readers.state import natural
from .state_groups import Group
from .state_names import before, numbers, sounds_dense, words

_MAX_STEPS = 20000  # of the search for orders that fit; beyond it an order counts as not decided
Part = tuple[int, ...] | tuple[str, ...]
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
    hidden: tuple[str, ...] = ()  # where the plan has the batch-norm of each dense layer but the last; "" if not said


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
        _check_names(result, norms)
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
    if not norms or (reliable and _by_place(result, groups, layers, facts)):
        return
    result.norms, result.input_norm, result.before_dense = {}, None, None
    for norm in norms:  # those that stand beside their layer in one container
        owner = _neighbour(norm, layers, norms)
        if owner is not None and owner.name not in result.norms:
            result.norms[owner.name] = norm
    rest = [norm for norm in norms if norm not in result.norms.values()]
    rest = _take_input_norm(result, rest)
    rest.sort(key=lambda norm: natural(norm.name))
    # One of them may belong to the values that enter the first dense layer.
    of_features = [norm for norm in rest if _may_be_of_features(result, norm)]
    for place in (_by_all_numbers, _by_all_words, _by_rank):
        found: list[tuple[Group | None, dict[str, Group]]] = []
        for one in (None, *of_features):
            placed = place(result, [norm for norm in rest if norm is not one], layers, facts)
            if placed is not None and (one is None or _is_of_features(result, one, placed, facts)):
                found.append((one, placed))
        if found:
            break
    if not found or (len(found) > 1 and found[0][0] is not None):
        raise ModelError(
            f"{rest[0].name}: which of {len(norms)} batch-norms belongs to which block cannot be told; {_ASK}, with "
            "the batch-norms"
        )
    result.norms |= found[0][1]
    if found[0][0] is not None:
        _place_features_norm(result, found[0][0], facts)
    pairs = [f"{result.norms[layer.name].name} to {layer.name}" for layer in layers if layer.name in result.norms]
    result.said.append(f"by their names, batch-norms belong: {', '.join(pairs)[:300]}")


def _by_all_numbers(result: Ordered, rest: list[Group], layers: list[Group], facts: Facts) -> dict[str, Group] | None:
    """The place of all of the rest by the numbers in their names; None if they do not tell."""
    return _by_all_names(result, rest, layers, numbers) if all(numbers(norm.name) for norm in rest) else None


def _by_all_words(result: Ordered, rest: list[Group], layers: list[Group], facts: Facts) -> dict[str, Group] | None:
    """The place of all of the rest by the words in their names; None if they do not tell."""
    return _by_all_names(result, rest, layers, words)


def _by_all_names(
    result: Ordered, rest: list[Group], layers: list[Group], part: Callable[[str], Part]
) -> dict[str, Group] | None:
    open_ = [layer for layer in layers if layer.name not in result.norms]
    owners = [_by_name(norm, open_, rest, part) for norm in rest]
    names = {owner.name for owner in owners if owner is not None}
    if len(names) != len(rest):
        return None
    left = [layer for layer in open_ if layer.name not in names]
    if rest and result.input_norm is not None and _counts_from_the_input(result.input_norm, left):
        return None  # bn1 is the input's, so bn2 may belong to conv1
    return {owner.name: norm for owner, norm in zip(owners, rest, strict=True) if owner is not None}


def _counts_from_the_input(input_norm: Group, layers: list[Group]) -> bool:
    of_input = numbers(input_norm.name)
    return bool(of_input) and any(numbers(layer.name) == of_input for layer in layers)


def _by_rank(result: Ordered, rest: list[Group], layers: list[Group], facts: Facts) -> dict[str, Group] | None:
    """The places of as many batch-norms as there are layers without one, in order; None if their numbers differ.

    Only numbers give them an order: ``block0_bn`` before ``stem_bn`` is the alphabet's.
    """
    if not all(before(a.name, b.name) for a, b in itertools.pairwise(rest)):
        return None
    open_ = [layer for layer in layers if layer.name not in result.norms]
    blocks = result.convs[: len(result.convs) - (not result.dense)]
    wanted = [blocks[i] for i in facts.wanted(len(blocks))]
    for candidates in (open_, [c for c in open_ if c in blocks], [c for c in wanted if c in open_]):
        pairs = list(zip(candidates, rest, strict=False))
        if len(candidates) == len(rest) and all(layer.outputs == norm.outputs for layer, norm in pairs):
            return {layer.name: norm for layer, norm in pairs}
    return None


def _may_be_of_features(result: Ordered, norm: Group) -> bool:
    return bool(result.dense) and norm.outputs == result.dense[0].inputs


def _is_of_features(result: Ordered, norm: Group, placed: dict[str, Group], facts: Facts) -> bool:
    """Whether no block can have the batch-norm: each that may have one has its own, or all are of another size."""
    blocks = [result.convs[i] for i in facts.wanted(len(result.convs))]
    taken = {**result.norms, **placed}
    return all(block.name in taken or block.outputs != norm.outputs for block in blocks)


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
    without = [conv for conv in result.convs if not behind.get(conv.name)]
    if len(first) > 1:
        return False
    if result.dense and len(behind.get(last, [])) == 2 and not _are_of_others(behind[last], without):
        before_dense = behind[last].pop()
        if before_dense.outputs != result.dense[0].inputs:
            return False
        result.before_dense = before_dense
    head = layers[-1]
    many = any(len(found) > 1 for found in behind.values())
    fit = all(norm.outputs == layer.outputs for layer in layers for norm in behind.get(layer.name, []))
    has_one = len(result.convs) - 1 in facts.wanted(len(result.convs))
    if result.dense and len(behind.get(last, [])) == 1 and (not fit or not has_one):
        norm = behind[last][0]
        if norm.outputs == result.dense[0].inputs:
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


def _are_of_others(norms: list[Group], left: list[Group]) -> bool:
    """Whether a batch-norm has the name of one of the layers ``left``, which have none."""
    return any(
        _by_name(norm, left, [norm], part) is not None
        for norm in norms
        for part in ((numbers, words) if numbers(norm.name) else (words,))
    )


def _neighbour(norm: Group, layers: list[Group], norms: list[Group]) -> Group | None:
    """The layer that stands in one container with a batch-norm, in front of it or alone, or None."""
    parent, _, last = norm.name.rpartition(".")
    same = [layer for layer in layers if layer.name.rpartition(".")[0] == parent]
    if last.isdigit():
        ahead = [a for a in same if a.name.rpartition(".")[2].isdigit() and natural(a.name) < natural(norm.name)]
        owner = max(ahead, key=lambda layer: natural(layer.name), default=None)
        return owner if owner is not None and owner.outputs == norm.outputs else None
    siblings = [other for other in norms if other.name.rpartition(".")[0] == parent]
    alone = parent and len(same) == len(siblings) == 1 and same[0].outputs == norm.outputs
    return same[0] if alone else None


def _by_name(norm: Group, layers: list[Group], norms: list[Group], part: Callable[[str], Part]) -> Group | None:
    """The layer whose name has the same ``part`` as a batch-norm's, if there is one such pair."""
    own = part(norm.name)
    alike = [a for a in layers if part(a.name) == own and a.outputs == norm.outputs]
    if len(alike) > 1:  # conv1, fc1: a batch-norm of convolutions, unless its name tells otherwise
        alike = [a for a in alike if (a.kind == "dense") == sounds_dense(norm.name)]
        norms = [other for other in norms if sounds_dense(other.name) == sounds_dense(norm.name)]
    rivals = [other for other in norms if part(other.name) == own and other.outputs == norm.outputs]
    return alike[0] if len(alike) == 1 and len(rivals) == 1 else None


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


def _place_features_norm(result: Ordered, norm: Group, facts: Facts) -> None:
    """Place a batch-norm in front of the first dense layer, or behind it, where both fit and the plan says so."""
    first = result.dense[0]
    if first.outputs != norm.outputs or first.name in result.norms or facts.hidden[:1] == ("none",):
        result.before_dense = norm
    elif facts.hidden and facts.hidden[0] != "":
        result.norms[first.name] = norm
    else:
        raise ModelError(
            f"{norm.name}: a batch-norm in front of {first.name} or behind it; give hidden[0].batch_norm (before or "
            "after its activation, or none)"
        )


def _check_names(result: Ordered, norms: list[Group]) -> None:
    """Refuse batch-norms whose place in the file contradicts their names, all of them."""
    layers = [*result.convs, *result.dense]
    placed = list(result.norms.values())
    parts: list[Callable[[str], Part]] = [numbers, words] if all(numbers(norm.name) for norm in placed) else [words]
    named = {
        norm.name: _neighbour(norm, layers, norms)
        or next(filter(None, (_by_name(norm, layers, placed, part) for part in parts)), None)
        for norm in placed
    }
    if any(owner is None for owner in named.values()) or len({o.name for o in named.values() if o}) != len(named):
        return
    if result.input_norm is not None and _counts_from_the_input(result.input_norm, layers):
        return  # every batch-norm has the number of the layer behind it
    for name, norm in result.norms.items():
        owner = named[norm.name]
        if owner is not None and owner.name != name:
            raise ModelError(
                f"{norm.name}: stands behind {name} in the file, and its name belongs to {owner.name}; {_ASK}, with "
                "the batch-norms"
            )
