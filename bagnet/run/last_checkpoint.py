"""The checkpoint that a run goes on from: after each epoch, every half an hour, and when the training is asked to stop."""

from __future__ import annotations

import signal
import time
from typing import Any, NoReturn

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.utilities import rank_zero_only

from bagnet.run import signals
from bagnet.run.folder import Run
from bagnet.run.lease import Lease
from bagnet.run.loggers import WandbRun

_GO_ON, _SAVE, _STOP, _GIVE_UP = range(4)


class LastCheckpoint(Checkpoint):
    """Writes the run's last checkpoint, between two batches that all ranks agree on.

    A signal to any rank (``bagnet/run/signals.py``) saves and ends the training. During a validation it ends it at once: the
    checkpoint from before the epoch's last step is there, and that step and the validation are done again. A training
    whose run was started once more elsewhere gives up, and saves nothing.

    Args:
        run: Its last checkpoint is written; the one before is kept.
        lease: Of this start to the run.
        minutes: A crash or a lost node costs no more than so many.
        every: Optimizer steps, or batches of a validation, between two looks, since the ranks wait for each other then.
    """

    def __init__(self, run: Run, lease: Lease, minutes: float = 30.0, every: int = 10) -> None:
        self.run, self.lease, self.minutes, self.every = run, lease, minutes, every
        self._saved_at = time.monotonic()
        self._saved_step = 0
        self._stopping = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.is_global_zero:
            start = self.lease.take()
            for logger in trainer.loggers:
                logger.log_hyperparams({"start": start})

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        signals.listen()  # Lightning has taken SIGTERM, and its handler broadcasts

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        signals.listen()
        self._saved_at = time.monotonic()
        self._saved_step = trainer.global_step

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._agree(trainer) == _STOP:
            self._stop(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        left = trainer.num_training_batches - (batch_idx + 1)
        accumulate = trainer.accumulate_grad_batches
        if left == 0 or (batch_idx + 1) % accumulate:
            return  # the end of the epoch saves, and between two steps nobody does
        is_last_but_one = left <= accumulate and trainer.enable_validation
        if is_last_but_one or trainer.global_step % self.every == 0:
            decision = self._agree(trainer)
            if decision != _GO_ON or is_last_but_one:
                self._save(trainer)
            self._stopping = decision == _STOP  # Lightning logs this step yet, before the next one

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._stopping:
            self._stop(trainer)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if (batch_idx + 1) % self.every == 0 and self._agree(trainer) == _STOP:
            self._stop(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._agree(
            trainer
        )  # or a start that has lost its lease would save the best checkpoint yet

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._agree(trainer)
        self._save(trainer)

    def _agree(self, trainer: Trainer) -> int:
        """What the ranks do: the most that one of them wants, as their clocks and signals differ.

        Raises:
            ValueError: On all ranks, where a later start goes on with the run.
        """
        wish = _GO_ON
        if time.monotonic() - self._saved_at > 60 * self.minutes:
            wish = _SAVE
        if signals.received() is not None:
            wish = _STOP
        if trainer.is_global_zero and not self.lease.holds():
            wish = _GIVE_UP
        wishes = torch.tensor(wish, device=trainer.strategy.root_device)
        decision = int(trainer.strategy.reduce(wishes, reduce_op="max"))
        if decision == _GIVE_UP:
            raise ValueError(self.lease.lost())
        return decision

    def _save(self, trainer: Trainer) -> None:
        rank_zero_only(self.run.keep_previous)()
        trainer.save_checkpoint(self.run.last, weights_only=False)
        self._saved_at = time.monotonic()
        self._saved_step = trainer.global_step

    def _stop(self, trainer: Trainer) -> NoReturn:
        for logger in trainer.loggers:
            if isinstance(logger, WandbRun):
                logger.drop_from(self._saved_step)
            logger.finalize("interrupted")
        checkpoint = self.run.last if self.run.last.exists() else None
        raise signals.Stopped(signals.received() or signal.SIGTERM, checkpoint)
