"""Counts samples that could not be read, and stops the run if there are too many."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from datamodules.common.batch import UNREADABLE


class UnreadableLimit(Callback):
    """Logs `train/unreadable` and `val/unreadable`: samples lost so far in an epoch or validation.

    The ranks add up their counts every `every` optimizer steps and at the end, so that all of them
    stop at the same batch and none waits for the others forever.

    Args:
        limit: The largest share (0 to 1) of the data set that may be unreadable.
        every: Optimizer steps between two checks.

    Raises:
        ValueError: In training and validation, if more samples are unreadable.
    """

    def __init__(self, limit: float, every: int = 50) -> None:
        self.limit, self.every = limit, every
        self._counts: dict[str, Tensor | int] = {"train": 0, "val": 0}

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["train_unreadable"] = self._total(trainer, "train")

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.is_global_zero:  # or the sum over the ranks would count them again
            self._counts["train"] = checkpoint.get("train_unreadable", 0)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._counts["train"] = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._add("train", batch)
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if stepped and trainer.global_step % self.every == 0:
            self._check(trainer, "train")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check(trainer, "train")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._counts["val"] = 0

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._add("val", batch)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        total = self._check(trainer, "val")
        if total:
            rank_zero_warn(f"{total:,} samples could not be read and are left out of the figures")

    on_test_start, on_test_batch_end = on_validation_start, on_validation_batch_end
    on_test_end = on_validation_end

    def _add(self, split: str, batch: Any) -> None:
        # Counted on the device, so that nothing waits for the GPU here.
        self._counts[split] = self._counts[split] + (batch[1] == UNREADABLE).sum()

    def _total(self, trainer: Trainer, split: str) -> int:
        count = torch.as_tensor(self._counts[split], device=trainer.strategy.root_device).clone()
        return int(trainer.strategy.reduce(count, reduce_op="sum"))

    def _check(self, trainer: Trainer, split: str) -> int:
        total = self._total(trainer, split)
        if not trainer.sanity_checking:
            for logger in trainer.loggers:
                step = max(0, trainer.global_step - 1)
                logger.log_metrics({f"{split}/unreadable": total}, step=step)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        manifest = data.train_manifest if split == "train" else data.val_manifest
        if total > self.limit * manifest.num_samples:
            raise ValueError(
                f"{total:,} of the {manifest.num_samples:,} {split} samples could not be read so "
                f"far in epoch {trainer.current_epoch}, more than the {self.limit:.2%} that "
                f"--data.max_unreadable allows; `python -m datamodules.pack verify {data.root}` "
                "lists all damage"
            )
        return total
