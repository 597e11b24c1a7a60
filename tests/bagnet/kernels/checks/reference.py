"""What the checks share: data, networks, and the same network in float64."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from bagnet.kernels import tiles
from bagnet.model.network import BagNet, Bottleneck

DEVICE = torch.device("cpu" if tiles.INTERPRETED else "cuda")
LIMIT = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}
DTYPES = [torch.float32, torch.bfloat16]

torch.set_num_threads(1)
torch.backends.cudnn.allow_tf32 = False  # float32 is compared as such
torch.backends.mkldnn.enabled = (
    False  # its backward pass corrupts memory for narrow, channels-last convolutions
)


def dtypes(*more: torch.dtype) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("dtype", [*DTYPES, *more], ids=str)


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Normal numbers on the device; a batch of maps is channels last."""
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))
    layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    return numbers.to(DEVICE, dtype).contiguous(memory_format=layout)


def columns(vector: Tensor) -> Tensor:
    """One number a channel, in float64, to broadcast over (B, C, H, W)."""
    return vector.double()[:, None, None]


def error(found: Tensor, expected: Tensor) -> float:
    """Relative, of the whole."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def check(
    pairs: Iterable[tuple[str, Tensor, Tensor]],
    dtype: torch.dtype,
    least: float = 0.0,
    times: float = 1.0,
) -> None:
    """That all errors are within the dtype's limit, or so many times it.

    Args:
        pairs: Name, what was found, what is right.
        dtype: The kernels'.
        least: What counts as the smallest size of what is right: sums that are zero but for rounding have no relative
            error.
        times: The limit.
    """
    wrong = {}
    for name, found, expected in pairs:
        assert found.shape == expected.shape, name
        found, expected = found.detach().double(), expected.detach().double()
        off = (found - expected).norm()
        off = float(off / expected.norm().clamp(min=least))
        if not off <= times * LIMIT[dtype]:
            wrong[name] = off, float(expected.norm())
    assert not wrong, wrong


@torch.no_grad()
def randomize(model: nn.Module, seed: int = 0) -> None:
    """Give every normalisation parameters and statistics of its own."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5), (module.bias, -0.3, 0.3),
                (module.running_mean, -0.3, 0.3), (module.running_var, 0.5, 1.5),
            ):  # fmt: skip
                assert tensor is not None
                drawn = torch.rand(tensor.shape, generator=generator)
                tensor.copy_(low + (high - low) * drawn)


def small_bagnet(blocks: int) -> BagNet:
    """A narrow BagNet-9 with a few blocks a stage.

    They add little to their residuals: as it is drawn, a deep network is chaotic on few rows, and two plain ones in
    float32 and float64 part within three steps.
    """
    torch.manual_seed(0)
    model = BagNet(9, num_classes=5, width=4)
    for name in ("layer1", "layer2", "layer3", "layer4"):
        setattr(model, name, getattr(model, name)[:blocks])
    randomize(model)
    for module in model.modules():
        if isinstance(module, Bottleneck):
            module.bn3.weight.data *= 0.1
    return model.to(DEVICE)


def in_float64(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy that computes in float64, but keeps what the convolutions read and write in ``dtype``.

    Where values are kept in bfloat16, some change their sign at a ReLU. That is no error of a kernel, so the reference
    rounds at the same places; gradients pass by.
    """
    reference = copy.deepcopy(model).double()
    for module in reference.modules():
        if isinstance(module, nn.Conv2d) and dtype != torch.float32:
            module.weight.data = module.weight.data.to(dtype).double()
            module.register_forward_pre_hook(lambda _, inputs: (_rounded(inputs[0], dtype),))
            module.register_forward_hook(lambda _, inputs, output: _rounded(output, dtype))
    return reference


def _rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x + (x.to(dtype).double() - x).detach()
