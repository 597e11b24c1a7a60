"""Networks whose answers are known."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bagnet.model.images import IMAGENET_MEAN, IMAGENET_STD
from bagnet.model.network import BagNet


class Linear(nn.Module):
    """A bag of pixels that vote linearly: the logits are 0 and a weighted sum of all values."""

    def __init__(self, side: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.rand(3, side, side, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        total = (x * self.weight).sum((1, 2, 3))
        return torch.stack([torch.zeros_like(total), total], dim=1)


class Pixel(nn.Module):
    """Looks at one pixel. The logit of class 1 is its brightness above black, minus one."""

    def __init__(self, row: int, column: int) -> None:
        super().__init__()
        self.row, self.column = row, column

    def forward(self, x: Tensor) -> Tensor:
        black = -sum(IMAGENET_MEAN[i] / IMAGENET_STD[i] for i in range(3))
        value = x[:, :, self.row, self.column].sum(1) - black - 1
        return torch.stack([torch.zeros_like(value), value], dim=1)


class Histogram(nn.Module):
    """Counts quantized colours: its logits depend on which pixels there are, not on where."""

    def forward(self, x: Tensor) -> Tensor:
        bins = (x * 4).round().long().sum(1).flatten(1) % 7
        return F.one_hot(bins, 7).sum(1).double()


def tiny_bagnet(patch: int, classes: int = 4, width: int = 2) -> BagNet:
    """A narrow BagNet with fresh weights, in float64 so that rounding hides no difference."""
    torch.manual_seed(patch)
    model = BagNet(patch, classes, width)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.bias, 0, 0.1)
    return model.double().eval()


def pictures(count: int, side: int, seed: int = 0) -> Tensor:
    """Noise, uint8 (count, 3, side, side)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)
