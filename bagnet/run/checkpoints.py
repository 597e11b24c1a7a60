"""How and when checkpoints are written."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities import rank_zero_only

from bagnet.run import signals
from bagnet.run.agreement import HostGroup
from bagnet.run.folder import Run
from bagnet.run.lease import Lease
from bagnet.run.wandb import ResumableWandbLogger
from datamodules.common.files import replacing

SIGTERM_BROADCAST = "_broadcast_sigterm_tensor"
"""Lightning's method that asks rank 0 for SIGTERM in each step of several ranks."""

_CONTINUE, _SAVE, _STOP, _GIVE_UP = range(4)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints with `replacing`, so that a kill leaves the old one or the new one, whole.

    Lightning's own writes to the system's temporary folder first, which on a cluster is another
    disk, and copies the file from there.
    """

    def save_checkpoint(
        self, checkpoint: Mapping[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        with replacing(Path(path)) as temporary, temporary.open("wb") as file:
            torch.save(checkpoint, file)


class LastCheckpoint(Checkpoint):
    """Saves the checkpoint that a run resumes from, and ends the training when asked to.

    It saves after each epoch, every half hour, and when a signal reaches any rank
    (`bagnet/run/signals.py`), always between two batches that all ranks agree on. A signal during
    a validation ends the training at once: a checkpoint was saved before the epoch's last step, so
    that step and the validation are repeated. If another start holds the run's lease, the training
    ends without saving.

    Args:
        run: Gets the last checkpoint; the one before it is kept.
        lease: Acquired when the training starts.
        minutes: The most work that a crash or a lost node can cost.
        every: Optimizer steps, or batches of a validation, between two checks. The ranks wait for
            each other at each check.
    """

    def __init__(self, run: Run, lease: Lease, minutes: float = 30.0, every: int = 10) -> None:
        self.run, self.lease, self.minutes, self.every = run, lease, minutes, every
        self._saved_at = time.monotonic()
        self._saved_step = 0
        self._stopping = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._hosts = HostGroup(trainer.world_size)
        # In each step, Lightning's ranks ask rank 0 whether it got SIGTERM, and wait for their GPUs
        # to hear it. We ask for ourselves. There is no public switch for it.
        setattr(trainer.fit_loop.epoch_loop, SIGTERM_BROADCAST, lambda: None)
        if trainer.is_global_zero:
            start = self.lease.acquire()
            for logger in trainer.loggers:
                logger.log_hyperparams({"start": start})

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        signals.listen()  # Lightning has replaced the handler of SIGTERM by one that broadcasts

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        signals.listen()
        self._saved_at = time.monotonic()
        self._saved_step = trainer.global_step

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_if_asked(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        left = trainer.num_training_batches - (batch_idx + 1)
        accumulate = trainer.accumulate_grad_batches
        if left == 0 or (batch_idx + 1) % accumulate:
            return  # the epoch's end saves anyway, and between two optimizer steps nothing may
        is_last_but_one = left <= accumulate and trainer.enable_validation
        if is_last_but_one or trainer.global_step % self.every == 0:
            decision = self._agree(trainer)
            if decision != _CONTINUE or is_last_but_one:
                self._save(trainer)
            # Lightning logs this step before the next one starts, which is when we stop.
            self._stopping = decision == _STOP

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
        if (batch_idx + 1) % self.every == 0:
            self._stop_if_asked(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._agree(trainer)  # or a start without the lease could still save the best checkpoint

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._agree(trainer)
        self._save(trainer)

    def _agree(self, trainer: Trainer) -> int:
        """Decide what all ranks do: the most drastic that any rank wants.

        Raises:
            ValueError: On all ranks, if another start holds the lease.
        """
        wish = _CONTINUE
        if time.monotonic() - self._saved_at > 60 * self.minutes:
            wish = _SAVE
        if signals.received() is not None:
            wish = _STOP
        if trainer.is_global_zero and not self.lease.is_held():
            wish = _GIVE_UP
        decision = self._hosts.highest(wish)
        if decision == _GIVE_UP:
            raise ValueError(self.lease.explain_loss())
        return decision

    def _save(self, trainer: Trainer) -> None:
        rank_zero_only(self.run.keep_previous)()
        trainer.save_checkpoint(self.run.last, weights_only=False)
        self._saved_at = time.monotonic()
        self._saved_step = trainer.global_step

    def _stop_if_asked(self, trainer: Trainer) -> None:
        if self._agree(trainer) == _STOP:
            self._stop(trainer)

    def _stop(self, trainer: Trainer) -> NoReturn:
        for logger in trainer.loggers:
            if isinstance(logger, ResumableWandbLogger):
                logger.drop_from(self._saved_step)
            logger.finalize("interrupted")
        checkpoint = self.run.last if self.run.last.exists() else None
        raise signals.Stopped(signals.received() or signal.SIGTERM, checkpoint)
