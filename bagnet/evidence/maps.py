"""The evidence of every patch for every class (Brendel & Bethge, ICLR 2019)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bagnet.model.images import require_images
from bagnet.model.network import BagNet

Target = int | Sequence[int] | None
"""A class, several classes, or None for all."""


def evidence_map(model: nn.Module, images: Tensor) -> Tensor:
    """Compute the logits of every patch at the network's stride, in one forward pass.

    The network runs in evaluation mode without gradients and is left in the mode it was in. Entry
    (i, j) is the evidence of the pixels `model.box(i, j)`. The mean over all entries is the logit.

    Args:
        model: A BagNet.
        images: Normalised images, float (B, 3, H, W).

    Returns:
        The evidence in logits, (B, classes, H', W').

    Raises:
        ValueError: The network is not a BagNet, `images` is something else, or they are
            smaller than its patch.

    Examples:
        >>> model = BagNet(9, num_classes=10, width=4)
        >>> evidence_map(model, torch.zeros(1, 3, 41, 41)).shape
        torch.Size([1, 10, 5, 5])
    """
    with evaluating(require_bagnet(model)) as bagnet:
        return bagnet.logits_map(images)


def pixel_evidence(model: nn.Module, image: Tensor, target: Target = None) -> Tensor:
    """Compute the share of every pixel in the logits: each patch's vote, spread over its pixels.

    A patch of R x R pixels adds 1 / (n R R) of its vote to each of them, where n is the number of
    patches. So the sum over all pixels is the logit, for an image of any size: an attribution that
    is complete (Sundararajan et al. 2017, section 3). A pixel that no patch sees has 0.

    Args:
        model: A BagNet.
        image: Normalised image, float (3, H, W). It is moved to the network's device and dtype.
        target: A class, several classes, or None for all.

    Returns:
        The shares in logits on the device and in the dtype of the network: (H, W) for one class,
        (K, H, W) for K classes or all.

    Raises:
        ValueError: The network is not a BagNet, the image has another shape or dtype or is smaller
            than its patch, or there is no such class.

    Examples:
        >>> model = BagNet(9, num_classes=10, width=4)
        >>> pixel_evidence(model, torch.zeros(3, 44, 41), target=7).shape
        torch.Size([44, 41])
    """
    bagnet = require_bagnet(model)
    require_images(image, bagnet.in_channels, batched=False)
    rows = rows_of(bagnet, target)
    votes = evidence_map(bagnet, image.to(bagnet.fc.weight)[None])[0, rows][:, None]
    side = bagnet.receptive_field
    patch = votes.new_full((1, 1, side, side), 1 / (votes[0].numel() * side * side))
    shares = F.conv_transpose2d(votes, patch, stride=bagnet.stride)[:, 0]
    unseen = (image.shape[2] - shares.shape[2], image.shape[1] - shares.shape[1])
    shares = F.pad(shares, (0, unseen[0], 0, unseen[1]))
    return shares[0] if isinstance(target, int) else shares


def rows_of(model: BagNet, target: Target) -> list[int]:
    """List the classes that are meant.

    Raises:
        ValueError: There are none, or the network lacks one of them.
    """
    count = model.fc.out_features
    if target is None:
        return list(range(count))
    classes = [target] if isinstance(target, int) else list(target)
    unknown = [number for number in classes if not 0 <= number < count]
    if unknown or not classes:
        fault = f"there is no class {unknown[0]}" if unknown else "target lists no class"
        raise ValueError(
            f"{fault}: the network has {count} classes, so choose from 0 to {count - 1}"
        )
    return classes


def require_bagnet(model: nn.Module) -> BagNet:
    """Return the same network, or raise a ValueError if its patches have no logits of their own."""
    if not isinstance(model, BagNet):
        raise ValueError(
            f"{type(model).__name__} is not a BagNet: only the logits of a BagNet are a mean over "
            "patches, so only a BagNet has evidence maps"
        )
    return model


@contextmanager
def evaluating(model: BagNet) -> Iterator[BagNet]:
    """Put a network into evaluation mode without gradients, and restore all its modules' modes."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield model
    finally:
        for module, mode in modes.items():
            module.training = mode
