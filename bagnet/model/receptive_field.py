"""Receptive fields by arithmetic.

Let entry (i, j) of some layer's output see R x R pixels that start at pixel (S i, S j). For the
image itself, R = S = 1. A convolution with kernel k, stride s and no padding computes its entry i
from the entries s i, ..., s i + k - 1 of its input, so from the pixels S s i up to, but not
including, S (s i + k - 1) + R. Therefore

    R <- R + (k - 1) S,    S <- S s,    and entry (i, j) sees R x R pixels from (S i, S j) on.

A BagNet crops the residual of a block at the bottom right only, so its entry i also starts at pixel
S i and adds no pixels. In the BagNet-33, the 3x3 convolutions meet S = 1, 1, 2, 4 and 8, so
R = 1 + 2 (1 + 1 + 2 + 4 + 8) = 33. Without the last one R = 17, without the last two R = 9.
"""

from __future__ import annotations

from torch import nn


def receptive_field(model: nn.Module) -> tuple[int, int]:
    """Compute what an entry of the last feature map sees, from the layers that were built.

    All networks of the registry define their layers in the order of the longest path; off it
    they have 1x1 convolutions only. With padding, R is the size of the field, but entry (i, j) no
    longer starts at (S i, S j).

    Args:
        model: A network of the registry.

    Returns:
        R, the side of the square that an entry sees, in pixels (it can exceed the image), and S,
        the distance between the squares of neighbouring entries.
    """
    field = stride = 1
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) and "downsample" not in name:
            field += (_side(layer.kernel_size) - 1) * stride
            stride *= _side(layer.stride)
    return field, stride


def _side(size: int | tuple[int, ...]) -> int:
    return size if isinstance(size, int) else size[0]
