"""Shuffled tiles of images: no pixel is lost, and no tile stays in its place."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from datamodules.plan import permutation


def orders(count: int, sample_ids: Tensor, seed: int) -> Tensor:
    """Draw the order of each image's count^2 tiles by seed and sample id, int64 (B, count^2).

    No tile stays in its place, unless it is the only one: every such order is as likely.
    """
    drawn = [derangement(count**2, seed, number, count) for number in sample_ids.tolist()]
    return torch.from_numpy(np.stack(drawn))


def derangement(size: int, *key: int) -> np.ndarray:
    """A random permutation without a fixed point that depends on the key only, int64 (size,)."""
    order, attempt = permutation(size, *key), 0
    while size > 1 and (order == np.arange(size)).any():  # about two of three
        attempt += 1
        order = permutation(size, *key, attempt)
    return order


def shuffle_tiles(images: Tensor, order: Tensor) -> Tensor:
    """Put tile order[b, i] of image b in place i, row by row.

    Args:
        images: (B, C, H, W) of any dtype.
        order: Orders of n^2 tiles, int64 (B, n^2), where n divides H and W.
    """
    batch, channels, height, width = images.shape
    n = round(order.shape[1] ** 0.5)
    tiles = images.reshape(batch, channels, n, height // n, n, width // n)
    tiles = tiles.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)  # (B, n^2, C, h, w)
    rows = torch.arange(batch, device=images.device)[:, None]
    shuffled = tiles[rows, order.to(images.device)].view(batch, n, n, *tiles.shape[2:])
    return shuffled.permute(0, 3, 1, 4, 2, 5).reshape(images.shape)
