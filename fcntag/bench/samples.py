"""Statistics of timing samples: percentiles, a robust spread, and the limit above which a change is no noise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

# A median that changes by less than this share is taken for unchanged. Two quiet runs on one machine differ by some
# per cent, whatever the samples within each run say: frequency, memory layout and neighbours stay the same during a
# run, and change between runs.
MIN_CHANGE = 0.05
# A change of less than three robust standard deviations of the samples is taken for their noise.
SPREADS = 3.0
# Rows with fewer samples are not judged: their median absolute deviation is often near 0 by chance.
MIN_SAMPLES = 5
# Of a normal distribution, the standard deviation over the median absolute deviation.
_MAD_TO_SIGMA = 1.4826


def percentile(samples: Sequence[float], q: float) -> float:
    """The ``q``-th percentile (0 to 100) of at least one sample, linear between neighbours."""
    ordered = sorted(samples)
    position = (len(ordered) - 1) * q / 100
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def spread(samples: Sequence[float]) -> float:
    """Relative spread: 1.4826 x the median absolute deviation, over the median; a few outliers do not move it."""
    middle = statistics.median(samples)
    return _MAD_TO_SIGMA * statistics.median(abs(s - middle) for s in samples) / middle if middle else 0.0


def median_ratio(samples: Sequence[float], baseline: Sequence[float]) -> float:
    """Median of the ratios of samples that were taken in turn.

    A slow phase of the machine hits both sides of a ratio, and so leaves it as it is.
    """
    return statistics.median(s / b for s, b in zip(samples, baseline, strict=True))


def limit(old: Sequence[float], new: Sequence[float]) -> float:
    """The ratio of medians new / old above which ``new`` is slower beyond noise."""
    return 1.0 + max(MIN_CHANGE, SPREADS * math.hypot(spread(old), spread(new)))
