"""Finds what makes a training step wait for the GPU: `BAGNET_SYNC_DEBUG=error`."""

from __future__ import annotations

import os
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

VARIABLE = "BAGNET_SYNC_DEBUG"


class SyncDebug(Callback):
    """Sets torch's synchronization debug mode in all steps that should not wait for the GPU.

    These are all but the first step, in which things are made, the logged steps, and the last ones
    of an epoch, which save. A refresh of the progress bar waits too, so leave it out. Put this
    callback first, so that it watches the others.

    Args:
        mode: "warn" or "error", for `torch.cuda.set_sync_debug_mode`.
        every: Steps from one logged step to the next.
    """

    def __init__(self, mode: str, every: int) -> None:
        self.mode, self.every = mode, every

    @classmethod
    def wanted(cls, every: int) -> list[SyncDebug]:
        """One callback if the environment variable asks for it, and there is a GPU to wait for.

        Raises:
            ValueError: The variable has another value than warn or error.
        """
        mode = os.environ.get(VARIABLE, "default")
        if mode not in ("default", "warn", "error"):
            raise ValueError(f"{VARIABLE}={mode} is not possible; set it to warn or error")
        return [cls(mode, every)] if mode != "default" and torch.cuda.is_available() else []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._watches(trainer, batch_idx):
            torch.cuda.set_sync_debug_mode(self.mode)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        is_logged = trainer.global_step % self.every == 0
        if is_logged or not self._watches(trainer, batch_idx + 1):
            torch.cuda.set_sync_debug_mode("default")

    @staticmethod
    def _watches(trainer: Trainer, batch_idx: int) -> bool:
        last_two = 2 * trainer.accumulate_grad_batches
        return 0 < batch_idx < trainer.num_training_batches - last_two
