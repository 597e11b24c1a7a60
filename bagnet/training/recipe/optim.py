"""Optimizers by name, and their parameter groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from bagnet.model.registry import classifier_of

DECAYED_MODULES = (nn.Conv2d, nn.Linear)
"""Modules whose weights are always decayed; `decay_norm` decides for biases and all others."""


def parameter_groups(
    module: nn.Module, weight_decay: float, decay_norm: bool, backbone_rate: float = 1.0
) -> list[dict[str, Any]]:
    """Group the parameters by the type of their module, not by their name.

    Args:
        module: The network.
        weight_decay: For the weights of convolutions and linear layers.
        decay_norm: Whether biases and normalisation layers are decayed too, as in the paper.
        backbone_rate: The learning rate of all layers but the classifier, as a factor.

    Returns:
        The non-empty groups, for a `torch.optim.Optimizer`; the factor of their learning rate is
        called `lr_scale`.
    """
    classifier = set(classifier_of(module).parameters()) if backbone_rate != 1 else set()
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for child in module.modules():
        for name, parameter in child.named_parameters(recurse=False):
            is_weight = isinstance(child, DECAYED_MODULES) and name == "weight"
            scale = 1.0 if parameter in classifier else backbone_rate
            groups.setdefault((is_weight or decay_norm, scale), []).append(parameter)
    return [
        {
            "params": groups[decayed, scale],
            "weight_decay": weight_decay if decayed else 0.0,
            "lr_scale": scale,
        }
        for decayed, scale in sorted(groups, reverse=True)
    ]


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
