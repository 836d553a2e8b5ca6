"""What the names of a state dict's modules say about each other."""

from __future__ import annotations

import re

from .readers.state import natural

# Words that say what kind of layer it is, and not which one.
_KINDS = re.compile(r"c|n|convs?|convolutions?|bns?|norms?|batch|batchnorms?|normalization|layers?|fc|dense|lin|linear")


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


def numbers(name: str) -> tuple[int, ...]:
    """All numbers in a name."""
    return tuple(int(digits[:18]) for digits in re.findall(r"[0-9]+", name))


def words(name: str) -> tuple[str, ...]:
    """The words and numbers in a name without those of a kind of layer: of ``stem_bn`` and ``conv_stem`` "stem"."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    found = re.findall(r"[a-z]+|[0-9]+", re.sub(r"[12][dD](?![A-Za-z0-9])", "", apart).lower())
    return tuple(word for word in found if not _KINDS.fullmatch(word))


def sounds_dense(name: str) -> bool:
    """Whether a batch-norm's name says that it belongs to a dense layer."""
    return re.search(r"fc|dense|lin|1d", name.lower()) is not None
