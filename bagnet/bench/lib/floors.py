"""Counts the arithmetic and the bytes that a step needs, and measures what the device can do."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bagnet.bench.lib.rounds import step_seconds
from bagnet.model.registry import build_model

BF16 = 2  # bytes
PASSES = 4
"""How often a stored activation crosses the memory bus in a training step: written, read by the
next layer, and read twice in the backward pass, for the gradients of input and weights."""


@dataclass(frozen=True)
class Counts:
    """What a network needs for one image.

    Attributes:
        forward_flops: Floating-point operations of the forward pass; a multiply-add is two.
        training_flops: Floating-point operations of the forward and the backward pass.
        activations: Elements that convolutions, linear layers and the sums of residual blocks
            write. BatchNorm and ReLU are not counted, because they can be fused.
        parameters: Number of parameters.
    """

    forward_flops: float
    training_flops: float
    activations: float
    parameters: int

    @property
    def training_bytes(self) -> float:
        """Least bytes that a training step moves in bfloat16 if all else is fused into these."""
        return PASSES * BF16 * self.activations


def count(name: str, width: int, image_size: int) -> Counts:
    """Count a network's work on torch's meta device, which has shapes but no numbers."""
    batch = 2  # BatchNorm refuses a single value per channel
    with torch.device("meta"):
        model = build_model(name, width=width)
        images = torch.empty(batch, 3, image_size, image_size)
    written: list[int] = []

    def note(module: nn.Module, inputs: object, output: Tensor) -> None:
        written.append(output.numel())

    for module in model.modules():
        is_block = hasattr(module, "downsample")  # a bottleneck, ours or torchvision's
        if is_block or isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(note)
    with FlopCounterMode(display=False) as forward:
        loss = model(images).sum()
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    flops = forward.get_total_flops()
    return Counts(
        forward_flops=flops / batch,
        training_flops=(flops + backward.get_total_flops()) / batch,
        activations=sum(written) / batch,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


@dataclass(frozen=True)
class Peaks:
    """What the device reaches in this run.

    Attributes:
        flops: Floating-point operations per second of a large bfloat16 matrix product.
        bandwidth: Bytes per second of a large copy, read and written.
    """

    flops: float
    bandwidth: float


def measure_peaks(device: torch.device) -> Peaks:
    """Take the fastest of ten large matrix products, and of ten large copies."""
    side, size = (8192, 2**30) if device.type == "cuda" else (1024, 2**26)
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.zeros(size, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    torch.mm(left, right)  # the warm-up
    target.copy_(source)
    product = min(step_seconds(lambda: torch.mm(left, right), 10, device))
    copy = min(step_seconds(lambda: target.copy_(source), 10, device))
    return Peaks(flops=2 * side**3 / product, bandwidth=2 * size / copy)
