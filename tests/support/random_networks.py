"""Random networks of the document's block: as plain layers with their weights, which float64 PyTorch computes.

A layer is a tuple: its kind, then its numbers. ``("conv", weight, bias)``, ``("bn", gamma, beta, mean, variance)``,
``("act", "relu" or "elu")``, ``("pool", window, stride)``, ``("global", "max" or "mean")`` over (H, W), ``("axis",
kind, axis)`` over H (2) or W (3) alone, ``("flatten", "chw" or "hwc")``, ``("dense", weight, bias)``, ``("sigmoid",)``.
Images are [B, 1, H, W].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

BANDS, FRAMES = 20, 32
N_TAGS = 6


@dataclass
class Network:
    """Layers in order, and whether the image is [bands, frames] or [frames, bands]."""

    layers: list[tuple[Any, ...]]
    time_first: bool

    @property
    def size(self) -> tuple[int, int]:
        return (FRAMES, BANDS) if self.time_first else (BANDS, FRAMES)

    def kinds(self) -> str:
        """For the message of a test that fails."""
        parts = []
        for layer in self.layers:
            shape = list(layer[1].shape) if layer[0] in ("conv", "dense") else ""
            rest = [x for x in layer[1:] if not isinstance(x, np.ndarray) and x is not None]
            parts.append(f"{layer[0]}{shape}{rest or ''}")
        return " ".join(parts) + (" time first" if self.time_first else "")


class _Maker:
    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.layers: list[tuple[Any, ...]] = []
        self.channels = 1
        self.size = (0, 0)

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def pick(self, *choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def normal(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        return (scale * self.rng.standard_normal(shape)).astype(np.float32)

    def uniform(self, low: float, high: float, n: int) -> np.ndarray:
        return self.rng.uniform(low, high, n).astype(np.float32)

    def norm(self, n: int, negative: bool) -> None:
        gamma = self.uniform(0.5, 1.5, n)
        if negative:
            gamma *= np.where(self.rng.random(n) < 0.3, -1, 1).astype(np.float32)
        self.layers.append(("bn", gamma, self.normal(n, scale=0.3), self.normal(n, scale=0.3), self.uniform(0.4, 2, n)))

    def conv(self, out: int, kernel: tuple[int, int], same: bool = True) -> None:
        fan = self.channels * kernel[0] * kernel[1]
        bias = self.normal(out, scale=0.2) if self.chance(0.8) else None
        self.layers.append(("conv", self.normal(out, self.channels, *kernel, scale=(2 / fan) ** 0.5), bias, same))
        self.channels = out

    def pool(self) -> None:
        window = tuple(int(self.rng.integers(1, min(n, 4) + 1)) for n in self.size)
        stride = window if self.chance(0.7) else tuple(int(self.rng.integers(1, w + 2)) for w in window)
        self.layers.append(("pool", window, stride))
        self.size = tuple((n - w) // s + 1 for n, w, s in zip(self.size, window, stride, strict=True))  # type: ignore[assignment]

    def block(self) -> None:
        self.conv(int(self.rng.integers(1, 9)), (1, 1) if self.chance(0.15) else (3, 3))
        order = self.pick("bap", "abp", "ap", "bp", "pba", "apb", "pab", "a", "bapb", "pbap", "p", "")
        for what in order:
            if what == "b":
                self.norm(self.channels, self.chance(0.4))
            elif what == "a":
                self.layers.append(("act", self.pick("relu", "relu", "elu")))
            elif max(self.size) > 1:
                self.pool()

    def dense(self, n: int, out: int) -> None:
        bias = self.normal(out, scale=0.2) if self.chance(0.8) else None
        self.layers.append(("dense", self.normal(out, n, scale=n**-0.5), bias))


def make(rng: np.random.Generator) -> Network:
    """A network of 1 to 7 blocks, any head, with weights and statistics that make every layer matter."""
    maker = _Maker(rng)
    time_first = maker.chance(0.3)
    maker.size = (FRAMES, BANDS) if time_first else (BANDS, FRAMES)
    if maker.chance(0.2):
        maker.norm(1, maker.chance(0.3))
    for _ in range(int(rng.integers(1, 8))):
        maker.block()
    layers = maker.layers
    ending = maker.pick("flatten", "flatten", "global", "global", "axis", "scores", "whole")
    if ending == "scores":  # a convolution to the tags, then a global pool
        maker.conv(N_TAGS, maker.pick((1, 1), (3, 3)))
        if maker.chance(0.3):
            maker.norm(N_TAGS, True)
        layers += [("global", maker.pick("max", "mean")), ("flatten", "chw")]
    elif ending == "whole":  # a convolution of the whole map
        maker.conv(N_TAGS, maker.size, same=False)
        layers.append(("flatten", "chw"))
    else:
        if ending == "global":
            layers.append(("global", maker.pick("max", "mean")))
            maker.size = (1, 1)
        elif ending == "axis":
            axis = maker.pick(2, 3)
            layers.append(("axis", maker.pick("max", "mean"), axis))
            maker.size = (1, maker.size[1]) if axis == 2 else (maker.size[0], 1)
        if maker.chance(0.15):
            maker.norm(maker.channels, True)
        layers.append(("flatten", maker.pick("chw", "hwc")))
        n = maker.channels * maker.size[0] * maker.size[1]
        if maker.chance(0.25):
            maker.norm(n, True)
        for _ in range(maker.pick(0, 0, 1, 1, 2)):
            out = int(rng.integers(1, 12))
            maker.dense(n, out)
            for what in maker.pick("a", "ba", "ab", "a", "", "b"):
                if what == "a":
                    layers.append(("act", maker.pick("relu", "elu")))
                else:
                    maker.norm(out, True)
            n = out
        maker.dense(n, N_TAGS)
        if maker.chance(0.1):
            maker.norm(N_TAGS, True)
    layers.append(("sigmoid",))
    return Network(layers, time_first)


def step(layer: tuple[Any, ...], x: Any, tensor: Any) -> Any:
    """One layer by PyTorch's functions; ``tensor`` makes a tensor of an array."""
    import torch
    from torch.nn import functional

    kind, *rest = layer
    if kind == "conv":
        weight, bias, same = rest
        edge = weight.shape[2] // 2 if same else 0
        return functional.conv2d(x, tensor(weight), None if bias is None else tensor(bias), padding=edge)
    if kind == "bn":
        gamma, beta, mean, variance = (tensor(v) for v in rest)
        return functional.batch_norm(x, mean, variance, gamma, beta, eps=1e-5)
    if kind == "act":
        return functional.relu(x) if rest[0] == "relu" else functional.elu(x)
    if kind == "pool":
        return functional.max_pool2d(x, *rest)
    if kind == "global":
        return x.amax((2, 3), keepdim=True) if rest[0] == "max" else x.mean((2, 3), keepdim=True)
    if kind == "axis":
        return x.amax(rest[1], keepdim=True) if rest[0] == "max" else x.mean(rest[1], keepdim=True)
    if kind == "flatten":
        return (x if rest[0] == "chw" else x.permute(0, 2, 3, 1)).flatten(1)
    if kind == "dense":
        return functional.linear(x, tensor(rest[0]), None if rest[1] is None else tensor(rest[1]))
    return torch.sigmoid(x)


def truth(network: Network, x: np.ndarray) -> np.ndarray:
    """Scores of x [B, H, W] in float64."""
    import torch

    y = torch.from_numpy(x[:, None].astype(np.float64))
    with torch.inference_mode():
        for layer in network.layers:
            y = step(layer, y, lambda v: torch.from_numpy(np.asarray(v, np.float64)))
    scores: np.ndarray = y.numpy()
    return scores
