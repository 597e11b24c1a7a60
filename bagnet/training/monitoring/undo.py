"""Takes back an optimizer step that is already done, without asking the device what happened."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torchmetrics import Metric


class Undo:
    """Remembers what a step changes: weights, optimizer, statistics of BatchNorm, and metrics.

    All of it is copied on the device in each step. Numbers that an optimizer keeps on the host,
    such as its count of steps, are not taken back.

    Args:
        module: The module, before the first batch of the step.
    """

    def __init__(self, module: LightningModule) -> None:
        self._kept = [(buffer, buffer.clone()) for buffer in module.buffers()]
        self._states = [
            (metric, name, state.clone())
            for metric in module.modules()
            if isinstance(metric, Metric)
            for name, state in metric.metric_state.items()
            if isinstance(state, Tensor)
        ]
        self._optimizer: torch.optim.Optimizer | None = None
        self._optimizer_states: dict[Any, dict[str, Tensor]] = {}

    def before_update(self, optimizer: torch.optim.Optimizer) -> None:
        """Remember what the optimizer is about to change."""
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        self._kept += [(weight, weight.detach().clone()) for weight in weights]
        self._optimizer = optimizer
        self._optimizer_states = {
            weight: {name: value.clone() for name, value in _tensors(state)}
            for weight, state in optimizer.state.items()
        }

    @torch.no_grad()
    def take_back_if(self, condition: Tensor) -> None:
        """Restore everything where `condition`, a bool on the device, is true."""
        for live, before in self._kept:
            live.copy_(torch.where(condition, before, live))
        for metric, name, before in self._states:
            setattr(metric, name, torch.where(condition, before, getattr(metric, name)))
        for weight, state in self._optimizer.state.items() if self._optimizer else ():
            known = self._optimizer_states.get(weight, {})
            for name, live in _tensors(state):
                if live.device == condition.device:
                    # What the first step creates begins as zeros.
                    before = known[name] if name in known else torch.zeros_like(live)
                    live.copy_(torch.where(condition, before, live))


def _tensors(state: dict[str, Any]) -> list[tuple[str, Tensor]]:
    return [(name, value) for name, value in state.items() if isinstance(value, Tensor)]
