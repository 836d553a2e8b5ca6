"""The axes of the data on its way through an ONNX graph."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Axes:
    """The axes of a tensor without the batch: which of the network's own axes lie along each, the slowest first.

    The network's axes are "a" and "b", those of the image in the order of the graph's input, and "c", the channels. A
    flattened map has one axis "cab". An axis of length 1 is left out: it may lie anywhere.

    Attributes
    ----------
    groups : for every axis of the tensor, its letters; "" for an axis of length 1
    extent : length of each letter
    """

    groups: tuple[str, ...]
    extent: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, groups: tuple[str, ...], **extent: int) -> Axes:
        """With letters of length 1 left out; a letter that is not given has length 1."""
        kept = tuple("".join(letter for letter in group if extent.get(letter, 1) != 1) for group in groups)
        return cls(kept, tuple(sorted(extent.items())))

    def size(self, letter: str) -> int:
        """Length of one of the network's axes."""
        return dict(self.extent).get(letter, 1)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The tensor's shape without the batch."""
        return tuple(math.prod(self.size(letter) for letter in group) for group in self.groups)

    @property
    def order(self) -> str:
        """All letters in the order of the values, those of length 1 last."""
        letters = "".join(self.groups)
        return letters + "".join(letter for letter in "cab" if letter not in letters)

    def resized(self, **extent: int) -> Axes:
        """The same tensor axes with other lengths; a letter whose length was 1 must have none of them."""
        return Axes.of(self.groups, **{**dict(self.extent), **extent})

    def transposed(self, order: list[int]) -> Axes:
        """Axis ``order[i]`` becomes axis i."""
        return replace(self, groups=tuple(self.groups[i] for i in order))

    def reshaped(self, sizes: list[int]) -> Axes | None:
        """The same values in the same order with other borders; None where a border would cut one of the letters."""
        letters = list("".join(self.groups))
        groups = []
        for size in sizes:
            group, length = "", 1
            while length < size and letters:
                group += letters.pop(0)
                length *= self.size(group[-1])
            if length != size:
                return None
            groups.append(group)
        return None if letters else replace(self, groups=tuple(groups))

    def image(self, usual: str) -> str | None:
        """The letters of the two image axes of a tensor [C, H, W], "ab" or "ba"; None if it is no such tensor.

        ``usual`` is the answer where both have length 1.
        """
        if len(self.groups) != 3 or self.groups[0] not in ("c", "") or (self.groups[0] == "" and self.size("c") > 1):
            return None
        found = self.groups[1:]
        if any(group not in ("a", "b", "") for group in found):
            return None
        other = {"a": "b", "b": "a"}
        if not any(found):
            return usual
        return (found[0] or other[found[1]]) + (found[1] or other[found[0]])
