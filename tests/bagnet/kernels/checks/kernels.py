"""Every kernel against the same arithmetic in float64, on odd sizes."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from bagnet.kernels import pointwise_gradient, tiles
from bagnet.kernels.convolution import convolve
from bagnet.kernels.input_gradient import Upstream, input_gradient, masked_input_gradient
from bagnet.kernels.moments import Moments, measure
from bagnet.kernels.pointwise import Scaling, normalize
from bagnet.kernels.weight_gradient import weight_gradient
from tests.bagnet.kernels.checks.reference import check, columns, dtypes, random

# Batch, height, width, input and output channels: several tiles and several groups, or less than one.
SIZES = [(3, 7, 9, 40, 35), (1, 5, 3, 24, 67), (1, 1, 1, 3, 5)]
sizes = pytest.mark.parametrize("size", SIZES, ids=str)
strides = pytest.mark.parametrize("stride", [1, 3])


def scaling(channels: int) -> Scaling:
    return Scaling(random(channels).abs() + 0.5, random(channels, seed=1))


def normalized(x: torch.Tensor, by: Scaling | None) -> torch.Tensor:
    """In float64."""
    return x.double() if by is None else F.relu(x.double() * columns(by.scale) + columns(by.shift))


def check_moments(found: Moments, x: torch.Tensor) -> None:
    flat = x.double().transpose(0, 1).flatten(1)
    squares = flat.var(1, unbiased=False) * flat.shape[1]
    pairs = [("mean", found.mean, flat.mean(1)), ("squares", found.squares, squares)]
    check(pairs, torch.float32, least=1e-6)


@sizes
@strides
@dtypes(torch.float16)
@pytest.mark.parametrize("with_normalization", [False, True])
def test_a_convolution_and_its_moments(size, stride, dtype, with_normalization):
    batch, height, width, inputs, outputs = size
    x, weight = (
        random(batch, inputs, height, width, dtype=dtype),
        random(outputs, inputs, dtype=dtype),
    )
    by = scaling(inputs) if with_normalization else None
    y, moments = convolve(x, weight, by, stride, True)
    expected = F.conv2d(normalized(x, by), weight.double()[..., None, None], stride=stride)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=torch.channels_last)
    check([("y", y, expected)], dtype)
    check_moments(moments, y)
    again, none = convolve(x, weight, by, stride, False)
    assert torch.equal(again, y)
    assert none is None


@sizes
@dtypes()
def test_the_moments_of_any_map(size, dtype):
    batch, height, width, channels, _ = size
    x = random(batch, channels, height, width, dtype=dtype)
    check_moments(measure(x), x)


def test_moments_do_not_cancel_where_the_mean_is_large():
    x = random(1, 5, 16, 16) + 3000
    flat = x.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(
        measure(x).squares, (flat.var(1) * (flat.shape[1] - 1)).float(), rtol=1e-4, atol=0
    )
    naive = (x * x).sum((0, 2, 3)) - x.sum((0, 2, 3)) ** 2 / flat.shape[1]
    assert ((naive / measure(x).squares - 1).abs() > 0.01).any()  # as sums of squares do


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 1000, 10**6, 12_617_728])
def test_groups_hold_every_row_once_and_are_not_too_many(rows):
    size, number = tiles.groups(rows)
    assert size % tiles.GROUP == 0
    assert (number - 1) * size < rows <= number * size
    assert number <= tiles.GROUPS


@sizes
@dtypes()
@pytest.mark.parametrize("residual", ["none", "raw", "normalized"])
@pytest.mark.parametrize("crop", [0, 2])
def test_the_end_of_a_block(size, dtype, residual, crop):
    batch, height, width, channels, _ = size
    x, by = random(batch, channels, height, width, dtype=dtype), scaling(channels)
    other = random(batch, channels, height + crop, width + crop, dtype=dtype)
    expected = x.double() * columns(by.scale) + columns(by.shift)
    if residual == "none":
        found = normalize(x, by)
    else:
        other_by = Scaling(by.shift, by.scale) if residual == "normalized" else None
        found = normalize(x, by, other, other_by)
        added = other[..., :height, :width].double()
        if other_by is not None:
            added = added * columns(other_by.scale) + columns(other_by.shift)
        expected = expected + added
    check([("out", found, F.relu(expected))], dtype)


@sizes
@dtypes()
@pytest.mark.parametrize("crop", [None, 0, 2])
def test_the_gradient_at_the_end_of_a_block_with_its_sums(size, dtype, crop):
    batch, height, width, channels, _ = size
    shape = (batch, channels, height, width)
    gradient, x = random(*shape, dtype=dtype), random(*shape, dtype=dtype, seed=1)
    out, mean = F.relu(random(*shape, dtype=dtype, seed=2)), random(channels)
    expected = gradient.double() * (out > 0)
    residual = None
    if crop is not None:
        other = random(batch, channels, height + crop, width + crop, dtype=dtype, seed=3)
        residual = (other, random(channels, seed=4))
    g, sums, others = pointwise_gradient.end_gradient(gradient, out, x, mean, residual)
    pairs = [("g", g, expected), *sum_pairs(sums, expected, x, mean)]
    if residual is None:
        assert others is None
    else:
        assert others is not None
        other, other_mean = residual
        pairs += sum_pairs(others, expected, other[..., :height, :width], other_mean)
    check(pairs, dtype, least=1e-6)


def sum_pairs(sums, g, x, mean):
    products = g * (x.double() - columns(mean))
    return [
        ("sums", sums.gradient, g.sum((0, 2, 3))),
        ("products", sums.products, products.sum((0, 2, 3))),
    ]


@sizes
@dtypes()
def test_the_gradient_through_a_relu_and_a_normalization(size, dtype):
    batch, height, width, channels, _ = size
    shape = (batch, channels, height, width)
    gradient, x = random(*shape, dtype=dtype), random(*shape, dtype=dtype, seed=1)
    by, mean, coefficients = scaling(channels), random(channels), random(3, channels)
    masked = torch.empty_like(gradient)
    sums = pointwise_gradient.masked_sums(gradient, x, by, mean, masked)
    g = gradient.double() * (normalized(x, by) > 0)
    a, b, c = (columns(row) for row in coefficients)
    expected = a * g + b * x.double() + c
    check(
        [
            ("masked", masked, g),
            *sum_pairs(sums, g, x, mean),
            *sum_pairs(pointwise_gradient.masked_sums(gradient, x, by, mean), g, x, mean),
            ("raw", pointwise_gradient.raw_gradient(gradient, x, by, coefficients), expected),
            ("raw", pointwise_gradient.raw_gradient(masked, x, None, coefficients), expected),
        ],
        dtype,
        least=1e-6,
    )


def upstream(size, dtype, part):
    """A gradient of a part of the rows of y: all, the top left ones, or every second; and what it is, in float64."""
    batch, height, width, _, outputs = size
    y, coefficients = random(batch, outputs, height, width, dtype=dtype), random(3, outputs)
    stride = 2 if part == "strided" else 1
    rows = (-(-height // stride), -(-width // stride))
    if part == "cropped":
        rows = (max(height - 2, 1), max(width - 2, 1))
    g = random(batch, outputs, *rows, dtype=dtype, seed=1)
    whole = torch.zeros(y.shape, dtype=torch.float64, device=y.device)
    whole[..., ::stride, ::stride][..., : rows[0], : rows[1]] = g.double()
    a, b, c = (columns(row) for row in coefficients)
    return Upstream(g, y, coefficients, stride), a * whole + b * y.double() + c


parts = pytest.mark.parametrize("part", ["whole", "cropped", "strided"])


@sizes
@dtypes()
@parts
def test_the_gradient_of_a_convolutions_input(size, dtype, part):
    batch, height, width, inputs, outputs = size
    raw, dy = upstream(size, dtype, part)
    weight = random(outputs, inputs, dtype=dtype)
    expected = torch.einsum("bnhw,nk->bkhw", dy, weight.double())
    pairs = [("alone", input_gradient(raw, weight), expected)]
    for stride, crop in ((1, 0), (2, 0), (1, 2)):
        rows = (max(-(-height // stride) - crop, 1), max(-(-width // stride) - crop, 1))
        more = random(batch, inputs, *rows, dtype=dtype, seed=2)
        both = expected.clone()
        both[..., ::stride, ::stride][..., : rows[0], : rows[1]] += more.double()
        pairs.append((f"{stride} {crop}", input_gradient(raw, weight, more, stride), both))
    check(pairs, dtype)


@sizes
@strides
@dtypes()
@parts
def test_the_gradients_between_two_normalizations(size, stride, dtype, part):
    """Of the first one's output, masked by its ReLU, with its sums; and of the weight."""
    batch, height, width, inputs, outputs = size
    raw, dy = upstream(size, dtype, part)
    weight, by, mean = random(outputs, inputs, dtype=dtype), scaling(inputs), random(inputs)
    x = random(batch, inputs, stride * height, stride * width - stride + 1, dtype=dtype)
    read = x[..., ::stride, ::stride]
    found, sums = masked_input_gradient(raw, weight, x, by, mean, stride)
    expected = torch.einsum("bnhw,nk->bkhw", dy, weight.double()) * (normalized(read, by) > 0)
    pairs = [("input", found, expected), *sum_pairs(sums, expected, read, mean)]
    for name, before in (("weight", by), ("weight alone", None)):
        products = torch.einsum("bnhw,bkhw->nk", dy, normalized(read, before))
        pairs.append((name, weight_gradient(raw, x, before, stride), products))
    check(pairs, dtype, least=1e-6)
