"""A stop that loses nothing: all ranks agree on it between two batches, save, and end."""

from __future__ import annotations

import signal
from typing import Any, NoReturn

from pytorch_lightning import Callback, LightningModule, Trainer

from bagnet import signals
from bagnet.runs import Run


class Preemption(Callback):
    """Saves and ends the training after a signal to any rank (``bagnet/signals.py``).

    The ranks look together, between two optimizer steps and before each epoch. A validation is finished first: what the
    end of its epoch saves is then all there is to save.

    Args:
        run: Its last checkpoint is written.
        every: Optimizer steps between two looks, since the ranks wait for each other then.
    """

    def __init__(self, run: Run, every: int = 10) -> None:
        self.run, self.every = run, every
        self._saved = False

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        signals.listen()  # Lightning has taken SIGTERM, and its handler broadcasts

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        signals.listen()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._asked(trainer):
            self._stop(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        is_last = batch_idx + 1 == trainer.num_training_batches
        looks = stepped and not is_last and trainer.global_step % self.every == 0
        if looks and self._asked(trainer):
            trainer.save_checkpoint(self.run.last)
            self._saved = True  # Lightning logs this step yet, before the next batch

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._saved:
            self._stop(trainer)

    def _asked(self, trainer: Trainer) -> bool:
        asked = signals.received() is not None
        return trainer.strategy.reduce_boolean_decision(asked, all=False)

    def _stop(self, trainer: Trainer) -> NoReturn:
        for logger in trainer.loggers:
            logger.finalize("interrupted")
        checkpoint = self.run.last if self.run.last.exists() else None
        raise signals.Stopped(signals.received() or signal.SIGTERM, checkpoint)
