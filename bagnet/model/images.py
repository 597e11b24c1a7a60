"""The images that networks take: their mean and standard deviation, and a check."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB, for values in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)


def require_images(images: object, channels: int, batched: bool = True) -> None:
    """Refuse what is not normalised images, before a layer does so with less helpful words.

    Args:
        images: What a user gave.
        channels: Channels that the network's images have.
        batched: Whether a batch (B, C, H, W) is expected; otherwise one image (C, H, W).

    Raises:
        ValueError: It is not a tensor, or has another shape or dtype.
    """
    sides = 4 if batched else 3
    found = f"a {type(images).__name__}"
    if not isinstance(images, Tensor):
        remedy = "convert it (torchvision.transforms.v2.PILToTensor), then call bagnet.normalize"
    elif images.ndim == sides and images.shape[-3] == channels and images.numel():
        if images.is_floating_point():
            return
        remedy = "normalise it (bagnet.normalize)"
    elif images.ndim == sides:
        remedy = "give what bagnet.normalize returns"
    else:
        remedy = "add a dimension (image[None])" if batched else "take one image of the batch"
    shape = f"images (B, {channels}, H, W)" if batched else f"image ({channels}, H, W)"
    if isinstance(images, Tensor):
        found = f"{images.dtype} {tuple(images.shape)}"
    number = "" if batched else "one "
    raise ValueError(f"this takes {number}normalised float {shape}, not {found}: {remedy}")


def require_size(model: nn.Module, side: int) -> None:
    """Refuse images that are too small for a network; only shapes are computed.

    Raises:
        ValueError: Images of `side` x `side` pixels are too small.
    """
    try:
        copy.deepcopy(model).to("meta")(torch.empty(1, 3, side, side, device="meta"))
    except RuntimeError as error:  # of torchvision's networks; a BagNet's error says it itself
        raise ValueError(
            f"images of {side}x{side} pixels are too small for this network: give a larger "
            "--data.image_size"
        ) from error
