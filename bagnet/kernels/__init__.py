"""Fused kernels for a BagNet's blocks, in Triton; docs/kernels.md has the design.

The network keeps its modules, their names and its hooks on blocks and stages; only what a block computes with changes.
Where a device or a network has no fused kernels, everything runs on torch's own.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import nn

from bagnet.model.network import BagNet, Bottleneck

CAPABILITY = (8, 0)
"""The oldest GPUs (Ampere) that the kernels' bfloat16 and asynchronous copies are for."""


def obstacle(model: nn.Module, device: torch.device) -> str | None:
    """Why the fused kernels cannot run a network on a device; None if they can."""
    if not isinstance(model, BagNet):
        return f"{type(model).__name__} is no BagNet"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (it comes with torch for CUDA on Linux)"
    from bagnet.kernels.tiles import INTERPRETED

    if device.type == "cpu" and INTERPRETED:
        return None
    if device.type != "cuda":
        return f"they are for GPUs, and the device is {device}"
    capability = torch.cuda.get_device_capability(device)
    if capability < CAPABILITY:
        return (
            f"they need compute capability 8.0, and {device} has {'.'.join(map(str, capability))}"
        )
    return None


def fuse(model: nn.Module, device: torch.device) -> None:
    """Let a BagNet's blocks and its stem run on the fused kernels.

    The numbers agree to rounding, in training and evaluation, running statistics and nn.SyncBatchNorm included. Hooks on
    the layers inside stem and blocks are not called any more. torch.compile cannot look into the kernels.

    Args:
        model: A BagNet, changed in place.
        device: That it will run on.

    Raises:
        ValueError: There is an ``obstacle``.
    """
    reason = obstacle(model, device)
    if reason is not None:
        raise ValueError(f"no fused kernels here: {reason}; use the plain ones")
    from bagnet.kernels.blocks import run_block, run_stem  # needs triton

    for module in model.modules():
        if isinstance(module, Bottleneck):
            module.fused = run_block
        elif isinstance(module, BagNet):
            module.fused = run_stem
