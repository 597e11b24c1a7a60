"""Ends a training whose loss is no longer a number, before it can be saved."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from bagnet.run.agreement import HostGroup

SHOWN = 16
"""Sample ids in a message, at most."""


@dataclass(frozen=True)
class _Trained:
    """A batch that was trained on: its loss, its step, and what to tell about it."""

    loss: Tensor
    step: int
    learning_rate: float
    sample_ids: Tensor


class FiniteLoss(Callback):
    """Ends the run after a batch whose loss is NaN or infinite, with its step and sample ids.

    All ranks end together, within `2 * every` optimizer steps, and at the latest before the next
    checkpoint or validation. The loss tells in any precision: what overflows in the forward pass
    reaches it, and gradients that overflow in float16 are left out by the scaler.

    A step never waits for the device: what one look asks for, the next one reads.

    Args:
        every: Optimizer steps between two looks. The ranks wait for each other at each.

    Raises:
        ValueError: On all ranks, if a loss is not finite.
    """

    def __init__(self, every: int = 10) -> None:
        self.every = every

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._hosts = HostGroup(trainer)
        on_gpu = trainer.strategy.root_device.type == "cuda"
        self._answer = torch.zeros((), dtype=torch.bool, pin_memory=on_gpu)
        # Enough for two looks, because an answer can be missing at the first one.
        self._recent = deque[_Trained](maxlen=3 * self.every * trainer.accumulate_grad_batches)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._steps = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, self._steps = self._steps, trainer.global_step
        rate = max(group["lr"] for group in trainer.optimizers[0].param_groups)
        self._recent.append(_Trained(outputs["loss"], step, rate, batch[2]))
        if self._steps > step and self._steps % self.every == 0:
            self._require_finite(trainer, self._was_bad)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Nothing has been written yet, and all ranks are here."""
        self._require_finite(trainer, self._is_bad)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._require_finite(trainer, self._is_bad)

    on_train_epoch_end = on_validation_start

    def _is_bad(self) -> bool:
        """Wait for the device's answer."""
        return bool(self._finite().logical_not().any())

    def _was_bad(self) -> bool:
        """Ask the device, and read what it has answered so far, perhaps to an earlier question."""
        self._answer.copy_(self._finite().logical_not().any(), non_blocking=True)
        return bool(self._answer.numpy())  # not self._answer, whose value torch would wait for

    def _finite(self) -> Tensor:
        return torch.stack([each.loss for each in self._recent]).isfinite()

    def _require_finite(self, trainer: Trainer, is_bad: Callable[[], bool]) -> None:
        if self._recent and self._hosts.highest(int(is_bad())):
            self._explain(trainer)

    def _explain(self, trainer: Trainer) -> NoReturn:
        """Name the first batch of all ranks: after its step, the network of each rank is broken."""
        finite = self._finite().tolist()
        first = finite.index(False) if False in finite else len(finite)
        found: list[Any] = [None, None]
        if first < len(finite):
            found = [float(self._recent[first].loss), self._recent[first].sample_ids.tolist()]
        ranks = self._hosts.gather((first, *found))
        first, loss, ids = min(ranks, key=lambda rank: int(rank[0]))
        where = self._recent[first]
        shown = ", ".join(str(number) for number in ids[:SHOWN])
        more = f" and {len(ids) - SHOWN:,} more" if len(ids) > SHOWN else ""
        wider = ", or use --trainer.precision bf16-mixed" if trainer.precision == "16-mixed" else ""
        raise ValueError(
            f"the loss is {loss} in step {where.step} of epoch {trainer.current_epoch} (both from "
            f"0), with learning rate {where.learning_rate:.3g} and the samples {shown}{more}; the "
            "checkpoints are from before that step; lower --model.learning_rate, or clip gradients "
            f"(--trainer.gradient_clip_val 1){wider}"
        )
