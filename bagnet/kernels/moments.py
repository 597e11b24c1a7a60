"""Mean and spread of each channel over all rows, taken in two stages.

Sums of squares would cancel where a mean is large beside its deviations, so parts are merged by their means and their
squared deviations (Chan, Golub & LeVeque 1983).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from bagnet.kernels import tiles
from bagnet.kernels.tiles import at


class Moments(NamedTuple):
    """Mean, and sum of squared deviations from it, over all rows: float32 (C,) each."""

    mean: Tensor
    squares: Tensor


@triton.jit
def merge(count, mean, squares, other_count, other_mean, other_squares):  # type: ignore[no-untyped-def]
    """Of two parts together."""
    total = count + other_count
    delta = other_mean - mean
    mean += delta * (other_count / total)
    squares += other_squares + delta * delta * (count * other_count / total)
    return total, mean, squares


@triton.jit
def moments_of_tile(tile, valid, count):  # type: ignore[no-untyped-def]
    mean = tl.sum(tl.where(valid, tile, 0.0), 0) / count
    deviation = tl.where(valid, tile - mean[None, :], 0.0)
    return mean, tl.sum(deviation * deviation, 0)


@triton.jit
def _measure_kernel(  # type: ignore[no-untyped-def]
    x,
    partial,
    rows,
    channels,
    group_rows,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
):
    group = tl.program_id(0)
    c = tl.program_id(1) * block_columns + tl.arange(0, block_columns)
    count = 0.0
    mean = tl.zeros((block_columns,), tl.float32)
    squares = tl.zeros((block_columns,), tl.float32)
    first = group * group_rows
    for start in range(first, tl.minimum(first + group_rows, rows), block_rows):
        row = start + tl.arange(0, block_rows)
        valid = (row < rows)[:, None] & (c < channels)[None, :]
        tile = tl.load(at(x, row, c, channels), valid, 0.0).to(tl.float32)
        tile_count = tl.minimum(block_rows, rows - start).to(tl.float32)
        tile_mean, tile_squares = moments_of_tile(tile, valid, tile_count)
        count, mean, squares = merge(count, mean, squares, tile_count, tile_mean, tile_squares)
    tl.store(partial + group * 2 * channels + c, mean, c < channels)
    tl.store(partial + (group * 2 + 1) * channels + c, squares, c < channels)


@triton.jit
def _combine_kernel(  # type: ignore[no-untyped-def]
    partial,
    moments,
    rows,
    channels,
    group_rows,
    groups,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
):
    c = tl.program_id(0) * block_columns + tl.arange(0, block_columns)
    mean = tl.zeros((block_columns,), tl.float32)
    squares = tl.zeros((block_columns,), tl.float32)
    for start in range(0, groups, block_rows):  # the mean of the groups' means, by their sizes
        group = start + tl.arange(0, block_rows)
        valid = (group < groups)[:, None] & (c < channels)[None, :]
        count = tl.minimum(group_rows, rows - group * group_rows).to(tl.float32)[:, None]
        means = tl.load(at(partial, group * 2, c, channels), valid, 0.0)
        mean += tl.sum(tl.where(valid, means * (count / rows), 0.0), 0)
    for start in range(0, groups, block_rows):
        group = start + tl.arange(0, block_rows)
        valid = (group < groups)[:, None] & (c < channels)[None, :]
        count = tl.minimum(group_rows, rows - group * group_rows).to(tl.float32)[:, None]
        off = tl.load(at(partial, group * 2, c, channels), valid, 0.0) - mean[None, :]
        inner = tl.load(at(partial, group * 2 + 1, c, channels), valid, 0.0)
        squares += tl.sum(tl.where(valid, inner + off * off * count, 0.0), 0)
    tl.store(moments + c, mean, c < channels)
    tl.store(moments + channels + c, squares, c < channels)


def measure(x: Tensor) -> Moments:
    """The moments of each channel of (B, C, H, W), channels last."""
    rows, channels = tiles.rows_of(x), x.shape[1]
    size, count = tiles.groups(rows)
    partial, tile = allocate(x, count), tiles.flat_tile(channels)
    grid = (count, triton.cdiv(channels, tile["block_columns"]))
    _measure_kernel[grid](x, partial, rows, channels, size, **tile)
    return combine(partial, rows, channels)


def allocate(x: Tensor, count: int) -> Tensor:
    return torch.empty((count, 2, x.shape[1]), dtype=torch.float32, device=x.device)


def combine(partial: Tensor, rows: int, channels: int) -> Moments:
    moments = torch.empty((2, channels), dtype=torch.float32, device=partial.device)
    tile = {"block_rows": 32, "block_columns": 32}
    _combine_kernel[(triton.cdiv(channels, 32),)](
        partial, moments, rows, channels, tiles.groups(rows).rows, len(partial), **tile
    )
    return Moments(moments[0], moments[1])
