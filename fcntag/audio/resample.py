"""The resampling rule: soxr HQ, the length of the result, and the input positions where soxr repeats its own result.

A soxr stream works in blocks (FFT filters) and phases (the rational last stage), so that its rounding errors depend on
where it started. Two streams whose starts are a whole number of *steps* apart agree bit for bit once the filters are
filled. The step of a pair of rates is a property of soxr's filter design. Those below were found by comparing streams
at every multiple of the rational period. Before a step is used, :func:`exact_step` proves it again with the installed
soxr. Any other offset gives samples that differ in the last bits (around 1e-7 of full scale).
"""

from __future__ import annotations

import os
import threading
import weakref
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .. import process

if TYPE_CHECKING:
    import numpy as np

QUALITY = "HQ"
# (source rate, target rate) -> input samples of one step; each corresponds to a whole number of output samples.
_STEPS = {
    (8000, 12000): 1468,
    (11025, 12000): 120540,
    (16000, 12000): 1108,
    (22050, 12000): 6027,
    (24000, 12000): 1660,
    (32000, 12000): 3016,
    (44100, 12000): 492744,
    (48000, 12000): 3280,
    (88200, 12000): 324576,
    (96000, 12000): 6512,
    (176400, 12000): 1935696,
    (192000, 12000): 12960,
    (8000, 16000): 830,
    (12000, 16000): 2490,
    (22050, 16000): 109368,
    (24000, 16000): 2202,
    (32000, 16000): 1660,
    (44100, 16000): 218736,
    (48000, 16000): 4404,
    (88200, 16000): 1287720,
    (96000, 16000): 20928,
    (176400, 16000): 684432,
    (192000, 16000): 13872,
}
# The filters are filled after so many seconds of output; the slowest pair above settles in 0.104 s.
SETTLE_S = 0.5


def output_length(n_samples: int, sample_rate: int, rate: int) -> int:
    """The length of a resampled signal: ceil(n_samples * rate / sample_rate), in whole numbers.

    librosa multiplies by a rounded ratio. Where the true product is a whole number, its length can be one more, and the
    last sample is then a zero. Of the usual rates this happens from 11.025 * 2**k kHz to 12 kHz.
    """
    return -(-n_samples * rate // sample_rate)


class Stream:
    """A mono float32 ``soxr.ResampleStream`` at the quality that the original front ends used."""

    def __init__(self, sample_rate: int, rate: int) -> None:
        import soxr

        with process.audio_libraries:
            self._stream: Any = soxr.ResampleStream(sample_rate, rate, 1, dtype="float32", quality=QUALITY)
        self.thread = threading.get_ident()
        _streams.add(self)

    def resample_chunk(self, samples: np.ndarray, last: bool) -> np.ndarray:
        """The next of the output [m] for ``samples`` [n]; with ``last`` all that is left."""
        with process.audio_libraries:
            output: np.ndarray = self._stream.resample_chunk(samples, last=last)
            return output

    def drop(self) -> None:
        """Free soxr's part. The stream cannot be used afterwards."""
        self._stream = None


_streams: weakref.WeakSet[Stream] = weakref.WeakSet()


def _drop_streams() -> None:
    """Free the streams of all other threads, which will not run again: at exit soxr's bindings report what is left."""
    for stream in list(_streams):
        if stream.thread != threading.get_ident():
            stream.drop()


def _drop_streams_at_end() -> None:
    if process.audio_libraries.wait_until_empty():
        _drop_streams()


process.at_end(_drop_streams_at_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_streams)


def stream(sample_rate: int, rate: int) -> Stream:
    """A new :class:`Stream` from one rate to another, in Hz."""
    return Stream(sample_rate, rate)


@lru_cache(maxsize=64)
def exact_step(sample_rate: int, rate: int) -> int | None:
    """Input samples between positions from which a fresh stream repeats the full one bit for bit; None: not known."""
    if sample_rate == rate:
        return 1
    step = _STEPS.get((sample_rate, rate))
    if step is None:
        return None
    import numpy as np
    import soxr

    settle = int(SETTLE_S * rate)
    noise = np.random.default_rng(0).standard_normal(step + 2 * sample_rate, dtype=np.float32)
    with process.audio_libraries:
        full = soxr.resample(noise, sample_rate, rate, quality=QUALITY)[step * rate // sample_rate :]
        again = soxr.resample(noise[step:], sample_rate, rate, quality=QUALITY)
    # The last samples are left out: the end of the signal is rounded like its middle only by chance.
    n_samples = min(len(full), len(again)) - settle
    return step if np.array_equal(full[settle:n_samples], again[settle:n_samples]) else None
