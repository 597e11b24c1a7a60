"""A 1x1 convolution as a product of matrices, with what stands before and after it.

A normalisation is never written out before it: the convolution applies it, and the ReLU, to the tiles that it reads, and
takes its own output's moments while it writes that.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from bagnet.kernels import moments, tiles
from bagnet.kernels.moments import Moments, merge, moments_of_tile
from bagnet.kernels.pointwise import Scaling
from bagnet.kernels.tiles import at, multiply, narrow, place

# Rows, output channels and input channels of a tile; warps, stages.
TILES = (
    (128, 64, 64, 8, 3), (128, 128, 64, 8, 3), (128, 128, 32, 8, 3), (256, 64, 64, 8, 3),
    (64, 128, 64, 8, 3), (64, 64, 64, 4, 3), (64, 128, 32, 4, 4), (128, 64, 32, 4, 4),
)  # fmt: skip


@tiles.tuned(TILES, ("block_rows", "block_outputs", "block_inputs"))
@triton.jit
def _convolve_kernel(  # type: ignore[no-untyped-def]
    x,
    weight,
    scale,
    shift,
    y,
    partial,
    rows,
    inputs,
    outputs,
    height,
    width,
    x_height,
    x_width,
    group_rows,
    stride: tl.constexpr,
    normalizes: tl.constexpr,
    measures: tl.constexpr,
    precision: tl.constexpr,
    block_rows: tl.constexpr,
    block_outputs: tl.constexpr,
    block_inputs: tl.constexpr,
):
    blocks = tl.cdiv(outputs, block_outputs)
    group = tl.program_id(0) // blocks  # neighbours share the rows of x, which the cache then holds
    n = tl.program_id(0) % blocks * block_outputs + tl.arange(0, block_outputs)
    count = 0.0
    mean = tl.zeros((block_outputs,), tl.float32)
    squares = tl.zeros((block_outputs,), tl.float32)
    first = group * group_rows
    for start in range(first, tl.minimum(first + group_rows, rows), block_rows):
        row = start + tl.arange(0, block_rows)
        source = row if stride == 1 else place(row, height, width, x_height, x_width, stride)
        total = tl.zeros((block_rows, block_outputs), tl.float32)
        for base in range(0, inputs, block_inputs):
            k = base + tl.arange(0, block_inputs)
            tile = tl.load(
                at(x, source, k, inputs), (row < rows)[:, None] & (k < inputs)[None, :], 0.0
            )
            if normalizes:
                by = tl.load(scale + k, k < inputs, 0.0)[None, :]
                add = tl.load(shift + k, k < inputs, 0.0)[None, :]
                tile = tl.maximum(tile.to(tl.float32) * by + add, 0.0)
                tile = narrow(tile, weight.dtype.element_ty)
            factors = tl.load(
                weight + n[None, :] * inputs + k[:, None],
                (n < outputs)[None, :] & (k < inputs)[:, None],
                0.0,
            )
            total = multiply(tile, factors, total, precision)
        rounded = narrow(total, y.dtype.element_ty)
        valid = (row < rows)[:, None] & (n < outputs)[None, :]
        tl.store(at(y, row, n, outputs), rounded, valid)
        if measures:  # what is stored, since that is what gets normalised
            tile_count = tl.minimum(block_rows, rows - start).to(tl.float32)
            tile_mean, tile_squares = moments_of_tile(rounded.to(tl.float32), valid, tile_count)
            count, mean, squares = merge(count, mean, squares, tile_count, tile_mean, tile_squares)
    if measures:
        tl.store(partial + group * 2 * outputs + n, mean, n < outputs)
        tl.store(partial + (group * 2 + 1) * outputs + n, squares, n < outputs)


def convolve(
    x: Tensor, weight: Tensor, before: Scaling | None, stride: int, measures: bool
) -> tuple[Tensor, Moments | None]:
    """A 1x1 convolution, of ``relu(x scale + shift)`` where a normalisation stands before it.

    Args:
        x: (B, C, H, W), channels last.
        weight: (N, C), contiguous, in the dtype of x.
        before: The normalisation.
        stride: Of the convolution; what it leaves out is not read.
        measures: Whether to return the output's moments.

    Returns:
        (B, N, ceil(H / stride), ceil(W / stride)), channels last, in the dtype of x; its moments.
    """
    channels, (height, width) = len(weight), x.shape[2:]
    y = tiles.empty(x, channels, triton.cdiv(height, stride), triton.cdiv(width, stride))
    rows = tiles.rows_of(y)
    size, count = tiles.groups(rows)
    partial = moments.allocate(y, count) if measures else y  # y: not touched

    def grid(tile: dict[str, int]) -> tuple[int, ...]:
        return (count * triton.cdiv(channels, tile["block_outputs"]),)

    scale, shift = before or (x, x)
    _convolve_kernel[grid](
        x, weight, scale, shift, y, partial, rows, x.shape[1], channels, *y.shape[2:], height, width, size,
        stride=stride, normalizes=before is not None, measures=measures, precision=tiles.precision(x),
    )  # fmt: skip
    return y, moments.combine(partial, rows, channels) if measures else None
