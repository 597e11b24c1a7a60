"""The evidence of every patch for every class (Brendel & Bethge, ICLR 2019)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bagnet.model.network import BagNet


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

    Example:
        >>> model = BagNet(9, num_classes=10, width=4)
        >>> evidence_map(model, torch.zeros(1, 3, 41, 41)).shape
        torch.Size([1, 10, 5, 5])
    """
    with evaluating(require_bagnet(model)) as bagnet:
        return bagnet.logits_map(images)


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
