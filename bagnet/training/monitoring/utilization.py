"""Model FLOPs utilization: the share of a device's peak that a network's arithmetic takes."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bagnet.model.network import BagNet

DATA_SHEETS = {
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA H100 80GB HBM3": 989.4e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989.4e12,
}
"""Operations per second on dense bfloat16 or float16 matrices that NVIDIA states, by torch's name
of the GPU.

Lightning has such a table too (`get_available_flops`), but it does not know this name of an H200,
and states the H200's peak for sparse matrices."""

BATCH = 2
"""Images that arithmetic is counted for: BatchNorm refuses a single value per channel."""


def data_sheet(device: torch.device) -> float | None:
    """Operations per second in `DATA_SHEETS`; None for a CPU and for a GPU that is not listed."""
    return DATA_SHEETS.get(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def count_flops(model: nn.Module, image_size: torch.Size) -> tuple[float, float]:
    """Count the floating-point operations for one image; a multiply-add is two.

    Args:
        model: A network on torch's meta device, which has shapes but no numbers.
        image_size: (3, H, W).

    Returns:
        Those of the forward pass, and those of a training step, which is both passes.
    """
    images = torch.empty(BATCH, *image_size, device="meta")
    with FlopCounterMode(display=False) as forward:
        loss = model(images).sum()
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    flops = forward.get_total_flops()
    return flops / BATCH, (flops + backward.get_total_flops()) / BATCH


def training_flops(model: nn.Module, image_size: torch.Size) -> float:
    """Operations of a training step for one image; frozen layers need fewer.

    What activation checkpointing computes again is not counted, as is usual for an MFU.
    """
    shapes = copy.deepcopy(model).to("meta")
    if isinstance(shapes, BagNet):
        shapes.recompute = False
    return count_flops(shapes, image_size)[1]
