"""Counts the arithmetic and the bytes that a step needs, and measures what the device can do."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bagnet.bench.lib.rounds import step_seconds
from bagnet.model.registry import build_model
from bagnet.training.monitoring.utilization import BATCH, count_flops

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
        plain_bytes: Bytes of activations and their gradients that a training step in bfloat16 reads
            and writes if each operation is a kernel of its own.
        parameters: Number of parameters.
    """

    forward_flops: float
    training_flops: float
    activations: float
    plain_bytes: float
    parameters: int

    @property
    def training_bytes(self) -> float:
        """Least bytes that a training step moves in bfloat16 if all else is fused into these."""
        return PASSES * BF16 * self.activations


def count(name: str, width: int, image_size: int) -> Counts:
    """Count a network's work on torch's meta device, which has shapes but no numbers."""
    with torch.device("meta"):
        model = build_model(name, width=width)
    written, moved = 0, 0

    def note(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal written, moved
        if not isinstance(module, nn.BatchNorm2d):
            written += output.numel()
        moved += _moved(module, inputs[0].numel(), output.numel())

    for module in model.modules():
        if _is_block(module) or isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            module.register_forward_hook(note)
    forward, training = count_flops(model, torch.Size((3, image_size, image_size)))
    return Counts(
        forward_flops=forward,
        training_flops=training,
        activations=written / BATCH,
        plain_bytes=BF16 * moved / BATCH,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def _is_block(module: nn.Module) -> bool:
    """Whether this is a bottleneck, ours or torchvision's."""
    return hasattr(module, "downsample")


def _moved(module: nn.Module, read: int, written: int) -> int:
    """Elements that a module's own kernels read and write in a training step, weights excluded.

    Args:
        module: A convolution, a linear layer, a BatchNorm, or a bottleneck (without the layers in
            it).
        read: Elements of its input.
        written: Elements of its output.
    """
    if isinstance(module, nn.BatchNorm2d):
        # Forward: read for the statistics, read, write. Backward: two reads of input and gradient,
        # a write. The ReLU that follows: two passes forward, three backward.
        return (3 + 5 + 2 + 3) * written
    if _is_block(module):
        # The sum of two maps, and of the two gradients of the input. Its last ReLU replaces that of
        # its last BatchNorm; the one of `downsample` has none.
        unused = 5 * written if module.downsample is not None else 0
        return 3 * written + 3 * read - unused
    # Forward: read, write. Backward: each of the two products reads the output's gradient.
    return 3 * read + 3 * written


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
