"""The gradient of a 1x1 convolution's input, with what stands before and after the convolution.

The gradient of a normalised convolution's raw output y is, for each channel, a linear function of y and of the gradient g
of the normalised value,

    dy = a g + b y + c,

with coefficients that take the sums of g and of g (y - mean) over all rows (`bagnet.kernels.normalization`). So dy is
never written out before a 1x1 convolution: the two products of its backward pass make it from the tiles of g and y, and
the normalised input from the raw one, as the forward pass did.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from bagnet.kernels import tiles
from bagnet.kernels.pointwise import Scaling
from bagnet.kernels.pointwise_gradient import Sums
from bagnet.kernels.tiles import at, find, multiply, narrow, place


class Upstream(NamedTuple):
    """A raw output's gradient, not yet put together.

    Attributes:
        gradient: g, (B, N, H', W'), channels last: of the rows ``stride`` apart from the top left of y; zero elsewhere.
        y: (B, N, H, W), channels last.
        coefficients: a, b and c, float32 (3, N).
        stride: Of g in y.
    """

    gradient: Tensor
    y: Tensor
    coefficients: Tensor
    stride: int = 1

    @property
    def is_whole(self) -> bool:
        return self.gradient.shape == self.y.shape


@triton.jit
def load_upstream(  # type: ignore[no-untyped-def]
    gradient,
    y,
    coefficients,
    row,
    valid_row,
    n,
    outputs,
    height,
    width,
    part_height,
    part_width,
    stride: tl.constexpr,
    is_whole: tl.constexpr,
):
    """A tile of dy, float32, and zero outside."""
    valid = valid_row[:, None] & (n < outputs)[None, :]
    if is_whole:
        g = tl.load(at(gradient, row, n, outputs), valid, 0.0)
    else:
        part_row, inside = find(row, height, width, part_height, part_width, stride)
        g = tl.load(at(gradient, part_row, n, outputs), valid & inside[:, None], 0.0)
    a = tl.load(coefficients + n, n < outputs, 0.0)[None, :]
    b = tl.load(coefficients + outputs + n, n < outputs, 0.0)[None, :]
    c = tl.load(coefficients + 2 * outputs + n, n < outputs, 0.0)[None, :]
    raw = tl.load(at(y, row, n, outputs), valid, 0.0).to(tl.float32)
    return tl.where(valid, a * g.to(tl.float32) + b * raw + c, 0.0)


# Rows, input channels and output channels of a tile; warps, stages.
TILES = (
    (128, 64, 64, 8, 2), (128, 128, 64, 8, 2), (128, 128, 32, 8, 3), (256, 64, 32, 8, 3),
    (64, 128, 32, 8, 3), (64, 64, 64, 4, 2), (128, 64, 32, 4, 3),
)  # fmt: skip


@tiles.tuned(TILES, ("block_rows", "block_inputs", "block_outputs"))
@triton.jit
def _input_kernel(  # type: ignore[no-untyped-def]
    gradient,
    y,
    coefficients,
    weight,
    other,
    scale,
    shift,
    mean,
    out,
    partial,
    rows,
    inputs,
    outputs,
    height,
    width,
    part_height,
    part_width,
    other_height,
    other_width,
    group_rows,
    stride: tl.constexpr,
    is_whole: tl.constexpr,
    other_stride: tl.constexpr,
    other_is_whole: tl.constexpr,
    masks: tl.constexpr,
    adds: tl.constexpr,
    precision: tl.constexpr,
    block_rows: tl.constexpr,
    block_inputs: tl.constexpr,
    block_outputs: tl.constexpr,
):
    blocks = tl.cdiv(inputs, block_inputs)
    group = tl.program_id(0) // blocks
    k = tl.program_id(0) % blocks * block_inputs + tl.arange(0, block_inputs)
    sums = tl.zeros((block_inputs,), tl.float32)
    products = tl.zeros((block_inputs,), tl.float32)
    first = group * group_rows
    for start in range(first, tl.minimum(first + group_rows, rows), block_rows):
        row = start + tl.arange(0, block_rows)
        valid = (row < rows)[:, None] & (k < inputs)[None, :]
        total = tl.zeros((block_rows, block_inputs), tl.float32)
        for base in range(0, outputs, block_outputs):
            n = base + tl.arange(0, block_outputs)
            tile = load_upstream(
                gradient, y, coefficients, row, row < rows, n, outputs,
                height, width, part_height, part_width, stride, is_whole,
            )  # fmt: skip
            factors = tl.load(
                weight + n[:, None] * inputs + k[None, :],
                (n < outputs)[:, None] & (k < inputs)[None, :],
                0.0,
            )
            tile = narrow(tile, weight.dtype.element_ty)
            total = multiply(tile, factors, total, precision)
        if adds:  # another gradient of the same input, or of a part of it
            if other_is_whole:
                total += tl.load(at(other, row, k, inputs), valid, 0.0).to(tl.float32)
            else:
                part_row, inside = find(row, height, width, other_height, other_width, other_stride)
                more = tl.load(at(other, part_row, k, inputs), valid & inside[:, None], 0.0)
                total += more.to(tl.float32)
        if masks:  # through the ReLU, with the sums for the normalisation before it
            source = row
            if not other_is_whole:
                source = place(row, height, width, other_height, other_width, other_stride)
            raw = tl.load(at(other, source, k, inputs), valid, 0.0).to(tl.float32)
            by, add = tl.load(scale + k, k < inputs, 0.0), tl.load(shift + k, k < inputs, 0.0)
            passes = valid & (raw * by[None, :] + add[None, :] > 0)
            total = tl.where(passes, total, 0.0)
        rounded = narrow(total, out.dtype.element_ty)
        tl.store(at(out, row, k, inputs), rounded, valid)
        if masks:
            centre = tl.load(mean + k, k < inputs, 0.0)
            g = rounded.to(tl.float32)
            sums += tl.sum(g, 0)
            products += tl.sum(g * (raw - centre[None, :]), 0)
    if masks:
        tl.store(partial + group * 2 * inputs + k, sums, k < inputs)
        tl.store(partial + (group * 2 + 1) * inputs + k, products, k < inputs)


def input_gradient(
    upstream: Upstream, weight: Tensor, add: Tensor | None = None, add_stride: int = 1
) -> Tensor:
    """Of a 1x1 convolution's input, at the rows that it read.

    Args:
        upstream: Of the convolution's output.
        weight: (N, K), contiguous, in the dtype of g.
        add: One more gradient of the same input, (B, K, H', W') channels last: of the rows ``add_stride`` apart from its
            top left.
        add_stride: Of ``add``.

    Returns:
        (B, K, H, W), the map of y, channels last.
    """
    return _input_gradient(upstream, weight, add, add_stride, None, None)[0]


def masked_input_gradient(
    upstream: Upstream, weight: Tensor, x: Tensor, by: Scaling, mean: Tensor, stride: int
) -> tuple[Tensor, Sums]:
    """Of what the normalisation before a 1x1 convolution gives to its ReLU, at the rows that were read; with its sums.

    Args:
        upstream: Of the convolution's output.
        weight: (N, K), contiguous, in the dtype of g.
        x: What is normalised, (B, K, H'', W''), channels last.
        by: Its normalisation.
        mean: Of that.
        stride: Of the convolution.

    Returns:
        (B, K, H, W), the map of y, channels last.
    """
    gradient, partial = _input_gradient(upstream, weight, x, stride, by, mean)
    return gradient, Sums(*partial.sum(0))


def _input_gradient(
    upstream: Upstream,
    weight: Tensor,
    other: Tensor | None,
    stride: int,
    by: Scaling | None,
    mean: Tensor | None,
) -> tuple[Tensor, Tensor]:
    g, y, coefficients, _ = upstream
    inputs = weight.shape[1]
    out, rows = tiles.empty(y, inputs, *y.shape[2:]), tiles.rows_of(y)
    size, count = tiles.groups(rows)
    partial = torch.empty(
        (count, 2, inputs) if by is not None else 0, dtype=torch.float32, device=y.device
    )
    read = out if other is None else other
    scale, shift = by or (coefficients, coefficients)

    def grid(tile: dict[str, int]) -> tuple[int, ...]:
        return (count * triton.cdiv(inputs, tile["block_inputs"]),)

    _input_kernel[grid](
        g, y, coefficients, weight, read, scale, shift, coefficients if mean is None else mean, out, partial,
        rows, inputs, y.shape[1], *y.shape[2:], *g.shape[2:], *read.shape[2:], size,
        stride=upstream.stride, is_whole=upstream.is_whole, other_stride=stride,
        other_is_whole=read.shape == out.shape, masks=by is not None, adds=other is not None and by is None,
        precision=tiles.precision(y),
    )  # fmt: skip
    return out, partial
