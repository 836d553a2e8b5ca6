"""The networks that can be timed: everything the catalogue knows, and the paper's with random weights.

The trained weights of Choi, Fazekas, Sandler 2016 (arXiv:1606.00298) were never released; time and rounding error do
not depend on them as long as the activations keep their scale, which He initialisation sees to.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..document import FORMAT, Block, Frontend, Head, Log, ModelDocument, Pool, Segments, Source
from ..errors import ModelError

if TYPE_CHECKING:
    from ..modelfile import Model

# (out_channels, pool window = stride) of every block. FCN-4 and the pools of FCN-5 are the paper's; the middle widths
# of FCN-5 are likely; FCN-3 is a reading of it. The narrow FCN-5 is that of the authors' released system.
PAPER: dict[str, list[tuple[int, tuple[int, int]]]] = {
    "fcn3": [(256, (3, 5)), (768, (4, 16)), (2048, (8, 17))],
    "fcn4": [(128, (2, 4)), (384, (4, 5)), (768, (3, 8)), (2048, (4, 8))],
    "fcn5": [(128, (2, 4)), (256, (2, 4)), (512, (2, 4)), (1024, (3, 5)), (2048, (4, 4))],
    "fcn5-narrow": [(32, (2, 4)), (128, (2, 4)), (128, (2, 4)), (192, (3, 5)), (256, (4, 4))],
}
N_TAGS = 50
SEED = 0


def load(name: str) -> tuple[Model, bool]:
    """The model ``name`` (a name of PAPER, of the catalogue, or a path) and whether its weights are random.

    Raises ModelError for an unknown or missing model.
    """
    if name in PAPER:
        return paper_model(name), True
    from ..catalogue import load_model

    try:
        return load_model(name), False
    except ModelError as error:
        if Path(name).suffix or "/" in name:
            raise
        raise ModelError(f"{error}; with random weights: {', '.join(PAPER)}") from None


def paper_model(name: str) -> Model:
    """A network of PAPER with seeded random weights: 12 kHz, 96 mel bands, 1366 frames, N_TAGS scores."""
    import numpy as np

    from ..modelfile import Model, check_tensors

    document = _document(name)
    rng = np.random.default_rng(SEED)
    tensors = {}
    for tensor, shape in document.tensor_shapes().items():
        if tensor.startswith("input."):
            # Log-mel in dB below the maximum to about -3 .. 1.5, as trained networks want it.
            value = np.full(shape, 1 / 16 if tensor == "input.scale" else 1.5, np.float32)
        elif len(shape) == 4:
            value = rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / np.prod(shape[1:])))
        elif tensor == "head.weight":
            # Max-pooling lifts the maps to some units: small weights keep the sigmoids away from 0 and 1, where they
            # would hide every difference between two engines.
            value = rng.standard_normal(shape, np.float32) * np.float32(0.2 / np.sqrt(shape[1]))
        else:
            value = rng.standard_normal(shape, np.float32) * np.float32(0.05)
        tensors[tensor] = np.ascontiguousarray(value)
    check_tensors(document, tensors)
    return Model(document=document, tensors=tensors, sha256="", path=name)


def _document(name: str) -> ModelDocument:
    blocks, channels = [], 1
    for out_channels, window in PAPER[name]:
        pool = Pool(window=window, stride=window)
        blocks.append(Block(kernel=3, in_channels=channels, out_channels=out_channels, activation="relu", pool=pool))
        channels = out_channels
    return ModelDocument(
        format=FORMAT,
        name=name,
        description="a network of the paper with random weights, to be timed",
        tags=tuple(f"tag {i}" for i in range(N_TAGS)),
        licence="CC0-1.0",
        licence_notice="",
        training_data="none: random weights",
        source=Source(url="https://arxiv.org/abs/1606.00298", sha256="", file="", authors=""),
        metrics=(),
        notes=("random weights: the scores mean nothing",),
        frontend=Frontend(
            kind="mel",
            sample_rate=12000,
            n_fft=512,
            hop_length=256,
            framing="center",
            pad_mode="reflect",
            window="hann",
            n_mels=96,
            fmin=0.0,
            fmax=6000.0,
            mel_scale="slaney",
            mel_norm="slaney",
            power_exponent=1,
            rounding="none",
            log=Log(kind="db", amin=1e-10, ref="max", top_db=80.0),
            normalization="scalar",
            layout="mel_time",
        ),
        segments=Segments(rule="center", n_samples=349_440, short="repeat"),
        blocks=tuple(blocks),
        head=Head(flatten="chw", in_features=channels),
    ).validate()
