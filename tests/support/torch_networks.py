"""Networks as somebody would write them in PyTorch, with weights and statistics that make every layer matter."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

BANDS, FRAMES = 20, 32  # of make_models.FRONTEND with 8000 samples


class Classic(nn.Module):
    """Input batch-norm; conv -> BN -> ReLU -> pool; view; dense. Takes [B, 1, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(1)
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 12, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(12)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(12 * 5 * 4, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn0(x)
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), (2, 4))
        x = functional.max_pool2d(functional.relu(self.bn2(self.conv2(x))), 2)
        x = self.drop(x)
        return torch.sigmoid(self.fc(x.view(x.size(0), -1)))


class PostNorm(nn.Module):
    """conv -> ELU -> BN -> pool with another stride than window; [B, H, W] in, channels last into the dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 5, 1)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(6), nn.BatchNorm2d(5)])
        self.fc = nn.Linear(5 * 3 * 7, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.unsqueeze(1)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(functional.elu(conv(x)))
            x = functional.max_pool2d(x, (4, 3), stride=(2, 2))
        return torch.sigmoid(self.fc(x.permute(0, 2, 3, 1).flatten(1)))


class FullyConvolutional(nn.Module):
    """The pool before the ReLU, 1x1 convolutions on a 1x1 map, a 1x1 convolution as head, a global pool."""

    def __init__(self, reduce: str = "max") -> None:
        super().__init__()
        self.reduce = reduce
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.deep = nn.Sequential(nn.Conv2d(8, 7, 1), nn.BatchNorm2d(7), nn.ReLU())
        self.head = nn.Conv2d(7 if reduce == "max" else 8, 6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(functional.max_pool2d(self.conv1(x), (3, 3)))
        x = functional.relu(self.conv2(x))
        if self.reduce == "max":
            x = self.deep(functional.adaptive_max_pool2d(x, 1))
        elif self.reduce == "average":
            x = functional.adaptive_avg_pool2d(x, 1)
        else:  # the head sees every position, its logits are averaged
            return torch.sigmoid(self.head(x).mean((2, 3)))
        return torch.sigmoid(self.head(x).squeeze(3).squeeze(2))


class WholeMap(nn.Module):
    """A batch-norm over the input's bands, time first, a convolution without padding over the whole map as head."""

    def __init__(self) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm1d(BANDS)
        self.conv1 = nn.Conv2d(1, 8, 3, padding="same")
        self.head = nn.Conv2d(8, 6, (4, 5))
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn0(x).transpose(1, 2).unsqueeze(1)
        x = functional.max_pool2d(functional.relu(self.conv1(x)), (8, 4))
        return torch.sigmoid(self.norm(self.head(x).flatten(1)))


NETWORKS = {
    "classic": (Classic, (1, BANDS, FRAMES)),
    "post-norm, ELU": (PostNorm, (BANDS, FRAMES)),
    "global max": (lambda: FullyConvolutional("max"), (1, BANDS, FRAMES)),
    "global average": (lambda: FullyConvolutional("average"), (1, BANDS, FRAMES)),
    "average of logits": (lambda: FullyConvolutional("logits"), (1, BANDS, FRAMES)),
    "whole map": (WholeMap, (BANDS, FRAMES)),
}


def make(name: str, seed: int = 0) -> tuple[nn.Module, tuple[int, ...]]:
    """The module, in evaluation mode, with statistics of its own, and the shape of its input without the batch."""
    torch.manual_seed(seed)
    factory, shape = NETWORKS[name]
    return randomised(factory()), shape


def randomised(module: nn.Module) -> nn.Module:
    for layer in module.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.3, 2.0)
            layer.weight.data.uniform_(0.5, 1.5).mul_(torch.randn_like(layer.weight).sign())  # negative ones, too
            layer.bias.data.normal_(0, 0.3)
    return module.eval()


def onnx_file(module: nn.Module, shape: tuple[int, ...], path: Any, dynamo: bool = False) -> None:
    """``torch.onnx.export`` with a batch of any size."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options: dict[str, Any] = {"dynamic_axes": {"x": {0: "batch"}}}
        if dynamo:
            options = {"dynamic_shapes": ({0: torch.export.Dim("batch")},), "verbose": False, "external_data": False}
        torch.onnx.export(module, (torch.zeros(2, *shape),), str(path), dynamo=dynamo, input_names=["x"], **options)
