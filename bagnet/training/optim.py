"""The optimizer's parameter groups, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import nn

Schedule = Literal["step", "cosine"]

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
) -> float:
    """Compute the factor of the base learning rate at one moment of the training.

    Args:
        epoch: Optimizer steps done, in epochs: 1.5 is the middle of the second one.
        schedule: `"step"` divides by ten every `decay_every` epochs (the paper's recipe).
            `"cosine"` falls from the end of the warm-up to zero at the end of the training
            (Loshchilov & Hutter 2017).
        epochs: Length of the training.
        warmup_epochs: Length of the linear rise from zero.
        decay_every: Epochs between two steps.
    """
    if epoch < warmup_epochs:
        return epoch / warmup_epochs
    if schedule == "step":
        return 0.1 ** (int(epoch) // decay_every)
    progress = (epoch - warmup_epochs) / max(epochs - warmup_epochs, 1e-9)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def sgd(groups: list[dict[str, Any]], lr: float, momentum: float, fused: bool) -> torch.optim.SGD:
    """SGD whose momentum starts at zero, so that a GradScaler may skip its first steps.

    torch allocates the momentum of a fused SGD in its first step. If gradients overflow in that
    step, the kernel skips it and leaves the momentum uninitialised (torch 2.11 to 2.15), and the
    next step adds it to the weights. A first step from zero gives the same bits as torch's own.

    Args:
        groups: Parameter groups.
        lr: Learning rate.
        momentum: Momentum, 0 to 1.
        fused: Whether to update all weights with one kernel.
    """
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum, fused=fused or None)
    if fused and momentum:
        for group in optimizer.param_groups:
            for weight in group["params"]:
                optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    return optimizer
