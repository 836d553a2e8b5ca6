"""A model document as a PyTorch network to train, and the trained network as a model file's tensors.

A block is conv -> batch-norm -> activation -> max-pool -> dropout (arXiv:1606.00298, section 2), or conv -> activation
-> batch-norm -> max-pool -> dropout where the document has an affine after the activation. The network gives logits.

Between a batch-norm and the dropout, the max-pool comes before the activation: activations never fall, so that the
largest of them is that of the largest input, and most of a map need not be computed, stored and read back.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fcntag.convert.batchnorm import fold, scale_shift
from fcntag.convert.model_builder import ModelBuilder
from fcntag.errors import ModelError
from fcntag.model.document import ModelDocument

# Added to the variance by every batch-norm; folding puts it into the weights.
EPSILON = 1e-5


def read_document(name: str) -> ModelDocument:
    """The document ``name``: a JSON file, a model file, a network of the paper, or a model of the catalogue."""
    if name.endswith(".json"):
        try:
            return ModelDocument.from_json(Path(name).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"{name}: cannot be read: {error}") from None
        except ModelError as error:
            raise ModelError(f"{name}: {error}") from None
    from fcntag.catalogue.names import load_any

    return load_any(name)[0].document


def with_tags(document: ModelDocument, tags: tuple[str, ...]) -> ModelDocument:
    """The same network for other tags. Every segment has the full length, as the training data have."""
    changes = {"random_weights": False} if hasattr(document, "random_weights") else {}
    return dataclasses.replace(
        document,
        name=re.sub(r"-random-\d+$", "", document.name),  # the suffix of untrained networks
        tags=tags,
        segments=dataclasses.replace(document.segments, min_samples=0),
        variants=(),
        **changes,
    ).validate()


class Dropout(nn.Module):
    """``nn.Dropout`` that is quick on a CPU as well.

    There, PyTorch draws the numbers of a map one by one, which took a quarter of a step. The mask follows from the
    state of PyTorch's generator, as ever. ``p`` is rounded to a multiple of 1 / 65536.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu":
            return nn.functional.dropout(x, self.p)
        dropped = round(self.p * 65536)
        rng = np.random.default_rng(int(torch.randint(1 << 62, ())))
        draws = np.frombuffer(rng.bytes(2 * x.numel()), np.uint16)
        n, c, h, w = x.shape
        mask = torch.from_numpy(draws >= dropped).view(n, h, w, c).permute(0, 3, 1, 2)  # the order of x in memory
        return x * (mask.to(x.dtype) * (65536 / (65536 - dropped)))


class Network(nn.Module):
    """Log-mel [B, H, W] as the front end gives it before input.scale and input.shift -> logits [B, n_tags]."""

    def __init__(self, document: ModelDocument, dropout: float) -> None:
        super().__init__()
        self.document = document
        shapes = document.tensor_shapes()
        self.affine = "input.scale" in shapes
        if self.affine:  # standardize() sets them once from the training data; they are never trained
            self.register_buffer("scale", torch.ones(shapes["input.scale"]))
            self.register_buffer("shift", torch.zeros(shapes["input.shift"]))
        self.blocks = nn.ModuleList()
        for block in document.blocks:
            # A bias in front of a batch-norm would be idle, as the batch-norm has a shift. A bias in front of an
            # activation is not.
            conv = nn.Conv2d(
                block.in_channels,
                block.out_channels,
                block.kernel,
                padding=block.kernel // 2,
                bias=block.post_affine,
            )
            nn.init.kaiming_normal_(conv.weight, nonlinearity="linear" if block.activation == "none" else "relu")
            norm = nn.BatchNorm2d(block.out_channels, eps=EPSILON)
            activation = {"relu": nn.ReLU, "elu": nn.ELU, "none": nn.Identity}[block.activation]()
            pool = nn.MaxPool2d(block.pool.window, block.pool.stride)
            middle = (activation, norm, pool) if block.post_affine else (norm, pool, activation)
            self.blocks.append(nn.Sequential(conv, *middle, Dropout(dropout)))
        if document.head.hidden:
            raise ValueError(f"{document.name}: hidden dense layers; this recipe trains a head of one layer")
        self.head = nn.Linear(document.head.in_features, len(document.tags))
        self.to(memory_format=torch.channels_last)  # else every step would convert the weights

    def standardize(self, mean: np.ndarray, std: np.ndarray) -> None:
        """Make the input (x - mean) / std: [1], [n_mels] or [n_frames] in float64, as the document normalises."""
        self.scale.copy_(torch.from_numpy(1 / std))
        self.shift.copy_(torch.from_numpy(-mean / std))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.affine:
            x = x * self._along(self.scale) + self._along(self.shift)
        # channels_last lets oneDNN and cuDNN run their fastest convolutions
        x = x[:, None].contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            x = block(x)
        flatten = self.document.head.flatten
        if flatten == "max":
            x = x.amax((2, 3))
        elif flatten == "mean":
            x = x.mean((2, 3))
        elif flatten == "hwc":
            x = x.permute(0, 2, 3, 1)
        return self.head(x.flatten(1))

    def _along(self, values: torch.Tensor) -> torch.Tensor:
        """An input tensor [n] as a column or row of [H, W]."""
        frontend = self.document.frontend
        mel_first = frontend.time_axis == 1
        rows = {"scalar": True, "per_mel": mel_first, "per_frame": not mel_first}[frontend.normalization]
        return values[:, None] if rows else values[None, :]


def folded(network: Network, document: ModelDocument) -> tuple[ModelDocument, dict[str, np.ndarray]]:
    """``document``, which is the network's with a description, and its float32 tensors.

    The batch-norms are folded in float64.
    """
    builder = ModelBuilder(document)
    if network.affine:
        builder.set("input.scale", _array(network.scale))
        builder.set("input.shift", _array(network.shift))
    for i, block in enumerate(document.blocks):
        parts: Any = network.blocks[i]
        conv, norm = parts[0], parts[2 if block.post_affine else 1]
        values = (_array(a) for a in (norm.weight, norm.bias, norm.running_mean, norm.running_var))
        scale, shift = scale_shift(*values, rule="standard", epsilon=EPSILON)
        weight = _array(conv.weight)
        bias = _array(conv.bias) if conv.bias is not None else np.zeros(block.out_channels)
        if block.post_affine:
            builder.set(f"blocks.{i}.scale", scale)
            builder.set(f"blocks.{i}.shift", shift)
        else:
            weight, bias = fold(weight, bias, scale, shift)
        builder.set(f"blocks.{i}.weight", weight)
        builder.set(f"blocks.{i}.bias", bias)
    builder.set("head.weight", _array(network.head.weight))
    builder.set("head.bias", _array(network.head.bias))
    return builder.build()


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()
