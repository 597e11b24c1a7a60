"""Optimizers by name, their parameter groups, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

Schedule = Literal["step", "cosine", "one-cycle", "constant"]

REFERENCE_BATCH = 256
"""The global batch for which recipes state their learning rate."""

DECAYED_MODULES = (nn.Conv2d, nn.Linear)
"""Modules whose weights are always decayed; `decay_norm` decides for biases and all others."""


def scaled_learning_rate(learning_rate: float, global_batch: int) -> float:
    """Scale a learning rate for 256 images a step linearly (Goyal et al. 2017, section 2.1)."""
    return learning_rate * global_batch / REFERENCE_BATCH


def parameter_groups(
    module: nn.Module, weight_decay: float, decay_norm: bool
) -> list[dict[str, Any]]:
    """Group the parameters by the type of their module, not by their name.

    Args:
        module: The network.
        weight_decay: For the weights of convolutions and linear layers.
        decay_norm: Whether biases and normalisation layers are decayed too, as in the paper.

    Returns:
        The non-empty groups, for a `torch.optim.Optimizer`.
    """
    decayed: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for child in module.modules():
        for name, parameter in child.named_parameters(recurse=False):
            is_weight = isinstance(child, DECAYED_MODULES) and name == "weight"
            (decayed if is_weight or decay_norm else rest).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def learning_rate_factor(
    epoch: float,
    *,
    schedule: Schedule,
    epochs: float,
    warmup_epochs: float,
    decay_every: int,
    floor: float = 0.0,
) -> float:
    """Compute the factor of the base learning rate at one moment of the training.

    Args:
        epoch: Optimizer steps done, in epochs: 1.5 is the middle of the second one.
        schedule: `"step"` divides by ten every `decay_every` epochs (the paper's recipe).
            `"cosine"` falls from the end of the warm-up to the end of the training along half a
            cosine (Loshchilov & Hutter 2017), `"one-cycle"` along a straight line (Smith & Topin
            2019, as in ffcv-imagenet). `"constant"` does not fall.
        epochs: Length of the training.
        warmup_epochs: Length of the linear rise from zero.
        decay_every: Epochs between two steps.
        floor: The factor that the schedule does not fall below.
    """
    if epoch < warmup_epochs:
        return epoch / warmup_epochs
    if schedule == "constant":
        return 1.0
    if schedule == "step":
        return max(floor, 0.1 ** (int(epoch) // decay_every))
    progress = min((epoch - warmup_epochs) / max(epochs - warmup_epochs, 1e-9), 1.0)
    left = 0.5 * (1 + math.cos(math.pi * progress)) if schedule == "cosine" else 1 - progress
    return floor + (1 - floor) * left


def build_optimizer(
    name: str,
    groups: list[dict[str, Any]],
    *,
    lr: float,
    momentum: float,
    fused: bool,
    arguments: Mapping[str, Any],
) -> torch.optim.Optimizer:
    """Build an optimizer by its name.

    Args:
        name: `"sgd"` or `"adamw"`, which are torch's; or a name in `timm.optim.list_optimizers()`,
            such as `"lamb"`, `"lars"` or `"muon"`, which needs `pip install timm`.
        groups: Parameter groups.
        lr: Learning rate.
        momentum: Momentum, 0 to 1, of optimizers that call it so.
        fused: Whether SGD and AdamW update all weights with one kernel.
        arguments: Further arguments of the optimizer's class.

    Raises:
        ValueError: There is no such optimizer, timm is missing, or an argument is wrong.
    """
    try:
        if name == "sgd":
            return sgd(groups, lr, momentum, fused, **arguments)
        if name == "adamw":
            return torch.optim.AdamW(groups, lr=lr, fused=fused or None, **arguments)
        try:
            from timm.optim import create_optimizer_v2
        except ImportError:
            raise ValueError("all but sgd and adamw need timm: pip install timm") from None
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            groups, name, lr=lr, momentum=momentum, **arguments
        )
        return optimizer
    except (TypeError, ValueError, AssertionError) as error:
        raise ValueError(f"optimizer {name} with arguments {dict(arguments)}: {error}") from error


def sgd(
    groups: list[dict[str, Any]], lr: float, momentum: float, fused: bool, **arguments: Any
) -> torch.optim.SGD:
    """SGD whose momentum starts at zero, so that a GradScaler may skip its first steps.

    torch allocates the momentum of a fused SGD in its first step. If gradients overflow in that
    step, the kernel skips it and leaves the momentum uninitialised (torch 2.11 to 2.15), and the
    next step adds it to the weights. A first step from zero gives the same bits as torch's own.

    Args:
        groups: Parameter groups.
        lr: Learning rate.
        momentum: Momentum, 0 to 1.
        fused: Whether to update all weights with one kernel.
        arguments: Further arguments of `torch.optim.SGD`.
    """
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum, fused=fused or None, **arguments)
    if fused and momentum:
        for group in optimizer.param_groups:
            for weight in group["params"]:
                optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    return optimizer
