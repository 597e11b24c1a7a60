"""Cuts images into tiles and shuffles them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from datamodules.plan import permutation


def check_divides(side: int, count: int) -> None:
    """Check that images can be cut into tiles of equal size, and into more than one.

    Args:
        side: Side of the images, in pixels.
        count: Tiles in a row.

    Raises:
        ValueError: They cannot.
    """
    fitting = [n for n in range(2, side + 1) if side % n == 0]
    if count in fitting:
        return
    nearest = sorted(sorted(fitting, key=lambda n: abs(n - count))[:2])
    message = (
        f"--tiles {count} does not cut images of {side} px into equal tiles: give "
        f"{' or '.join(map(str, nearest))}"
    )
    if count > 1:
        sides = sorted({max(1, side // count) * count, -(-side // count) * count})
        message += f", or a --data.image_size of {' or '.join(map(str, sides))}"
    raise ValueError(message)


def orders(count: int, sample_ids: Tensor, seed: int) -> Tensor:
    """Draw the order of each image's tiles by seed and sample id, whatever the batch.

    Args:
        count: Tiles in a row.
        sample_ids: int64 (B,).
        seed: Non-negative integer.

    Returns:
        Permutations, int64 (B, count^2).
    """
    drawn = [permutation(count**2, seed, number, count) for number in sample_ids.tolist()]
    return torch.from_numpy(np.stack(drawn))


def shuffle_tiles(images: Tensor, order: Tensor) -> Tensor:
    """Put tile order[b, i] of image b in place i, row by row.

    Args:
        images: (B, C, H, W) of any dtype.
        order: Permutations, int64 (B, n^2), where n divides H and W.
    """
    batch, channels, height, width = images.shape
    n = round(order.shape[1] ** 0.5)
    tiles = images.reshape(batch, channels, n, height // n, n, width // n)
    tiles = tiles.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)  # (B, n^2, C, h, w)
    rows = torch.arange(batch, device=images.device)[:, None]
    shuffled = tiles[rows, order.to(images.device)].view(batch, n, n, *tiles.shape[2:])
    return shuffled.permute(0, 3, 1, 4, 2, 5).reshape(images.shape)
