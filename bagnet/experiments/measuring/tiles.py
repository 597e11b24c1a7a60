"""Images whose tiles have changed places."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def check_divides(side: int, count: int) -> None:
    """Check that images of so many pixels can be cut into so many tiles in a row, and that there is something to shuffle.

    Raises:
        ValueError: They cannot.
    """
    fitting = [n for n in range(2, side + 1) if side % n == 0]
    if count not in fitting:
        nearest = sorted(fitting, key=lambda n: abs(n - count))[:2]
        sides = sorted({max(1, side // max(count, 2)) * count, -(-side // max(count, 2)) * count})
        larger = f", or an --image_size of {' or '.join(map(str, sides))}" if count > 1 else ""
        raise ValueError(
            f"--tiles {count} does not cut images of {side} px into equal tiles: give "
            f"{' or '.join(map(str, sorted(nearest)))}{larger}"
        )


def orders(count: int, sample_ids: Tensor, seed: int) -> Tensor:
    """The order of the count x count tiles of each image, int64 (B, count^2); by seed and number, whatever the batch."""
    drawn = [
        np.random.default_rng((seed, int(sample_id), count)).permutation(count**2)
        for sample_id in sample_ids
    ]
    return torch.from_numpy(np.stack(drawn))


def shuffle_tiles(images: Tensor, order: Tensor) -> Tensor:
    """Put tile order[b, i] of image b in place i, row by row.

    Args:
        images: (B, C, H, W) of any dtype.
        order: int64 (B, n^2), permutations; n divides H and W.
    """
    batch, channels, height, width = images.shape
    count = round(order.shape[1] ** 0.5)
    tiles = images.unflatten(3, (count, -1)).unflatten(2, (count, -1))  # (B, C, n, h, n, w)
    tiles = tiles.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)  # (B, n^2, C, h, w)
    rows = torch.arange(batch, device=images.device)[:, None]
    shuffled = tiles[rows, order.to(images.device)].unflatten(1, (count, count))
    return shuffled.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, height, width)
