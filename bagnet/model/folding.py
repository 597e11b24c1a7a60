"""Folds consecutive linear layers of a BagNet into one.

Its first two convolutions have nothing between them, so they equal one 3x3 convolution of the
pixels. This saves 1.8 of the 16.3 billion multiply-adds of the BagNet-33 at 224 pixels, and its
largest activation. In evaluation mode BatchNorm is linear too.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bagnet.model.network import BagNet, Bottleneck


def folded(model: BagNet) -> BagNet:
    """Copy a network for inference, with every BatchNorm folded into its convolution.

    The copy gives the same numbers up to rounding, in fewer passes over memory. It is in evaluation
    mode and its weights need no gradients. Its state dict has other names and no statistics, so do
    not save it as weights. `dense_evidence` folds by itself: give it the original network.

    Args:
        model: The network, in any mode and on any device; it is not changed.

    Raises:
        ValueError: The network is folded already.
    """
    if isinstance(model.bn1, nn.Identity):
        raise ValueError("the network is folded already: fold the one with BatchNorm layers")
    model = copy.deepcopy(model).eval().requires_grad_(False)
    stem = torch.einsum("omhw,mc->ochw", model.conv2.weight, model.conv1.weight[..., 0, 0])
    model.conv2.weight = nn.Parameter(stem, requires_grad=False)
    model.conv2.in_channels = model.conv1.in_channels
    model.conv1 = cast(nn.Conv2d, nn.Identity())
    _fold(model, "conv2", "bn1")
    for block in model.modules():
        if isinstance(block, Bottleneck):
            for number in (1, 2, 3):
                _fold(block, f"conv{number}", f"bn{number}")
            if block.downsample is not None:
                _fold(block.downsample, "0", "1")
    return model


def _fold(parent: nn.Module, convolution: str, norm: str) -> None:
    before = cast(nn.Conv2d, parent.get_submodule(convolution))
    after = cast(nn.BatchNorm2d, parent.get_submodule(norm))
    setattr(parent, convolution, fuse_conv_bn_eval(before, after))
    setattr(parent, norm, nn.Identity())
