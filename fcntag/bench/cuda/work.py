"""The least work of a stage on the GPU, in operations and bytes, and the report that compares it with the ceilings."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from ...model import filters
from ...reduce.crop import covered, needed_sizes
from ..report import Report, Row

if TYPE_CHECKING:
    from ..variants import Variant

# Rows of the GPU's time alone have the stage's name and this: the host's launches were hidden behind a kernel.
DEVICE_TIME = ", device time"
_BEFORE_NETWORK = ("h2d", "resample", "mel")


def network_stages(names: Iterable[str]) -> list[str]:
    """Those of the engine's stages that are blocks or the head."""
    return [name for name in names if name not in _BEFORE_NETWORK]


def flop(variant: Variant, stage: str, batch: int) -> float:
    """Floating-point operations of ``stage`` for a batch, as a direct convolution has them; a multiply-add is two."""
    if stage == "network" or stage.startswith("scores") or stage == "end to end":
        return 2.0 * batch * variant.multiply_adds
    if stage == "head":
        return 2.0 * batch * _dense(variant)
    if stage == "mel":
        return float(batch * _mel_flop(variant))
    if stage.startswith("block "):
        i = int(stage.removeprefix("block ")) - 1
        block = variant.model.document.blocks[i]
        return 2.0 * batch * _outputs(variant, i) * block.in_channels * block.out_channels * block.kernel**2
    return 0.0


def bytes_moved(variant: Variant, stage: str, batch: int, precision: str) -> float:
    """Bytes that ``stage`` has to move at least: it reads its weights and its input and writes its output, once each.

    Maps and weights have the precision's size; waves, log-mel, scores, and the dense layers' weights are float32.
    """
    element = 2 if precision in ("float16", "bfloat16") else 4
    document, sizes = variant.model.document, _sizes(variant)
    waves, log_mel = 4.0 * batch * variant.n_samples, 4.0 * batch * variant.height * variant.width
    weights = sum(a.size for name, a in variant.model.tensors.items() if name.startswith("blocks.")) * float(element)
    scores = 4.0 * batch * len(document.tags)
    if stage == "h2d":
        return waves
    if stage == "mel":
        return waves + log_mel
    if stage == "network":
        return weights + 4.0 * _dense(variant) + log_mel + scores
    if stage == "head":
        return 4.0 * _dense(variant) + element * batch * document.head.in_features + scores
    if stage.startswith("block "):
        i = int(stage.removeprefix("block ")) - 1
        block = document.blocks[i]
        height, width = sizes[i + 1]
        read = log_mel if i == 0 else element * float(batch * block.in_channels * sizes[i][0] * sizes[i][1])
        written = element * float(batch * block.out_channels * height * width)
        return element * float(variant.model.tensors[f"blocks.{i}.weight"].size) + read + written
    return waves + weights + 4.0 * _dense(variant) + scores


def peer_bytes(variant: Variant, batch: int, precision: str) -> float:
    """A rough bound of the GPU memory that a peer takes: its widest map before pooling, twice."""
    sizes, blocks = _sizes(variant), variant.model.document.blocks
    widest = max(block.out_channels * size[0] * size[1] for block, size in zip(blocks, sizes, strict=False))
    return 2.0 * widest * batch * (2 if precision in ("float16", "bfloat16") else 4)


def _sizes(variant: Variant) -> list[tuple[int, int]]:
    return variant.model.document.sizes_from(variant.height, variant.width)


def _outputs(variant: Variant, i: int) -> int:
    """Positions of block ``i``'s convolution: all of them, or, in a reduced network, those that can reach a score."""
    if variant.name == "original":
        height, width = _sizes(variant)[i]
        return height * width
    document = variant.model.document
    rows, columns = needed_sizes(document, document.map_sizes())[i + 1]
    pool = document.blocks[i].pool
    return covered(rows, pool, 0) * covered(columns, pool, 1)


def _dense(variant: Variant) -> int:
    return variant.model.document.head_multiply_adds()


def _mel_flop(variant: Variant) -> float:
    """Operations of one window: real FFT (2.5 N log2 N, as usual), every bin's power, the filters' non-zeros, DCT."""
    document = variant.original.document
    f = document.frontend
    n_frames = f.n_frames(variant.n_samples)
    if f.frames_stand_alone:
        _, n_frames = f.rows_and_frames(variant.height, variant.width)
    rows = 2.0 * np.count_nonzero(filters.row_filters(f)) + 2.0 * f.n_mfcc * f.n_mels
    return n_frames * (2.5 * f.n_fft * math.log2(f.n_fft) + f.n_fft + 3.0 * (f.n_fft // 2 + 1) + rows)


def peak_tflops(report: Report, row: Row) -> float:
    """The measured ceiling (mma.sync or fma) of the unit that ``row``'s stage multiplies with, TFLOP/s; 0 if unknown.

    The front end and the head multiply in float32 in every precision; the first block, which has one input channel, in
    float32 or, where maps have 16 bits, in float16.
    """
    unit, stage = row.precision, row.stage.removesuffix(DEVICE_TIME)
    if row.engine == "fcntag" and stage in ("mel", "head"):
        unit = "float32"
    elif row.engine == "fcntag" and stage == "block 1":
        unit = "float16" if row.precision in ("float16", "bfloat16") else "float32"
    return report.ceilings.get(f"tflops_{unit}", 0.0)


class CudaReport(Report):
    """A report whose bottleneck is a stage on the GPU."""

    def bottleneck(self, model: str) -> str:
        """A sentence that names the stage which takes most of the largest batch in the first precision."""
        ours = [row for row in self.rows if row.model == model and row.batch and row.engine == "fcntag"]
        ours = [row for row in ours if not row.stage.endswith(DEVICE_TIME)]
        stages = [row for row in ours if row.stage in ("mel", "head") or row.stage.startswith("block ")]
        if not stages:
            return f"{model}: its stages were not timed"
        precision, batch = stages[0].precision, max(row.batch for row in stages)
        times = {r.stage: r.median_s for r in stages if r.precision == precision and r.batch == batch}
        total, longest = sum(times.values()), max(times, key=lambda name: times[name])
        parts = ", ".join(f"{name} {1e6 * seconds / batch:.1f}" for name, seconds in times.items())
        share = 100 * times[longest] / total if total else 0.0
        return (
            f"{model}: {longest} takes {share:.0f} % of a window in {precision}, batch {batch}"
            f" (microseconds a window: {parts})"
        )
