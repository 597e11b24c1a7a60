"""What all kernels share: where rows lie, how they are cut into tiles and groups, and how programs are tuned.

An activation (B, C, H, W) in channels-last memory is a matrix of B H W rows, one a pixel, and C columns. Sums over
the rows, which a normalisation needs, are taken in two stages and without atomics, so that they are the same each
time: a program sums a group of neighbouring rows, and a second kernel the groups.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def place(rows, height, width, source_height, source_width, stride: tl.constexpr):  # type: ignore[no-untyped-def]
    """Rows (b, i, j) of a height x width map -> rows (b, stride i, stride j) of the larger map that it was taken from."""
    image, i, j = rows // (height * width), rows // width % height, rows % width
    return (image * source_height + i * stride) * source_width + j * stride


@triton.jit
def find(rows, height, width, part_height, part_width, stride: tl.constexpr):  # type: ignore[no-untyped-def]
    """The inverse: rows of the larger map -> rows of the part that was taken from it, and whether they are in it."""
    image, y, x = rows // (height * width), rows // width % height, rows % width
    i, j = y // stride, x // stride
    inside = (y % stride == 0) & (x % stride == 0) & (i < part_height) & (j < part_width)
    return (image * part_height + i) * part_width + j, inside


@triton.jit
def at(pointer, rows, columns, width):  # type: ignore[no-untyped-def]
    """Addresses of a tile; a large batch has more than 2^31 numbers."""
    return pointer + rows.to(tl.int64)[:, None] * width + columns[None, :]


INTERPRETED = not isinstance(place, triton.JITFunction)
"""Whether TRITON_INTERPRET=1 runs the kernels on the CPU, step by step."""

_EMULATED = tl.constexpr(INTERPRETED)


@triton.jit
def multiply(a, b, total, precision: tl.constexpr):  # type: ignore[no-untyped-def]
    """``total + a @ b`` in float32. The interpreter of triton 3.9 takes bfloat16's bits for integers."""
    if _EMULATED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision=precision)


@triton.jit
def narrow(x, dtype: tl.constexpr):  # type: ignore[no-untyped-def]
    """float32 to the nearest of ``dtype``. The interpreter of triton 3.9 cuts bits off instead."""
    if _EMULATED and dtype == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
        x = bits.to(tl.float32, bitcast=True)
    return x.to(dtype)


ROWS, COLUMNS = 32, 32
"""Of the interpreter's tiles: small, so that few numbers fill several."""
GROUP = 64 if INTERPRETED else 256
"""Rows; all tiles' rows divide it."""
GROUPS = 1024
"""At most: enough for the 132 multiprocessors of an H200, few enough to sum up at once."""
SPLITS = 4 if INTERPRETED else 512
"""Programs that share the rows of a weight's gradient."""


class Groups(NamedTuple):
    """How many rows a group has, and how many groups there are."""

    rows: int
    number: int


def groups(rows: int, most: int = GROUPS) -> Groups:
    """Cut rows into at most so many groups of whole tiles."""
    size = triton.cdiv(triton.cdiv(rows, most), GROUP) * GROUP
    return Groups(size, triton.cdiv(rows, size))


def tuned(table: tuple[tuple[int, ...], ...], names: tuple[str, ...]) -> Callable[[Any], Any]:
    """Try a table's tiles once for each number of channels, and keep the fastest.

    Args:
        table: Sizes of a tile, then warps and stages.
        names: Of the sizes.
    """
    if INTERPRETED:
        tile = {name: ROWS if name == "block_rows" else COLUMNS for name in names}
        return lambda kernel: _Fixed(kernel, tile)
    configurations = [
        triton.Config(
            dict(zip(names, sizes, strict=True)), num_warps=int(warps), num_stages=int(stages)
        )
        for *sizes, warps, stages in table
    ]
    return triton.autotune(configurations, key=["inputs", "outputs"])


class _Fixed:
    """A kernel with its tile."""

    def __init__(self, kernel: Any, tile: dict[str, int]) -> None:
        self.kernel, self.tile = kernel, tile

    def __getitem__(self, grid: Callable[[dict[str, int]], tuple[int, ...]]) -> Callable[..., None]:
        def launch(*arguments: Any, **settings: Any) -> None:
            self.kernel[grid(self.tile)](*arguments, **settings, **self.tile)

        return launch


def flat_tile(channels: int) -> dict[str, int]:
    """The tile of a kernel that does no products: whole lines of memory, 4096 numbers."""
    columns = min(max(triton.next_power_of_2(channels), 16), COLUMNS if INTERPRETED else 256)
    return {"block_rows": ROWS if INTERPRETED else 4096 // columns, "block_columns": columns}


def rows_of(x: Tensor) -> int:
    return x.shape[0] * x.shape[2] * x.shape[3]


def empty(like: Tensor, channels: int, height: int, width: int) -> Tensor:
    """(B, channels, height, width) in channels-last memory, uninitialised."""
    return torch.empty(
        (like.shape[0], channels, height, width),
        dtype=like.dtype,
        device=like.device,
        memory_format=torch.channels_last,
    )


def precision(x: Tensor) -> str:
    """Of products: float32 is meant as such (TF32 costs the authors' BagNet-33 2.5 points of top-1)."""
    return "ieee" if x.dtype == torch.float32 else "tf32"
