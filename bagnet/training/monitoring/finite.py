"""Ends a training whose loss is no longer a number, before it can be saved; or skips such steps."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from bagnet.run.agreement import HostGroup
from bagnet.training.monitoring.undo import Undo

SHOWN = 16
"""Sample ids in a message, at most."""


@dataclass(frozen=True)
class _Trained:
    """A batch that was trained on: what must be finite, its step, and what to tell about it."""

    loss: Tensor
    step: int
    learning_rate: float
    sample_ids: Tensor


class FiniteLoss(Callback):
    """Ends the run after a batch whose loss is NaN or infinite, with its step and sample ids.

    All ranks end together, within `2 * every` optimizer steps, and at the latest before the next
    checkpoint or validation. The loss tells in any precision: what overflows in the forward pass
    reaches it, and gradients that overflow in float16 are left out by the scaler.

    With `max_skipped`, a step whose loss or gradients are not finite on any rank is taken back on
    all of them, and counted in `train/skipped_steps`; data and learning rate move on. In float16,
    the scaler deals with gradients that overflow, and they do not count.

    A step never waits for the device: what one look asks for, the next one reads.

    Args:
        every: Optimizer steps between two looks. The ranks wait for each other at each.
        max_skipped: Steps that may be skipped in a row. To take a step back, each one copies the
            weights and the state of the optimizer.

    Raises:
        ValueError: On all ranks, if a loss is not finite, or too many steps in a row would have to
            be skipped.
    """

    def __init__(self, every: int = 10, max_skipped: int = 0) -> None:
        self.every, self.max_skipped = every, max_skipped
        self._undo: Undo | None = None
        self._told = 0
        self.load_state_dict({"skipped": 0, "in_a_row": 0})

    def state_dict(self) -> dict[str, int]:
        if not self.max_skipped:
            return {}
        return {"skipped": int(self._skipped), "in_a_row": int(self._in_a_row)}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._skipped = torch.tensor(state_dict["skipped"])
        self._in_a_row = torch.tensor(state_dict["in_a_row"])
        self._told = state_dict["skipped"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._hosts = HostGroup(trainer)
        on_gpu = trainer.strategy.root_device.type == "cuda"
        self._answer = torch.zeros((), dtype=torch.bool, pin_memory=on_gpu)
        # Enough for two looks, because an answer can be missing at the first one.
        self._recent = deque[_Trained](maxlen=3 * self.every * trainer.accumulate_grad_batches)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._steps = trainer.global_step
        device = trainer.strategy.root_device
        self._skipped, self._in_a_row = self._skipped.to(device), self._in_a_row.to(device)
        self._is_broken = torch.zeros((), dtype=torch.bool, device=device)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.max_skipped and batch_idx % trainer.accumulate_grad_batches == 0:
            self._undo = Undo(pl_module)
            self._is_broken = torch.zeros_like(self._is_broken)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if self._undo is not None:
            self._undo.before_update(optimizer)
            if trainer.precision != "16-mixed":
                gradients = [each.grad for each in pl_module.parameters() if each.grad is not None]
                largest = torch.nn.utils.get_total_norm(gradients, norm_type=math.inf)
                self._is_broken |= largest.isfinite().logical_not()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, self._steps = self._steps, trainer.global_step
        loss = outputs["loss"]
        if self._undo is not None:
            loss = self._skip(trainer, self._undo, loss, self._steps > step)
        rate = max(group["lr"] for group in trainer.optimizers[0].param_groups)
        self._recent.append(_Trained(loss, step, rate, batch[2]))
        if self._steps > step and self._steps % self.every == 0:
            self._require_finite(trainer, self._was_bad)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Nothing has been written yet, and all ranks are here."""
        self._require_finite(trainer, self._is_bad)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._require_finite(trainer, self._is_bad)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._require_finite(trainer, self._is_bad)
        if self.max_skipped:
            skipped, told = int(self._skipped), self._told
            # All ranks have the same count, but Lightning would warn that they may not.
            pl_module.log("train/skipped_steps", float(skipped), sync_dist=True, reduce_fx="max")
            self._told = skipped
            if skipped > told:
                rank_zero_warn(
                    f"{skipped - told} steps of epoch {trainer.current_epoch} are skipped, because "
                    "their loss or gradients are not finite"
                )

    def _skip(self, trainer: Trainer, undo: Undo, loss: Tensor, stepped: bool) -> Tensor:
        """Take a step back if it is broken; return a number that is finite if that was allowed."""
        self._is_broken |= loss.isfinite().logical_not()
        if stepped:
            broken = self._is_broken.int()
            if trainer.world_size > 1:
                torch.distributed.all_reduce(broken, torch.distributed.ReduceOp.MAX)
            undo.take_back_if(broken.bool())
            self._skipped = self._skipped + broken
            self._in_a_row = (self._in_a_row + 1) * broken
        return torch.where(self._in_a_row > self.max_skipped, math.nan, 0.0)

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
        what = f"the loss is {loss}"
        if self.max_skipped:
            what = f"{self.max_skipped} steps are skipped, and the next one is not finite either,"
        raise ValueError(
            f"{what} in step {where.step} of epoch {trainer.current_epoch} (both from "
            f"0), with learning rate {where.learning_rate:.3g} and the samples {shown}{more}; the "
            "checkpoints are from before that step; lower --model.learning_rate, or clip gradients "
            f"(--trainer.gradient_clip_val 1){wider}"
        )
