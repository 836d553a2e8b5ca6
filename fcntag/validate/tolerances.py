"""How far the engine may be from the reference, by precision, and why. The one place for it, the tests' included."""

from __future__ import annotations

PRECISIONS = ("float32", "tf32", "float16", "bfloat16")

# A block on its own: relative L2 of the pooled output, against the reference on the input that the block really had.
# float32: sums of up to 18,000 products, restarted every 64 channels, measured 5e-8 to 7e-7. The others: twice what
# rounding both operands of every product to the type gives (2^-11, 2^-11, 2^-8 at most each), and the transforms of
# Winograd on rounded numbers, measured 8.6e-3 at most for bfloat16.
BLOCK = {"float32": 1e-6, "tf32": 2e-3, "float16": 2e-3, "bfloat16": 1.6e-2}

# One value of a map, in units of the map's rms x BLOCK: catches a wrong element that the norm of a large map forgives.
# Values ten times the rms are usual behind a ReLU, their error is five standard deviations at most.
ONE_VALUE = 100.0

# The network's input, relative L2. float32 holds the logarithm to 6e-8 of 100 dB; normalisation subtracts most of it.
# Where the original rounds the power to float16, a last bit of the spectrum moves some 2e-4 of the values by one step.
MEL = 2e-6
MEL_FLOAT16 = 2e-5
# On a GPU the precisions below float32 use a float32 FFT, whose noise shows in near-silent bands.
MEL_FLOAT32_FFT = 1e-3
# One value of it, in units of its rms: the weakest bands of a loud frame are 1e-10 of its power.
MEL_ONE_VALUE = 1e-3

# The dense layer on its own, from the last map that the network really had: relative L2 of the logits. It multiplies
# in float32 in every precision; the sum may cancel to a tenth of its parts.
HEAD = 5e-6

# Scores, absolute, from the waveform, the losslessly reduced network included. Measured 2e-7 in float32.
SCORES = {"float32": 1e-5, "tf32": 1e-3, "float16": 2e-3, "bfloat16": 1e-2}

# What a reference that computes in float32 adds, per stage. The oracle and PyTorch compute in float64.
FLOAT32_BLOCK = 2e-6  # sums in an order of its own, not restarted: ONNX Runtime measured 1.4e-6 on 1024 channels
FLOAT32_HEAD = 5e-6
FLOAT32_SCORES = 1e-5


def chained(tolerance: float, depth: int) -> float:
    """What ``depth`` blocks of ``tolerance`` each may add up to, where a block's input comes out of the ones before.

    Their errors are independent: they add up as squares. One more, because input and tensors are rounded as well.
    """
    return float(tolerance * (1.0 + depth**0.5))
