"""The checkpoint that a run goes on from: after each epoch, every half an hour, and when the training is asked to stop."""

from __future__ import annotations

import signal
import time
from typing import Any, NoReturn

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.utilities import rank_zero_only

from bagnet import signals
from bagnet.runs import Run

_GO_ON, _SAVE, _STOP = range(3)


class LastCheckpoint(Checkpoint):
    """Writes the run's last checkpoint, between two batches that all ranks agree on.

    A signal to any rank (``bagnet/signals.py``) saves and ends the training. A validation is finished first, and the end
    of its epoch saves.

    Args:
        run: Its last checkpoint is written; the one before is kept.
        minutes: A crash or a lost node costs no more than so many.
        every: Optimizer steps between two looks, since the ranks wait for each other then.
    """

    def __init__(self, run: Run, minutes: float = 30.0, every: int = 10) -> None:
        self.run, self.minutes, self.every = run, minutes, every
        self._saved_at = time.monotonic()
        self._stopping = False

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        signals.listen()  # Lightning has taken SIGTERM, and its handler broadcasts

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        signals.listen()
        self._saved_at = time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._agree(trainer) == _STOP:
            self._stop(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        is_last = batch_idx + 1 == trainer.num_training_batches
        if stepped and not is_last and trainer.global_step % self.every == 0:
            decision = self._agree(trainer)
            if decision != _GO_ON:
                self._save(trainer)
            self._stopping = decision == _STOP  # Lightning logs this step yet, before the next one

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._stopping:
            self._stop(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)

    def _agree(self, trainer: Trainer) -> int:
        """What the ranks do: the most that one of them wants, as their clocks and signals differ."""
        wish = _GO_ON
        if time.monotonic() - self._saved_at > 60 * self.minutes:
            wish = _SAVE
        if signals.received() is not None:
            wish = _STOP
        wishes = torch.tensor(wish, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(wishes, reduce_op="max"))

    def _save(self, trainer: Trainer) -> None:
        rank_zero_only(self.run.keep_previous)()
        trainer.save_checkpoint(self.run.last, weights_only=False)
        self._saved_at = time.monotonic()

    def _stop(self, trainer: Trainer) -> NoReturn:
        for logger in trainer.loggers:
            logger.finalize("interrupted")
        checkpoint = self.run.last if self.run.last.exists() else None
        raise signals.Stopped(signals.received() or signal.SIGTERM, checkpoint)
