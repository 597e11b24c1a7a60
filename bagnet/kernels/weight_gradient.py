"""The gradient of a 1x1 convolution's weight, from raw tensors alone."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from bagnet.kernels import tiles
from bagnet.kernels.input_gradient import Upstream, load_upstream
from bagnet.kernels.pointwise import Scaling
from bagnet.kernels.tiles import at, multiply, narrow, place

# Output channels, input channels and rows of a tile; warps, stages.
TILES = (
    (64, 64, 64, 4, 3), (128, 64, 64, 4, 2), (64, 128, 64, 4, 2), (128, 128, 64, 8, 2), (128, 128, 32, 8, 3),
)  # fmt: skip


@tiles.tuned(TILES, ("block_outputs", "block_inputs", "block_rows"))
@triton.jit
def _weight_kernel(  # type: ignore[no-untyped-def]
    gradient,
    y,
    coefficients,
    x,
    scale,
    shift,
    partial,
    rows,
    inputs,
    outputs,
    height,
    width,
    part_height,
    part_width,
    x_height,
    x_width,
    split_rows,
    stride: tl.constexpr,
    is_whole: tl.constexpr,
    x_stride: tl.constexpr,
    normalizes: tl.constexpr,
    precision: tl.constexpr,
    block_outputs: tl.constexpr,
    block_inputs: tl.constexpr,
    block_rows: tl.constexpr,
):
    blocks = tl.cdiv(inputs, block_inputs)
    n = tl.program_id(0) // blocks * block_outputs + tl.arange(0, block_outputs)
    k = tl.program_id(0) % blocks * block_inputs + tl.arange(0, block_inputs)
    split = tl.program_id(1)
    total = tl.zeros((block_outputs, block_inputs), tl.float32)
    first = split * split_rows
    for start in range(first, tl.minimum(first + split_rows, rows), block_rows):
        row = start + tl.arange(0, block_rows)
        left = load_upstream(
            gradient, y, coefficients, row, row < rows, n, outputs,
            height, width, part_height, part_width, stride, is_whole,
        )  # fmt: skip
        source = row if x_stride == 1 else place(row, height, width, x_height, x_width, x_stride)
        right = tl.load(
            at(x, source, k, inputs), (row < rows)[:, None] & (k < inputs)[None, :], 0.0
        )
        if normalizes:
            by, add = tl.load(scale + k, k < inputs, 0.0), tl.load(shift + k, k < inputs, 0.0)
            right = tl.maximum(right.to(tl.float32) * by[None, :] + add[None, :], 0.0)
            right = narrow(right, x.dtype.element_ty)
        left = narrow(left, x.dtype.element_ty)
        total = multiply(tl.trans(left), right, total, precision)
    valid = (n < outputs)[:, None] & (k < inputs)[None, :]
    tl.store(at(partial, split * outputs + n, k, inputs), total, valid)


def weight_gradient(upstream: Upstream, x: Tensor, by: Scaling | None, stride: int) -> Tensor:
    """Of a 1x1 convolution's weight, float32 (N, K).

    Args:
        upstream: Of the convolution's output.
        x: Its raw input, (B, K, H'', W''), channels last.
        by: The normalisation before it, if there is one, with its ReLU.
        stride: Of the convolution.
    """
    g, y, coefficients, _ = upstream
    rows, inputs, outputs = tiles.rows_of(y), x.shape[1], y.shape[1]
    # Small weights have few tiles, so that many programs must share the rows to fill the device.
    shares = triton.cdiv(tiles.SPLITS, triton.cdiv(inputs, 64) * triton.cdiv(outputs, 64))
    size, count = tiles.groups(rows, shares)
    partial = torch.empty((count, outputs, inputs), dtype=torch.float32, device=y.device)

    def grid(tile: dict[str, int]) -> tuple[int, ...]:
        blocks = triton.cdiv(inputs, tile["block_inputs"])
        return (triton.cdiv(outputs, tile["block_outputs"]) * blocks, count)

    scale, shift = by or (coefficients, coefficients)
    _weight_kernel[grid](
        g, y, coefficients, x, scale, shift, partial, rows, inputs, outputs,
        *y.shape[2:], *g.shape[2:], *x.shape[2:], size,
        stride=upstream.stride, is_whole=upstream.is_whole, x_stride=stride,
        normalizes=by is not None, precision=tiles.precision(y),
    )  # fmt: skip
    return partial.sum(0)
