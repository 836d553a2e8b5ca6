"""The layers whose CTAs are replayed: the blocks of the published networks that conv_block computes."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
PRECISIONS = ("bfloat16", "float16", "tf32", "tf32x3", "float32")
ACTIVATIONS = ("none", "relu", "elu")

# (out channels, kernel, activation, pool, stride) of every block, and (height, width) of the input
Network = tuple[list[tuple[int, int, str, tuple[int, int], tuple[int, int]]], tuple[int, int]]


def _paper(name: str) -> Network:
    if str(REPOSITORY) not in sys.path:
        sys.path.insert(0, str(REPOSITORY))
    from fcntag.model.paper import PAPER

    if name not in PAPER:
        raise SystemExit(f"--layers: {name} is no network; known: mtt-vgg, {', '.join(PAPER)}; or one block: fcn4/2")
    return [(out, kernel, "relu", pool, pool) for out, kernel, pool in PAPER[name].layers], (96, 1366)


def _embedded(name: str, size: tuple[int, int]) -> Network:
    with open(REPOSITORY / "weights" / f"{name}.safetensors", "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        document = json.loads(json.loads(file.read(length))["__metadata__"]["fcntag"])
    blocks = [
        (b["out_channels"], b["kernel"], b["activation"], tuple(b["pool"]["window"]), tuple(b["pool"]["stride"]))
        for b in document["blocks"]
    ]
    return blocks, size


def network(name: str) -> Network:
    return _embedded(name, (187, 96)) if name == "mtt-vgg" else _paper(name)


NETWORKS = ("fcn4", "fcn5-narrow", "mtt-vgg")


def lines(names: str, precision: str, batch: int, shapes: str = "best") -> list[str]:
    """Layers as plan_launches.cpp takes them.

    ``names``: networks, or single blocks such as ``fcn4/2``, with commas between. Block 1 has a kernel of its own.
    ``shapes``: ``best`` for the planner's choice, ``all`` for every compiled shape of the kernel.
    """
    found = []
    for name in names.split(","):
        base, _, wanted = name.partition("/")
        blocks, (height, width) = network(base)
        channels = 1
        for n, (out, kernel, activation, pool, stride) in enumerate(blocks, 1):
            if n > 1 and wanted in ("", str(n)):
                numbers = (channels, out, kernel, ACTIVATIONS.index(activation), *pool, *stride, height, width)
                storage = "float32" if n == len(blocks) else "map"
                found.append(f"{base}/{n} {precision} {batch} {' '.join(map(str, numbers))} {storage} {shapes}")
            height, width = (height - pool[0]) // stride[0] + 1, (width - pool[1]) // stride[1] + 1
            channels = out
    if not found:
        raise SystemExit(f"--layers {names}: no such block; conv_block computes 2 and later ones")
    return found
