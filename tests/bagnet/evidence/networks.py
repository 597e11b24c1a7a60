"""A network for tests."""

from __future__ import annotations

import torch
from torch import nn

from bagnet.model.network import BagNet


def network(patch: int, width: int = 2, classes: int = 4) -> BagNet:
    """A narrow network in float64 whose BatchNorm statistics matter."""
    torch.manual_seed(patch)
    model = BagNet(patch, classes, width).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias, 0, 0.1)
    return model.eval()
