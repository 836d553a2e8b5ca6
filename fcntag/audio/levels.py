"""Warnings about samples in another range than a recording's: full scale is 1, whatever the source.

Integers that were turned into floats without a division are 48 to 96 dB too loud, and 16- or 24-bit values in 32-bit
words without a shift as much too quiet. Both decode without an error, and the scores are those of other music.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

Stored = Literal["float", "int32", "other"]  # how a source stores its samples: "other" cannot leave its range

FAR = 8.0  # times full scale; mixes that were never limited stay below it
FEW = 16  # samples that may lie beyond, as clicks do
SILENCE = 1 << 7  # of 2**31: what never leaves it is the noise of a silent file
SWING = 0.1  # what never changes by so much has no middle to tell of


class Levels:
    """What the samples seen so far reach. It may be told the same ones again, by another pass over the sound."""

    def __init__(self, stored: Stored) -> None:
        self._stored = stored
        self._peak = 0.0
        self._far = 0  # samples beyond FAR in one pass
        self._far_now = 0
        self._least, self._most = math.inf, -math.inf
        self._sum, self._count = 0.0, 0
        self._low_byte = 0

    def begin_pass(self) -> None:
        self._far_now = 0

    def see(self, block: np.ndarray) -> None:
        """Take float32 samples [n, channels] into account."""
        if self._stored == "float":
            self._see_float(block)
        elif self._stored == "int32":
            self._see_int32(block)

    def _see_float(self, block: np.ndarray) -> None:
        least, most = float(block.min()), float(block.max())
        peak = max(most, -least)
        self._least, self._most = min(self._least, least), max(self._most, most)
        self._peak = max(self._peak, peak)
        if peak > FAR:
            self._far_now += int((block > FAR).sum()) + int((block < -FAR).sum())
            self._far = max(self._far, self._far_now)
        elif self._least >= 0:
            self._sum += float(block.sum())
            self._count += block.size

    def _see_int32(self, block: np.ndarray) -> None:
        import numpy as np

        if self._peak > 1 << 23:
            return
        self._peak = max(self._peak, max(float(block.max()), -float(block.min())) * 2.0**31)
        if self._peak <= 1 << 23:  # up to there float32 holds the integers themselves
            self._low_byte |= (
                int(np.bitwise_or.reduce((block * np.float32(2.0**31)).astype(np.int32), axis=None)) & 0xFF
            )

    def warnings(self) -> list[str]:
        """Sentences about what the samples seen so far are likely to be."""
        text = self._of_float() if self._stored == "float" else self._of_int32() if self._stored == "int32" else None
        return [] if text is None else [text]

    def _of_float(self) -> str | None:
        if self._far > FEW:
            text = f"float samples reach {self._peak:.5g}, and full scale is 1"
            if self._least >= 0 and 128 < self._peak <= 255:
                return f"{text}: they look like unsigned integers of 8 bits; take off 128, then divide by 128"
            for bits, least in ((8, 64), (16, 128), (24, 1 << 15), (32, 1 << 23)):
                if least < self._peak <= 1 << (bits - 1):
                    return f"{text}: they look like integers of {bits} bits; divide by {1 << (bits - 1)}"
            return text
        if self._least >= 0 and self._count and self._most <= 1 and self._most - self._least > SWING:
            mean = self._sum / self._count
            if 0.25 <= mean <= 0.75:
                return f"no sample is below 0, and their mean is {mean:.2f}: the middle of a recording is 0"
        return None

    def _of_int32(self) -> str | None:
        # A converter of 24 bits leaves the low byte of every word 0: a quiet recording that it made is not accused.
        if self._peak < SILENCE or self._peak > 1 << 23 or not self._low_byte:
            return None
        bits = 16 if self._peak <= 1 << 15 else 24
        level = 20 * math.log10(self._peak / (1 << 31))
        return (
            f"no 32-bit sample leaves the range of {bits} bits, so that the peak is {level:.0f} dB: "
            f"if they hold {bits}-bit values, multiply them by {1 << (32 - bits)}"
        )
