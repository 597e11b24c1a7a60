"""Back through a ReLU and a normalisation, where no 1x1 convolution does it."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from bagnet.kernels import tiles
from bagnet.kernels.pointwise import Scaling
from bagnet.kernels.tiles import at, narrow, place


class Sums(NamedTuple):
    """Over all rows, of g and of g (y - mean): float32 (C,) each."""

    gradient: Tensor
    products: Tensor


@triton.jit
def _mask_kernel(  # type: ignore[no-untyped-def]
    gradient,
    out,
    x,
    scale,
    shift,
    mean,
    other,
    other_mean,
    masked,
    partial,
    rows,
    channels,
    height,
    width,
    other_height,
    other_width,
    group_rows,
    by_output: tl.constexpr,
    stores: tl.constexpr,
    has_other: tl.constexpr,
    crops: tl.constexpr,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
):
    group = tl.program_id(0)
    c = tl.program_id(1) * block_columns + tl.arange(0, block_columns)
    sums = tl.zeros((block_columns,), tl.float32)
    products = tl.zeros((block_columns,), tl.float32)
    other_products = tl.zeros((block_columns,), tl.float32)
    centre = tl.load(mean + c, c < channels, 0.0)[None, :]
    first = group * group_rows
    for start in range(first, tl.minimum(first + group_rows, rows), block_rows):
        row = start + tl.arange(0, block_rows)
        valid = (row < rows)[:, None] & (c < channels)[None, :]
        g = tl.load(at(gradient, row, c, channels), valid, 0.0)
        raw = tl.load(at(x, row, c, channels), valid, 0.0).to(tl.float32)
        if by_output:
            passes = tl.load(at(out, row, c, channels), valid, 0.0) > 0
        else:
            by, add = tl.load(scale + c, c < channels, 0.0), tl.load(shift + c, c < channels, 0.0)
            passes = raw * by[None, :] + add[None, :] > 0
        g = tl.where(passes, g, 0.0).to(gradient.dtype.element_ty)
        if stores:
            tl.store(at(masked, row, c, channels), g, valid)
        g = g.to(tl.float32)
        sums += tl.sum(g, 0)
        products += tl.sum(g * (raw - centre), 0)
        if has_other:
            source = place(row, height, width, other_height, other_width, 1) if crops else row
            raw = tl.load(at(other, source, c, channels), valid, 0.0).to(tl.float32)
            other_centre = tl.load(other_mean + c, c < channels, 0.0)[None, :]
            other_products += tl.sum(g * (raw - other_centre), 0)
    tl.store(partial + group * 3 * channels + c, sums, c < channels)
    tl.store(partial + (group * 3 + 1) * channels + c, products, c < channels)
    tl.store(partial + (group * 3 + 2) * channels + c, other_products, c < channels)


@triton.jit
def _pass_kernel(  # type: ignore[no-untyped-def]
    gradient,
    x,
    scale,
    shift,
    coefficients,
    out,
    rows,
    channels,
    masks: tl.constexpr,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
):
    row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    c = tl.program_id(1) * block_columns + tl.arange(0, block_columns)
    valid = (row < rows)[:, None] & (c < channels)[None, :]
    g = tl.load(at(gradient, row, c, channels), valid, 0.0).to(tl.float32)
    raw = tl.load(at(x, row, c, channels), valid, 0.0).to(tl.float32)
    if masks:
        by, add = tl.load(scale + c, c < channels, 0.0), tl.load(shift + c, c < channels, 0.0)
        g = tl.where(raw * by[None, :] + add[None, :] > 0, g, 0.0)
    a = tl.load(coefficients + c, c < channels, 0.0)[None, :]
    b = tl.load(coefficients + channels + c, c < channels, 0.0)[None, :]
    d = tl.load(coefficients + 2 * channels + c, c < channels, 0.0)[None, :]
    tl.store(at(out, row, c, channels), narrow(a * g + b * raw + d, out.dtype.element_ty), valid)


def end_gradient(
    gradient: Tensor, out: Tensor, x: Tensor, mean: Tensor, residual: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Sums, Sums | None]:
    """Through the ReLU at the end of a block: the gradient of both sides of its sum.

    Args:
        gradient: Of the block's output, (B, C, H, W), channels last.
        out: That output.
        x: What was normalised, likewise.
        mean: Of that.
        residual: The raw residual, at least as large, and its mean, where it is normalised too.

    Returns:
        g, (B, C, H, W), channels last, with the sums for x and for the residual.
    """
    masked = torch.empty_like(out)
    other, other_mean = residual or (x, mean)
    partial = _mask(gradient, out, x, None, mean, other, other_mean, masked, residual is not None)
    # Copied: both become the gradients of parameters, which must not share their memory.
    both = Sums(partial[0].clone(), partial[2]) if residual is not None else None
    return masked, Sums(partial[0], partial[1]), both


def masked_sums(
    gradient: Tensor, x: Tensor, by: Scaling, mean: Tensor, masked: Tensor | None = None
) -> Sums:
    """Through the ReLU behind a normalisation: the sums for that.

    Args:
        gradient: Of the ReLU's output, (B, C, H, W), channels last.
        x: What was normalised, likewise.
        by: Its normalisation.
        mean: Of x.
        masked: Where to write g; it may be ``gradient`` itself.
    """
    partial = _mask(gradient, x, x, by, mean, x, mean, masked, False)
    return Sums(partial[0], partial[1])


def _mask(
    gradient: Tensor,
    out: Tensor,
    x: Tensor,
    by: Scaling | None,
    mean: Tensor,
    other: Tensor,
    other_mean: Tensor,
    masked: Tensor | None,
    has_other: bool,
) -> Tensor:
    rows, channels = tiles.rows_of(x), x.shape[1]
    size, count = tiles.groups(rows)
    partial = torch.empty((count, 3, channels), dtype=torch.float32, device=x.device)
    tile = tiles.flat_tile(channels)
    _mask_kernel[(count, triton.cdiv(channels, tile["block_columns"]))](
        gradient, out, x, *(by or (mean, mean)), mean, other, other_mean, x if masked is None else masked, partial,
        rows, channels, *x.shape[2:], *other.shape[2:], size,
        by_output=by is None, stores=masked is not None, has_other=has_other, crops=other.shape != x.shape, **tile,
    )  # fmt: skip
    return partial.sum(0)


def raw_gradient(gradient: Tensor, x: Tensor, by: Scaling | None, coefficients: Tensor) -> Tensor:
    """``a g + b x + c``, the gradient of what was normalised, written out for a convolution of torch.

    Args:
        gradient: g, (B, C, H, W), channels last.
        x: What was normalised, likewise.
        by: Its normalisation, where g is still to pass the ReLU behind it.
        coefficients: a, b and c, float32 (3, C).
    """
    rows, channels = tiles.rows_of(x), x.shape[1]
    out, tile = torch.empty_like(x), tiles.flat_tile(channels)
    grid = (triton.cdiv(rows, tile["block_rows"]), triton.cdiv(channels, tile["block_columns"]))
    scale, shift = by or (coefficients, coefficients)
    _pass_kernel[grid](
        gradient, x, scale, shift, coefficients, out, rows, channels, masks=by is not None, **tile
    )
    return out
