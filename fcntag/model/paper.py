"""The networks of Choi, Fazekas, Sandler, "Automatic tagging using deep convolutional neural networks" (ISMIR 2016,
arXiv:1606.00298), by name, and seeded random weights for them and for any other stack of blocks.

The trained weights of the paper were never released. Time and rounding error do not depend on them as long as the
activations keep their scale, which He initialisation sees to. Batch-norm comes before the ReLU and is folded into
weights and biases, dropout does nothing at inference: a block is convolution, ReLU and max-pool.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ModelError
from .document import FORMAT, Block, Frontend, Head, Log, ModelDocument, Pool, Segments, Source

if TYPE_CHECKING:
    import numpy as np

    from .file import Model

N_TAGS = 50  # of the paper: the most frequent of MagnaTagATune and of the Million Song Dataset
NO_TRAINING = "none: random weights"
NO_MEANING = "random weights: the scores mean nothing"
# Notes on a network of the paper begin with these words, or read so. They hold for any weights, but not the last of
# them for another input scale.
KNOWN = "of the paper or its authors: "
NOT_CERTAIN = "not certain: "
OUR_FRONT_END = "the pad, window and mel scale of the front end and its fixed input scale are ours in every network"

Layer = tuple[int, int, tuple[int, int]]  # out_channels, kernel, pool window = stride


@dataclass(frozen=True)
class Network:
    """A stack of blocks with a name. ``known`` is the word of its source, ``ours`` our own choices ("" if none)."""

    layers: tuple[Layer, ...]
    known: str
    ours: str = ""
    kind: Literal["mel", "stft", "mfcc"] = "mel"


def _stack(channels: Sequence[int], pools: Sequence[tuple[int, int]]) -> tuple[Layer, ...]:
    return tuple((out, 3, pool) for out, pool in zip(channels, pools, strict=True))


_POOLS_3 = ((3, 5), (4, 16), (8, 17))
_POOLS_4 = ((2, 4), (4, 5), (3, 8), (4, 8))
_POOLS_5 = ((2, 4), (2, 4), (2, 4), (3, 5), (4, 4))
_CHANNELS_4 = (128, 384, 768, 2048)
_FCN5 = _stack((128, 256, 512, 1024, 2048), _POOLS_5)
_ONE_BY_ONE: Layer = (1024, 1, (1, 1))
_INPUT = "log-mel of 96 bands and 1366 frames (12 kHz, n_fft 512, hop 256), 50 sigmoids"
_WIDTHS_5 = "FCN-5's ends and pools are the paper's, its middle widths (256, 512, 1024) are likely"

PAPER: dict[str, Network] = {
    "fcn3": Network(
        _stack((256, 768, 2048), _POOLS_3),
        known=f"{_INPUT}; three blocks that end in 2048 channels of 1 x 1",
        ours="widths 256, 768 and pools (3,5), (4,16), (8,17) are our reading of the paper",
    ),
    "fcn4": Network(
        _stack(_CHANNELS_4, _POOLS_4),
        known=f"{_INPUT}; widths 128, 384, 768, 2048 and pools (2,4), (4,5), (3,8), (4,8) "
        "(the paper's '24x85' after the second pool is a misprint)",
    ),
    "fcn5": Network(_FCN5, known=f"{_INPUT}; widths 128 ... 2048 and all pools", ours=_WIDTHS_5),
    "fcn6": Network(
        (*_FCN5, _ONE_BY_ONE),
        known=f"{_INPUT}; FCN-5 with a 1 x 1 convolution before the output",
        ours=f"its 1024 channels are likely; {_WIDTHS_5}",
    ),
    "fcn7": Network(
        (*_FCN5, _ONE_BY_ONE, _ONE_BY_ONE),
        known=f"{_INPUT}; FCN-5 with two 1 x 1 convolutions before the output",
        ours=f"their 1024 channels are likely; {_WIDTHS_5}",
    ),
    "fcn4-stft": Network(
        _stack(_CHANNELS_4, _POOLS_4),
        known="FCN-4 on an STFT of 128 bins and 1366 frames",
        ours="n_fft 256 at hop 256 (the size that has 128 bins) without the constant's bin, Hann window, power in dB "
        "below the maximum, floor at -80: our reading, as are FCN-4's own pools: 128 -> 64 -> 16 -> 5 -> 1",
        kind="stft",
    ),
    "fcn4-mfcc": Network(
        _stack(_CHANNELS_4, ((2, 4), (4, 5), (3, 8), (3, 8))),
        known="FCN-4 on 90 rows and 1366 frames: 30 MFCC, their deltas, their delta-deltas",
        ours="pools (2,4), (4,5), (3,8), (3,8), since FCN-4's do not fit 90 rows, and the MFCC's settings: the first "
        "30 coefficients of 96 mel bands in dB, with librosa's defaults for DCT, floor and deltas, are our reading",
        kind="mfcc",
    ),
    "fcn3-narrow": Network(
        _stack((32, 128, 256), _POOLS_3),
        known=f"{_INPUT}; narrow networks begin with 32 channels and end with 256",
        ours="the middle width 128 is our reading, and FCN-3's pools are",
    ),
    "fcn4-narrow": Network(
        _stack((32, 128, 192, 256), _POOLS_4),
        known=f"{_INPUT}; narrow networks begin with 32 channels and end with 256; FCN-4's pools",
        ours="the middle widths 128, 192 are our reading",
    ),
    "fcn5-narrow": Network(
        _stack((32, 128, 128, 192, 256), _POOLS_5),
        known=f"{_INPUT}; widths 32, 128, 128, 192, 256 and pools of the authors' released system",
    ),
}

_MEL: dict[str, Any] = {"n_mels": 96, "fmin": 0.0, "fmax": 6000.0, "mel_scale": "slaney", "mel_norm": "slaney"}
_BELOW_MAXIMUM = {"log": Log(kind="db", amin=1e-10, ref="max", top_db=80.0), "normalization": "scalar"}
_FRONTENDS: dict[str, dict[str, Any]] = {
    "mel": {"n_fft": 512, **_BELOW_MAXIMUM, **_MEL},
    "stft": {"n_fft": 256, **_BELOW_MAXIMUM, "n_bins": 128, "first_bin": 1, "merged_bins": 1},
    # In dB as librosa.feature.mfcc has them. Rows differ too much for one scale: c0 is about -300, deltas about 5.
    "mfcc": {
        "n_fft": 512,
        "n_mfcc": 30,
        **_MEL,
        "log": Log(kind="db", amin=1e-10, top_db=80.0),
        "normalization": "per_mel",
    },
}


def document(name: str, *, tags: Sequence[str] | None = None) -> ModelDocument:
    """The document of the network ``name`` of PAPER with weights that are random; labels default to "tag 0" and on.

    Raises ModelError for an unknown name or for labels that a document may not have.
    """
    if name not in PAPER:
        raise ModelError(f"{name}: unknown network; known: {', '.join(PAPER)}")
    network = PAPER[name]
    blocks, channels = [], 1
    for out_channels, kernel, window in network.layers:
        pool = Pool(window=window, stride=window)
        blocks.append(
            Block(kernel=kernel, in_channels=channels, out_channels=out_channels, activation="relu", pool=pool)
        )
        channels = out_channels
    return ModelDocument(
        format=FORMAT,
        name=name,
        description="a network of Choi, Fazekas, Sandler 2016 with random weights",
        tags=tuple(f"tag {i}" for i in range(N_TAGS)) if tags is None else tuple(tags),
        licence="CC0-1.0",
        licence_notice="",
        training_data=NO_TRAINING,
        source=Source(url="https://arxiv.org/abs/1606.00298", sha256="", file="", authors=""),
        metrics=(),
        notes=(
            NO_MEANING,
            f"{KNOWN}{network.known}",
            *([f"{NOT_CERTAIN}{network.ours}"] if network.ours else []),
            OUR_FRONT_END,
        ),
        frontend=Frontend(
            kind=network.kind,
            sample_rate=12000,
            hop_length=256,
            framing="center",
            pad_mode="reflect",
            window="hann",
            power_exponent=1,
            rounding="none",
            layout="mel_time",
            **_FRONTENDS[network.kind],
        ),
        segments=Segments(rule="center", n_samples=349_440, short="repeat"),
        blocks=tuple(blocks),
        head=Head(flatten="chw", in_features=channels),
        random_weights=True,
    ).validate()


def about_network(notes: Sequence[str]) -> tuple[str, ...]:
    """The part of a document's ``notes`` that holds for a network of PAPER with other weights and its own input scale.

    Empty for other models, whose notes tell of their originals.
    """
    ours = OUR_FRONT_END.replace(" and its fixed input scale", "")
    return tuple(
        ours if note == OUR_FRONT_END else note
        for note in notes
        if note.startswith((KNOWN, NOT_CERTAIN)) or note == OUR_FRONT_END
    )


def paper_model(name: str, *, seed: int = 0, tags: Sequence[str] | None = None) -> Model:
    """The network ``name`` of PAPER with random weights; see :func:`document` and :func:`random_model`."""
    return random_model(document(name, tags=tags), seed=seed)


def as_random(original: ModelDocument, seed: int) -> ModelDocument:
    """The same front end, blocks and labels, described as what they are with random weights; validated.

    Its name ends in ``-random-{seed}``, so that every record of a result says what gave it.
    """
    notes = original.notes if NO_MEANING in original.notes else (NO_MEANING, *original.notes)
    return dataclasses.replace(
        original,
        name=f"{original.name}-random-{seed}",
        training_data=NO_TRAINING,
        metrics=(),
        notes=notes,
        random_weights=True,
    ).validate()


def random_model(original: ModelDocument, *, seed: int = 0) -> Model:
    """``original``'s stack of blocks, any that a document can hold, with He-initialised weights of ``seed`` >= 0.

    Equal documents and seeds give equal bits with the same NumPy. Raises ValueError for a negative seed.
    """
    import numpy as np

    from .file import Model, check_tensors

    if seed < 0:
        raise ValueError(f"seed={seed}; must be at least 0")
    described = as_random(original, seed)
    rng = np.random.default_rng(seed)
    inputs = _input_tensors(described)
    tensors = {}
    for name, shape in described.tensor_shapes().items():
        if name in inputs:
            value = np.broadcast_to(inputs[name], shape).astype(np.float32)
        elif len(shape) == 4 or (len(shape) == 2 and name != "head.weight"):
            value = rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / np.prod(shape[1:])))
        elif name == "head.weight":
            # Max-pooling lifts the maps to some units: small weights keep the sigmoids away from 0 and 1, where they
            # would hide every difference between two engines.
            value = rng.standard_normal(shape, np.float32) * np.float32(0.2 / np.sqrt(shape[1]))
        else:
            value = rng.standard_normal(shape, np.float32) * np.float32(0.05)
            if name.endswith(".scale"):  # of the affine after an activation
                value += np.float32(1)
        tensors[name] = np.ascontiguousarray(value)
    check_tensors(described, tensors)
    return Model(document=described, tensors=tensors, sha256="", path=described.name)


def _input_tensors(described: ModelDocument) -> dict[str, np.ndarray]:
    """input.scale and input.shift that bring the front end's values to about -3 .. 3, as trained networks want them."""
    import numpy as np

    frontend = described.frontend
    if frontend.kind == "mfcc":
        # On music: c0 about -300 +- 100, the others +- 20, deltas +- 5. One scale for all where rows have none.
        scale, shift = np.array([1 / 20]), np.array([0.0])
        if frontend.normalization == "per_mel":
            scale = np.repeat([1 / 20, 1 / 5, 1 / 5], frontend.n_mfcc)
            shift = np.zeros(len(scale))
            scale[0], shift[0] = 1 / 100, 3.0
    elif frontend.log.kind == "db":
        scale, shift = np.array([1 / 16]), np.array([1.5])
    else:
        scale, shift = np.array([1.0]), np.array([0.0])
    return {"input.scale": scale, "input.shift": shift}
