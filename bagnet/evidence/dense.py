"""The evidence around every pixel, by a dilated rewrite of a trained BagNet.

A BagNet's own map has an entry every 8 pixels (`maps.py`). Brendel & Bethge (ICLR 2019, on
explaining decisions) show finer maps, of the patch around every pixel, by running the network once
for each patch: 50,176 times for an image of 224x224 pixels. Here every layer is evaluated once at
every pixel instead. All strides become 1, so no layer skips positions. The kernels of later layers
must still meet the same pixels, so they step over what the earlier strides would have skipped: they
are dilated by the product S of these strides. The residual is cropped by as much as the convolution
takes off, (k - 1) S, at the bottom right as in the network itself.

So neighbouring patches share their arithmetic. For the BagNet-33 and 224x224 pixels, 10.2 tera
multiply-adds become 0.82 if each weight is used once per pixel, 0.86 with the margins that the last
convolutions need around the image, and 1.03 with the margins around tiles, which bound the memory.
"""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bagnet.evidence.maps import Target, require_bagnet, rows_of
from bagnet.model.images import require_images
from bagnet.model.network import BagNet, Bottleneck

TILE = 64  # px. With 112, less is repeated, but a CPU's caches overflow: it takes a quarter longer.


def dense_evidence(model: nn.Module, image: Tensor, target: Target = None) -> Tensor:
    """Compute the logits of the patch around every pixel.

    The image is padded with zeros (the mean colour) by p = (R - 1) / 2 pixels on each side, where R
    is the side of the patch. Entry (y, x) is what the network gives for the R x R patch centred on
    pixel (y, x), which has the pixels (y - p, x - p, y + p + 1, x + p + 1) as (top, left, bottom,
    right), half-open. Away from the border this agrees with `evidence_map`, where S is the
    network's stride: entry (S i + p, S j + p) here is entry (i, j) there.

    The network computes as in evaluation mode and is not changed. Tiles of at most 64x64 entries
    bound the memory: besides the result, about 0.3 GB in float32 for the paper's networks and any
    image.

    Args:
        model: A BagNet.
        image: Normalised image, float (3, H, W) of any size. It is moved to the network's device
            and dtype.
        target: A class, several classes, or None for all.

    Returns:
        The evidence in logits on the device and in the dtype of the network: (H, W) for one class,
        (K, H, W) for K classes or all.

    Raises:
        ValueError: The network is not a BagNet, the image has another shape or dtype, or there is
            no such class.

    Examples:
        >>> model = BagNet(9, num_classes=10, width=4)
        >>> dense_evidence(model, torch.zeros(3, 41, 41), target=7).shape
        torch.Size([41, 41])
    """
    bagnet = require_bagnet(model)
    require_images(image, bagnet.in_channels, batched=False)
    rows = slice(None) if target is None else rows_of(bagnet, target)
    margin = bagnet.receptive_field - 1
    with torch.no_grad():
        weight, bias = bagnet.fc.weight[rows], bagnet.fc.bias[rows]
        padded = F.pad(image.to(weight)[None], [margin // 2] * 4)
        padded = padded.contiguous(memory_format=torch.channels_last)
        evidence = padded.new_empty(len(weight), *image.shape[1:])
        for top, bottom in _tiles(image.shape[1]):
            for left, right in _tiles(image.shape[2]):
                tile = padded[..., top : bottom + margin, left : right + margin]
                votes = F.linear(_features(bagnet, tile)[0].permute(1, 2, 0), weight, bias)
                evidence[:, top:bottom, left:right] = votes.permute(2, 0, 1)
    return evidence[0] if isinstance(target, int) else evidence


def _tiles(size: int) -> list[tuple[int, int]]:
    """Cut a side of an image into the fewest parts of at most TILE, as evenly as possible."""
    count = -(-size // TILE)
    return list(pairwise(size * number // count for number in range(count + 1)))


def _features(model: BagNet, x: Tensor) -> Tensor:
    """`BagNet.features` at every pixel: (1, C, h + R - 1, w + R - 1) -> (1, 32 width, h, w)."""
    x = F.relu_(_convolve(model.conv1(x), model.conv2, model.bn1))
    stride = 1  # of the network up to this layer
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        for module in stage:
            block = cast(Bottleneck, module)
            x = _bottleneck(block, x, stride)
            stride *= block.conv2.stride[0]
    return x


def _bottleneck(block: Bottleneck, x: Tensor, dilation: int) -> Tensor:
    """`Bottleneck.forward` at every pixel."""
    out = F.relu_(_convolve(x, block.conv1, block.bn1))
    out = F.relu_(_convolve(out, block.conv2, block.bn2, dilation))
    out = _convolve(out, block.conv3, block.bn3)
    residual = x[..., : out.shape[-2], : out.shape[-1]]
    if block.downsample is not None:  # a 1x1 convolution, so cropping first is cheaper
        convolution, norm = block.downsample
        residual = _convolve(residual, cast(nn.Conv2d, convolution), cast(nn.BatchNorm2d, norm))
    out += residual
    return F.relu_(out)


def _convolve(x: Tensor, convolution: nn.Conv2d, norm: nn.BatchNorm2d, dilation: int = 1) -> Tensor:
    """A convolution without its stride, and the BatchNorm after it in evaluation mode, in one pass.

    Scaling the weights costs next to nothing; another pass over the activations of a tile would
    take a tenth of the time.
    """
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    scale = norm.weight * (variance + norm.eps).rsqrt()
    weight, bias = convolution.weight * scale[:, None, None, None], norm.bias - mean * scale
    if convolution.kernel_size != (1, 1):
        return F.conv2d(x, weight, bias, dilation=dilation)
    # The rows become the batch, in the same memory: for a batch of one on one thread, torch does
    # not use oneDNN, and everything takes 1.8 times as long.
    return F.conv2d(x.transpose(0, 2), weight, bias).transpose(0, 2)
