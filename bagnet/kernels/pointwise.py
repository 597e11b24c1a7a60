"""Normalising, adding a residual and the ReLU in one pass, where no 1x1 convolution does it."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from bagnet.kernels import tiles
from bagnet.kernels.tiles import at, narrow, place


class Scaling(NamedTuple):
    """What a normalisation multiplies with and adds: float32 (C,) each."""

    scale: Tensor
    shift: Tensor


@triton.jit
def _normalize_kernel(  # type: ignore[no-untyped-def]
    x,
    scale,
    shift,
    residual,
    residual_scale,
    residual_shift,
    out,
    rows,
    channels,
    height,
    width,
    residual_height,
    residual_width,
    adds: tl.constexpr,
    normalizes_residual: tl.constexpr,
    crops: tl.constexpr,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
):
    row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    c = tl.program_id(1) * block_columns + tl.arange(0, block_columns)
    valid = (row < rows)[:, None] & (c < channels)[None, :]
    tile = tl.load(at(x, row, c, channels), valid, 0.0).to(tl.float32)
    by, add = tl.load(scale + c, c < channels), tl.load(shift + c, c < channels)
    tile = tile * by[None, :] + add[None, :]
    if adds:
        source = place(row, height, width, residual_height, residual_width, 1) if crops else row
        other = tl.load(at(residual, source, c, channels), valid, 0.0).to(tl.float32)
        if normalizes_residual:
            by = tl.load(residual_scale + c, c < channels)
            add = tl.load(residual_shift + c, c < channels)
            other = other * by[None, :] + add[None, :]
        tile += other
    tile = tl.maximum(tile, 0.0)
    tl.store(at(out, row, c, channels), narrow(tile, out.dtype.element_ty), valid)


def normalize(
    x: Tensor,
    by: Scaling,
    residual: Tensor | None = None,
    residual_by: Scaling | None = None,
) -> Tensor:
    """``relu(x scale + shift + residual)``, written once.

    Args:
        x: (B, C, H, W), channels last.
        by: Its normalisation.
        residual: (B, C, H' >= H, W' >= W), channels last; what is more at the bottom and right is not read.
        residual_by: The residual's own normalisation, if it has one.
    """
    rows, channels = tiles.rows_of(x), x.shape[1]
    out, tile = torch.empty_like(x), tiles.flat_tile(channels)
    grid = (
        triton.cdiv(rows, tile["block_rows"]),
        triton.cdiv(channels, tile["block_columns"]),
    )
    other = x if residual is None else residual
    _normalize_kernel[grid](
        x, *by, other, *(residual_by or by), out, rows, channels, *x.shape[2:], *other.shape[2:],
        adds=residual is not None, normalizes_residual=residual_by is not None, crops=other.shape != x.shape, **tile,
    )  # fmt: skip
    return out
