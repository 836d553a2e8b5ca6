"""How far the engine may be from the reference, by precision, and why. The tests use these numbers too."""

from __future__ import annotations

# A block on its own: relative L2 of the pooled output, against the reference on the input that the block really had.
# float32 sums up to 18,000 products, restarted every 64 channels; measured were 5e-8 to 9e-7. The other precisions may
# have twice the error of rounding both operands of every product to the type (2^-11, 2^-11, 2^-8 at most each).
BLOCK = {"float32": 1e-6, "tf32": 2e-3, "float16": 2e-3, "bfloat16": 1.6e-2}
# The CPU's Winograd blocks round to bfloat16 after the transform. Its parts are larger than the products of taps that
# they replace, so the error is 2 to 7 times that of rounding the operands themselves. 1.6e-2 was the most measured.
BLOCK_WINOGRAD_BFLOAT16 = 3e-2

# One value of a map, in units of the map's rms x BLOCK. It finds a wrong element that the norm of a large map hides.
# Values ten times the rms are usual behind a ReLU, and their error is five standard deviations at most.
ONE_VALUE = 100.0

# The network's input, relative L2. The front end computes in float64, so only the last step to float32 rounds; 3e-8 was
# measured. Where the original rounds the power to float16, a last bit of the spectrum may still move a value by one
# step of 2^-10.
MEL = 5e-7
MEL_FLOAT16 = 1e-5
# On a GPU the precisions below float32 use a float32 FFT, whose noise shows in near-silent bands.
MEL_FLOAT32_FFT = 1e-3
# One value of it, in units of its rms: the weakest bands of a loud frame are 1e-10 of its power.
MEL_ONE_VALUE = 1e-3

# A dense layer on its own, from the values that really entered it: relative L2 of its output. It multiplies in float32
# in every precision. The last one sums in double: 3e-8 was measured of the logits. A hidden one sums in float32: 2e-7.
# Values near zero may be sums that cancel to a tenth of their parts.
HEAD = 1e-6

# Scores, absolute, from the waveform, the losslessly reduced network included. Measured 2e-7 in float32.
SCORES = {"float32": 1e-5, "tf32": 1e-3, "float16": 2e-3, "bfloat16": 1e-2}

# A reference that computes in float32 adds this much, per stage. The oracle and PyTorch compute in float64.
FLOAT32_BLOCK = 1e-6  # the engine's own limit (docs/numerics.md) holds for it too; both together measured 9e-7 at most
FLOAT32_HEAD = 1e-6  # measured 3e-7 on 2048 features
FLOAT32_SCORES = 1e-5


def block(precision: str, device: str) -> float:
    """Relative L2 that a block on its own may have in ``precision`` on ``device`` ("cpu", "cuda:0", ...)."""
    return BLOCK_WINOGRAD_BFLOAT16 if (precision, device) == ("bfloat16", "cpu") else BLOCK[precision]


def chained(tolerance: float, depth: int) -> float:
    """The tolerance of ``depth`` blocks in a row, where each alone has ``tolerance``.

    Their errors are independent, so their squares add up. One more is added for the rounding of input and tensors.
    """
    return float(tolerance * (1.0 + depth**0.5))
