"""Squares of an image, replaced by something that says nothing.

All this happens to normalised images, so that every network sees the same and zero is the mean colour of ImageNet.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from datamodules.common.batch import Box


def replace(images: Tensor, boxes: Iterable[Box], fill: str) -> Tensor:
    """Copies of the images in which every box is filled.

    Args:
        images: Normalised, float (B, 3, H, W).
        boxes: (top, left, bottom, right), half-open, in pixels; the same for all images. They do not overlap.
        fill: One of ``FILLS``: "mean", the box's own mean colour; "image", that of the image; "zero", that of ImageNet; or
            "blur", the image under a Gaussian whose standard deviation is half of the box's height.

    Returns:
        The same shape, dtype and device.
    """
    filled = images.clone()
    whole = images.mean((2, 3), keepdim=True)
    blurred: dict[int, Tensor] = {}
    for top, left, bottom, right in boxes:
        box = (..., slice(top, bottom), slice(left, right))
        if fill == "mean":
            filled[box] = images[box].mean((2, 3), keepdim=True)
        elif fill == "image":
            filled[box] = whole
        elif fill == "zero":
            filled[box] = 0
        else:
            side = bottom - top
            if side not in blurred:
                blurred[side] = _blurred(images, side)
            filled[box] = blurred[side][box]
    return filled


def _blurred(images: Tensor, side: int) -> Tensor:
    """The image at the scale of a box; beyond its border, it is mirrored."""
    radius = min(side, *(size - 1 for size in images.shape[2:]))
    return F.gaussian_blur(images, [2 * radius + 1] * 2, [side / 2] * 2)


def target_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """The logits (B,) of one class for each image, out of all of them (B, classes)."""
    return logits.gather(1, targets[:, None])[:, 0]


def cells(height: int, width: int, side: int) -> list[Box]:
    """All squares of a grid, row by row; the last ones may be cut off."""
    return [
        (top, left, min(top + side, height), min(left + side, width))
        for top in range(0, height, side)
        for left in range(0, width, side)
    ]


def every_second(height: int, width: int, side: int) -> list[Box]:
    """Every second square of every second row of a grid, as far as they are whole.

    Raises:
        ValueError: There are not even two of them.
    """
    boxes = [
        (top, left, top + side, left + side)
        for top in range(0, height - side + 1, 2 * side)
        for left in range(0, width - side + 1, 2 * side)
    ]
    if len(boxes) < 2:
        raise ValueError(
            f"--sides {side}: a grid of squares of {side} px has fewer than two to replace in {height}x{width} px; "
            f"give sides of at most {max(height, width) // 3}, or a larger --data.image_size"
        )
    return boxes


def draw_pairs(
    height: int, width: int, side: int, gap: int, count: int, chance: np.random.Generator
) -> list[list[Box]]:
    """Places for two squares beside and, in turn, below each other.

    Raises:
        ValueError: The image is too small for them.
    """
    length = 2 * side + gap
    if gap < 0 or length > min(height, width):
        raise ValueError(
            f"no pair of squares of {side} px with a gap of {gap} px fits into {height}x{width} px: give a smaller "
            f"--pair_side, or --gaps of at most {min(height, width) - 2 * side}"
        )
    pairs = []
    for number in range(count):
        down, right = ((0, side + gap), (side + gap, 0))[number % 2]
        top = int(chance.integers(height - down - side + 1))
        left = int(chance.integers(width - right - side + 1))
        first = (top, left, top + side, left + side)
        second = (top + down, left + right, top + down + side, left + right + side)
        pairs.append([first, second])
    return pairs
