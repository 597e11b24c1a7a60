"""A BagNet's blocks and the end of its stem on the kernels, forward and backward.

Kept for the backward pass are the raw outputs of the convolutions, and the block's own input and output; what stands
between, normalised and through the ReLU, is made again where it is read.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from bagnet.kernels import pointwise_gradient, tiles
from bagnet.kernels.convolution import convolve
from bagnet.kernels.input_gradient import Upstream, input_gradient, masked_input_gradient
from bagnet.kernels.moments import measure
from bagnet.kernels.normalization import Norm, Normalization, measures, normalization
from bagnet.kernels.pointwise import normalize
from bagnet.kernels.weight_gradient import weight_gradient
from bagnet.model.folding import stem_weight
from bagnet.model.network import BagNet, Bottleneck

Layer = tuple[nn.Conv2d, Norm]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def run_block(block: Bottleneck, x: Tensor) -> Tensor:
    """``Bottleneck.forward``: (B, C, H, W) -> (B, 4 width, H', W'), channels last."""
    tensors = [
        tensor
        for convolution, norm in _layers(block)
        for tensor in (convolution.weight, norm.weight, norm.bias)
    ]
    return cast(Tensor, _Block.apply(_laid_out(x), block, *tensors))


def run_stem(model: BagNet, x: Tensor) -> Tensor:
    """``BagNet.stem``: (B, C, H, W) -> (B, width, H - 2, W - 2), channels last."""
    weight = stem_weight(model)
    # Channels last, as what comes out would be laid out once more otherwise.
    x = F.conv2d(x, weight.contiguous(memory_format=torch.channels_last))
    return normalize_relu(model.bn1, x)


def normalize_relu(norm: Norm, x: Tensor) -> Tensor:
    """A normalisation with its ReLU: (B, C, H, W) -> (B, C, H, W), channels last."""
    return cast(Tensor, _NormalizeRelu.apply(_laid_out(x), norm, norm.weight, norm.bias))


def _laid_out(x: Tensor) -> Tensor:
    """In the dtype that autocast asks for, and channels last.

    Raises:
        ValueError: The kernels do not know the dtype.
    """
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    if dtype not in DTYPES:
        raise ValueError(
            f"the fused kernels compute in float32, bfloat16 or float16, not in {dtype}: use the plain ones"
        )
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def _layers(block: Bottleneck) -> list[Layer]:
    """The convolutions with their normalisations; the residual's own last, where it has one."""
    layers: list[Layer] = [
        (block.conv1, block.bn1),
        (block.conv2, block.bn2),
        (block.conv3, block.bn3),
    ]
    if block.downsample is not None:
        layers.append(cast(Layer, tuple(block.downsample)))
    return layers


def _matrix(convolution: nn.Conv2d, dtype: torch.dtype) -> Tensor:
    """The weight of a 1x1 convolution, contiguous (N, C)."""
    return convolution.weight.detach().to(dtype).flatten(1).contiguous()


def _convolve(
    layer: Layer, x: Tensor, weight: Tensor, before: Normalization | None
) -> tuple[Tensor, Normalization]:
    convolution, norm = layer
    by = None if before is None else before.by
    y, moments = convolve(x, weight, by, convolution.stride[0], measures(norm))
    return y, normalization(norm, moments, tiles.rows_of(y))


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, block: Bottleneck, *parameters: Tensor) -> Tensor:
        layers = _layers(block)
        weights = [
            _matrix(convolution, x.dtype)
            if convolution.kernel_size == (1, 1)
            else convolution.weight.detach().to(x.dtype)
            for convolution, _ in layers
        ]
        y1, norm1 = _convolve(layers[0], x, weights[0], None)
        if weights[1].ndim == 2:
            y2, norm2 = _convolve(layers[1], y1, weights[1], norm1)
        else:
            y2 = F.conv2d(normalize(y1, norm1.by), weights[1], stride=block.conv2.stride)
            y2 = y2.contiguous(memory_format=torch.channels_last)
            moments = measure(y2) if measures(block.bn2) else None
            norm2 = normalization(block.bn2, moments, tiles.rows_of(y2))
        y3, norm3 = _convolve(layers[2], y2, weights[2], norm2)
        residual, ctx.norms = x, [norm1, norm2, norm3]
        if block.downsample is not None:
            residual, norm = _convolve(layers[3], x, weights[3], None)
            ctx.norms.append(norm)
        out = normalize(y3, norm3.by, residual, ctx.norms[3].by if len(layers) == 4 else None)
        ctx.stride = block.conv2.stride[0]
        ctx.save_for_backward(x, y1, y2, y3, residual, out, *weights, *parameters)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, y1, y2, y3, residual, out, *rest = ctx.saved_tensors
        norms: list[Normalization] = ctx.norms
        stride: int = ctx.stride
        weights, parameters = rest[: len(norms)], rest[len(norms) :]
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        projected = (residual, norms[3].mean) if len(norms) == 4 else None
        g, sums3, sums_of_residual = pointwise_gradient.end_gradient(
            gradient, out, y3, norms[2].mean, projected
        )
        end = Upstream(g, y3, norms[2].coefficients(sums3))
        g2, sums2 = masked_input_gradient(end, weights[2], y2, norms[1].by, norms[1].mean, 1)
        gradients = [weight_gradient(end, y2, norms[1].by, 1)]
        coefficients = norms[1].coefficients(sums2)
        if weights[1].ndim == 2:
            middle = Upstream(g2, y2, coefficients)
            g1, sums1 = masked_input_gradient(
                middle, weights[1], y1, norms[0].by, norms[0].mean, stride
            )
            gradients.insert(0, weight_gradient(middle, y1, norms[0].by, stride))
            start = Upstream(g1, y1, norms[0].coefficients(sums1), stride)
        else:
            g1, weight2 = _convolution_backward(
                pointwise_gradient.raw_gradient(g2, y2, None, coefficients),
                normalize(y1, norms[0].by),
                weights[1],
                stride,
            )
            sums1 = pointwise_gradient.masked_sums(g1, y1, norms[0].by, norms[0].mean, g1)
            gradients.insert(0, weight2)
            start = Upstream(g1, y1, norms[0].coefficients(sums1))
        gradients.insert(0, weight_gradient(start, x, None, 1))
        sums = [sums1, sums2, sums3]
        if sums_of_residual is None:
            of_input = input_gradient(start, weights[0], g)
        else:
            sums.append(sums_of_residual)
            side = Upstream(g, residual, norms[3].coefficients(sums_of_residual))
            of_input = input_gradient(start, weights[0], input_gradient(side, weights[3]), stride)
            gradients.append(weight_gradient(side, x, None, stride))
        of_parameters = [
            tensor
            for i, norm in enumerate(norms)
            for tensor in (gradients[i], *norm.parameter_gradients(sums[i]))
        ]
        laid_out = [_like(*pair) for pair in zip(of_parameters, parameters, strict=True)]
        return of_input, None, *laid_out


class _NormalizeRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Norm, weight: Tensor, bias: Tensor) -> Tensor:
        moments = measure(x) if measures(norm) else None
        ctx.norm = normalization(norm, moments, tiles.rows_of(x))
        ctx.save_for_backward(x, weight, bias)
        return normalize(x, ctx.norm.by)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        norm: Normalization = ctx.norm
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        sums = pointwise_gradient.masked_sums(gradient, x, norm.by, norm.mean)
        of_input = pointwise_gradient.raw_gradient(gradient, x, norm.by, norm.coefficients(sums))
        pairs = zip(norm.parameter_gradients(sums), parameters, strict=True)
        return of_input, None, *(_like(*pair) for pair in pairs)


def _convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: int
) -> tuple[Tensor, Tensor]:
    """Gradients of the input, channels last, and of the weight of torch's convolution, in one call."""
    of_input, of_weight, _ = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, [stride] * 2, [0, 0], [1, 1], False, [0, 0], 1, [True, True, False]
    )  # fmt: skip
    return of_input.contiguous(memory_format=torch.channels_last), of_weight


def _like(gradient: Tensor, parameter: Tensor) -> Tensor:
    """In the parameter's dtype, shape and strides, or else DDP copies it once more."""
    if (
        gradient.ndim == 2
    ):  # of a 1x1 convolution: every layout of its weight is the matrix in memory
        gradient = gradient.as_strided(parameter.shape, parameter.stride())
    return gradient.to(parameter.dtype)
