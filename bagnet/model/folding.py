"""What a BagNet need not compute: linear layers in a row are one.

Its first two convolutions have nothing between them: together they are one 3x3 of the pixels, which spares 1.8 of the 16.3
billion multiply-adds of the BagNet-33 at 224 pixels, and its largest activation. In evaluation, a normalisation is linear
too.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bagnet.model.network import BagNet, Bottleneck


def stem_weight(model: BagNet) -> Tensor:
    """The 3x3 convolution that ``conv1`` and ``conv2`` are together: (width, channels of the image, 3, 3).

    Gradients pass to both. Autocast would round it twice, so it is put together in the weights' dtype.
    """
    with torch.autocast(model.conv1.weight.device.type, enabled=False):
        return torch.einsum("omhw,mc->ochw", model.conv2.weight, model.conv1.weight[..., 0, 0])


def folded(model: BagNet) -> BagNet:
    """A copy for inference, where normalisations are part of convolutions: the same numbers to rounding, in fewer passes.

    It is in evaluation mode, needs no gradients of its weights and runs on plain kernels, compiled or not. Its state has
    other names and no statistics, so it is no checkpoint. `dense_evidence` folds by itself and takes the network as it was.

    Args:
        model: Of any mode and device; not changed.

    Raises:
        ValueError: The network is folded already.
    """
    if isinstance(model.bn1, nn.Identity):
        raise ValueError("the network is folded already: fold the one with normalisations")
    model = copy.deepcopy(model).eval().requires_grad_(False)
    model.fused = None
    model.conv2.weight = nn.Parameter(stem_weight(model), requires_grad=False)
    model.conv2.in_channels = model.conv1.in_channels
    model.conv1 = cast(nn.Conv2d, nn.Identity())
    _fold(model, "conv2", "bn1")
    for block in model.modules():
        if isinstance(block, Bottleneck):
            block.fused = None
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
