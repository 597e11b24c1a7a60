"""Replacing squares of images, and how a class's probability changes as more are replaced.

Everything works on normalized images, so that all networks see the same and zero is ImageNet's mean
colour.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from bagnet.experiments.options import Fill
from datamodules.common.batch import Box


def replace(images: Tensor, boxes: Iterable[Box], fill: Fill) -> Tensor:
    """Copy images and fill every box.

    Args:
        images: Normalized images, float (B, 3, H, W).
        boxes: Boxes in pixels, the same for all images, without overlap.
        fill: "mean" is the box's own mean colour, "image" that of the image, "zero" that of
            ImageNet; "blur" is the image under a Gaussian whose standard deviation is half of the
            box's height.
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
            if side not in blurred:  # mirrored at the image's borders, which limits the kernel
                kernel = 2 * min(side, *(size - 1 for size in images.shape[2:])) + 1
                blurred[side] = F.gaussian_blur(images, [kernel] * 2, [side / 2] * 2)
            filled[box] = blurred[side][box]
    return filled


@torch.no_grad()
def probability_curves(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    priority: Tensor,
    counts: Sequence[int],
    *,
    cell: int,
    fill: Fill,
    insert: bool = False,
) -> Tensor:
    """The probability of a class after the cells with the highest priority are masked, or shown.

    Args:
        model: Network that returns logits (B, classes).
        images: Normalized images, float (B, 3, H, W).
        targets: The class of each image, int64 (B,).
        priority: Priority of each cell, as from `attribution.by_cell`; of equal ones, the upper and
            then the left comes first.
        counts: Numbers of cells.
        cell: Side of a cell, in pixels.
        fill: What a masked cell becomes; see `replace`.
        insert: Whether to start from the masked image and show the cells.

    Returns:
        Probabilities, float64 (B, counts).
    """
    height, width = images.shape[2:]
    rows, columns = priority.shape[1:]
    masked = replace(images, cells(height, width, cell), fill)
    before, after = (masked, images) if insert else (images, masked)
    order = priority.flatten(1).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1).view(-1, 1, rows, columns)
    rank = rank.repeat_interleave(cell, 2).repeat_interleave(cell, 3)[..., :height, :width]
    curves = [
        probabilities(model(torch.where(rank < count, after, before)), targets) for count in counts
    ]
    return torch.stack(curves, 1)


def probabilities(logits: Tensor, targets: Tensor) -> Tensor:
    """The softmax of one class for each image: (B, classes) and (B,) -> float64 (B,)."""
    return target_logits(logits.double().softmax(1), targets)


def target_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """The logits of one class for each image: (B, classes) and (B,) -> (B,)."""
    return logits.gather(1, targets[:, None])[:, 0]


def cells(height: int, width: int, side: int) -> list[Box]:
    """All squares of a grid, row by row; those at the right and bottom may be cut off."""
    return [
        (top, left, min(top + side, height), min(left + side, width))
        for top in range(0, height, side)
        for left in range(0, width, side)
    ]


def every_second(height: int, width: int, side: int) -> list[Box]:
    """Every second whole square of every second row of a grid.

    Raises:
        ValueError: There are fewer than two.
    """
    boxes = [
        (top, left, top + side, left + side)
        for top in range(0, height - side + 1, 2 * side)
        for left in range(0, width - side + 1, 2 * side)
    ]
    if len(boxes) < 2:
        raise ValueError(
            f"--sides {side}: a grid of squares of {side} px has fewer than two to replace in "
            f"{height}x{width} px; give sides of at most {max(height, width) // 3}, or a larger "
            "--data.image_size"
        )
    return boxes


def draw_pairs(
    height: int, width: int, side: int, gap: int, count: int, rng: np.random.Generator
) -> list[list[Box]]:
    """Draw places of two squares with a gap, alternately side by side and one below the other.

    Raises:
        ValueError: The image is too small for them.
    """
    length = 2 * side + gap
    if length > min(height, width):
        raise ValueError(
            f"no pair of squares of {side} px with a gap of {gap} px fits into {height}x{width} "
            f"px: give a smaller --pair_side, or --gaps of at most {min(height, width) - 2 * side}"
        )
    pairs = []
    for number in range(count):
        down, right = ((0, side + gap), (side + gap, 0))[number % 2]
        top = int(rng.integers(height - down - side + 1))
        left = int(rng.integers(width - right - side + 1))
        first = (top, left, top + side, left + side)
        second = (top + down, left + right, top + down + side, left + right + side)
        pairs.append([first, second])
    return pairs
