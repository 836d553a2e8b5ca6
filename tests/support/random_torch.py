"""Random networks as PyTorch modules, written in one of the ways that people write them, and exported."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from support.random_networks import Network


def module_of(layer: tuple[Any, ...], rng: np.random.Generator, flat: bool) -> list[nn.Module]:
    """One layer with weights as modules; ``flat``: behind the flattening."""

    def parameter(values: np.ndarray) -> nn.Parameter:
        return nn.Parameter(torch.from_numpy(values.copy()), requires_grad=False)

    kind, *rest = layer
    if kind == "conv":
        weight, bias, same = rest
        edge = weight.shape[2] // 2 if same else 0
        how = rng.choice(["number", "same", "module"]) if edge else "number"
        conv = nn.Conv2d(
            weight.shape[1],
            weight.shape[0],
            weight.shape[2:],
            padding={"number": edge, "same": "same", "module": 0}[how],
            bias=bias is not None,
        )
        conv.weight = parameter(weight)
        if bias is not None:
            conv.bias = parameter(bias)
        return [nn.ZeroPad2d(edge), conv] if how == "module" else [conv]
    if kind == "bn":
        norm = (nn.BatchNorm1d if flat else nn.BatchNorm2d)(len(rest[0]))
        norm.weight, norm.bias = parameter(rest[0]), parameter(rest[1])
        norm.running_mean, norm.running_var = torch.from_numpy(rest[2].copy()), torch.from_numpy(rest[3].copy())
        return [norm]
    if kind == "dense":
        linear = nn.Linear(rest[0].shape[1], rest[0].shape[0], bias=rest[1] is not None)
        linear.weight = parameter(rest[0])
        if rest[1] is not None:
            linear.bias = parameter(rest[1])
        return [linear]
    if kind == "act":
        return [nn.ReLU() if rest[0] == "relu" else nn.ELU()]
    if kind == "pool":
        return [nn.MaxPool2d(*rest)]
    return []


class Module(nn.Module):
    """Takes [B, 1, H, W], [B, H, W] or [B, H, W, 1], as ``entry`` says."""

    def __init__(self, network: Network, rng: np.random.Generator) -> None:
        super().__init__()
        self.entry = str(rng.choice(["channel", "none", "last"], p=[0.6, 0.2, 0.2]))
        self.steps: list[Any] = []
        self.parts = nn.ModuleList()
        flat = False
        for layer in network.layers:
            modules = module_of(layer, rng, flat)
            if modules and rng.random() < 0.2:
                modules.append(nn.Dropout(0.5))
            self.parts.extend(modules)
            self.steps += modules
            if not modules:
                self.steps.append(self.way(layer, rng))
            flat |= layer[0] == "flatten"
        self.eval()

    @property
    def shape(self) -> Any:
        return {"channel": lambda h, w: (1, h, w), "none": lambda h, w: (h, w), "last": lambda h, w: (h, w, 1)}[
            self.entry
        ]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = {"channel": lambda: x, "none": lambda: x.unsqueeze(1), "last": lambda: x.permute(0, 3, 1, 2)}[self.entry]()
        for step in self.steps:
            x = step(x)
        return x

    @staticmethod
    def way(layer: tuple[Any, ...], rng: np.random.Generator) -> Any:
        """A layer without weights, in one of the ways to write it."""
        kind, *rest = layer

        def choose(*ways: Any) -> Any:
            return ways[int(rng.integers(len(ways)))]

        if kind == "global" and rest[0] == "max":
            return choose(
                lambda x: functional.adaptive_max_pool2d(x, 1),
                lambda x: x.amax((2, 3), keepdim=True),
                lambda x: x.max(3, keepdim=True)[0].max(2, keepdim=True)[0],
                lambda x: functional.max_pool2d(x, image(x)),
                lambda x: x.flatten(2).amax(2)[:, :, None, None],
                lambda x: functional.max_pool2d(functional.max_pool2d(x, (1, image(x)[1])), (image(x)[0], 1)),
            )
        if kind == "global":
            return choose(
                lambda x: functional.adaptive_avg_pool2d(x, (1, 1)),
                lambda x: x.mean((2, 3), keepdim=True),
                lambda x: x.mean(3).mean(2).unsqueeze(2).unsqueeze(3),
                lambda x: functional.avg_pool2d(x, image(x)),
                lambda x: x.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3]),
                lambda x: x.view(x.shape[0], x.shape[1], -1).mean(-1)[..., None, None],
            )
        if kind == "axis":
            name, axis = rest
            if name == "max":
                return choose(lambda x: x.amax(axis, keepdim=True), lambda x: x.max(axis)[0].unsqueeze(axis))
            return choose(lambda x: x.mean(axis, keepdim=True), lambda x: x.sum(axis, keepdim=True) / x.shape[axis])
        if kind == "flatten" and rest[0] == "hwc":
            return choose(
                lambda x: x.permute(0, 2, 3, 1).flatten(1), lambda x: x.permute(0, 2, 3, 1).reshape(x.size(0), -1)
            )
        if kind == "flatten":
            return choose(
                lambda x: x.flatten(1),
                lambda x: x.reshape(x.size(0), -1),
                lambda x: x.contiguous().view(x.shape[0], -1),
                lambda x: x.reshape(-1, x.shape[1] * x.shape[2] * x.shape[3]),
            )
        return torch.sigmoid


def image(x: torch.Tensor) -> tuple[int, int]:
    """Height and width as plain numbers: the older exporter takes no traced ones for a window."""
    return int(x.shape[2]), int(x.shape[3])


def write(network: Network, rng: np.random.Generator, path: Path, dynamo: bool) -> tuple[int, ...]:
    """Export the network; returns the shape of the file's input without the batch, 2 segments where it is fixed."""
    module = Module(network, rng)
    shape = module.shape(*network.size)
    options: dict[str, Any] = {"input_names": ["x"], "dynamo": dynamo}
    any_batch = rng.random() < 0.6
    if dynamo:
        options |= {"verbose": False, "external_data": bool(rng.random() < 0.7), "optimize": bool(rng.random() < 0.7)}
        if any_batch:
            options["dynamic_shapes"] = ({0: torch.export.Dim("batch")},)
    else:
        options |= {
            "opset_version": int(rng.integers(9, 21)),
            "do_constant_folding": bool(rng.random() < 0.7),
            "keep_initializers_as_inputs": bool(rng.random() < 0.2),
            "training": rng.choice([torch.onnx.TrainingMode.EVAL, torch.onnx.TrainingMode.PRESERVE]),
        }
        if any_batch:
            options["dynamic_axes"] = {"x": {0: "batch"}}
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(module, (torch.zeros(2, *shape),), str(path), **options)
    finally:
        logging.disable(before)
    return tuple(shape)
