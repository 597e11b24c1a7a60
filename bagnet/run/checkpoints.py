"""When checkpoints are written, and which of them is the best."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.loggers import WandbLogger

from bagnet.run import signals
from bagnet.run.agreement import HostGroup
from bagnet.run.checkpoint_io import Background, Content, snapshot, writing
from bagnet.run.folder import Run
from bagnet.run.lease import Lease
from bagnet.run.loggers.wandb import ResumableWandbLogger
from datamodules.common.files import link

SIGTERM_BROADCAST = "_broadcast_sigterm_tensor"
"""Lightning's method that asks rank 0 for SIGTERM in each step of several ranks."""

_CONTINUE, _SAVE, _STOP, _FAILED, _GIVE_UP = range(5)


class LastCheckpoint(Checkpoint):
    """Saves the checkpoint that a run resumes from, and ends the training when asked to.

    It saves after each epoch, every half hour, and when a signal reaches any rank
    (`bagnet/run/signals.py`), always between two batches that all ranks agree on. The training only
    waits for a copy in rank 0's memory, which a thread then writes. After the epoch with the best
    validation top-1 so far, the file is `best.ckpt` too.

    A signal during a validation ends the training at once: the state before the epoch's last step
    was kept in memory and is written now, so that step and the validation are repeated. If one of
    Lightning's limits ends the training in the middle of an epoch (`max_steps`, `max_time`, an
    early stop), the state after that step is written, and the rest of the epoch follows on resume.
    If another start holds the run's lease, the training ends without saving. With `fast_dev_run`,
    nothing is saved.

    The Trainer needs the plugin `AtomicCheckpointIO`.

    Args:
        run: Gets the checkpoints: the last one, the one before it, and the best one.
        lease: Acquired when the training starts.
        minutes: The most work that a crash or a lost node can cost.
        every: Optimizer steps, or batches of a validation, between two checks. The ranks wait for
            each other at each check. A single process hears a signal after any batch.
    """

    def __init__(self, run: Run, lease: Lease, minutes: float = 30.0, every: int = 10) -> None:
        self.run, self.lease, self.minutes, self.every = run, lease, minutes, every
        self._saved_at = time.monotonic()
        self._saved_step = 0
        self._stopping = False
        self._stop_after_step = False
        self._left: float = 0  # batches of the epoch
        self._best = -math.inf
        self._kept: Content | None = None
        self._writer = Background()

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.run.best.exists():  # else the checkpoint comes from another run's folder
            self._best = state_dict["best"]

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Count an epoch whose last batch is in the checkpoint as done.

        Only Lightning's `ModelCheckpoint(every_n_train_steps=...)` writes such a checkpoint. When
        Lightning resumes from it, it forgets to count the next epoch as begun, and the checkpoints
        of that epoch would then begin it again.
        """
        loop = checkpoint["loops"]["fit_loop"]
        batches, epochs = loop["epoch_loop.batch_progress"], loop["epoch_progress"]
        if batches["is_last_batch"]:
            for span in ("current", "total"):
                batches[span]["completed"] = batches[span]["processed"]
                epochs[span]["processed"] = epochs[span]["started"]
            loop["epoch_loop.state_dict"]["_batches_that_stepped"] = checkpoint["global_step"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._hosts = HostGroup(trainer)
        # In each step, Lightning's ranks ask rank 0 whether it got SIGTERM, and wait for their GPUs
        # to hear it. We ask for ourselves. There is no public switch for it.
        setattr(trainer.fit_loop.epoch_loop, SIGTERM_BROADCAST, lambda: None)
        self._writes = not trainer.fast_dev_run  # type: ignore[attr-defined]
        if trainer.is_global_zero and self._writes:
            start = self.lease.acquire()
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):  # others may take each parameter only once
                    logger.log_hyperparams({"start": start})

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        signals.listen()  # Lightning has replaced the handler of SIGTERM by one that broadcasts
        self._stop_if_asked(trainer)  # before workers start

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        signals.listen()
        self._saved_at = time.monotonic()
        self._saved_step = trainer.global_step

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_if_asked(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._left = left = trainer.num_training_batches - (batch_idx + 1)
        accumulate = trainer.accumulate_grad_batches
        if left == 0:
            return  # the epoch's end saves anyway
        if (batch_idx + 1) % accumulate:  # between two optimizer steps nothing may be saved
            self._stop_after_step |= trainer.should_stop
            trainer.should_stop = False
            return
        trainer.should_stop |= self._stop_after_step
        self._stop_after_step = False
        # A limit of Lightning's, such as max_steps or an early stop, ends the epoch here.
        ends = trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step
        # The epoch's last but one step, or a validation within the epoch.
        is_before_validation = trainer.enable_validation and (
            left <= accumulate or (batch_idx + 1) % (trainer.val_check_batch or math.inf) == 0
        )
        if is_before_validation or ends or self._is_due(trainer, trainer.global_step):
            decision = self._agree(trainer)
            if decision != _CONTINUE:
                self._save(trainer)
            elif is_before_validation or ends:
                self._dump(trainer, self._keep)
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
        if self._is_due(trainer, batch_idx + 1):
            decision = self._agree(trainer)
            if decision != _CONTINUE and self._kept is not None:
                self.write_soon(self._kept)
                self._kept = None
            if decision == _STOP:
                self._stop(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._agree(trainer)
        # In an epoch without validation this is an old value, which is not better than the best.
        top1 = float(trainer.callback_metrics.get("val/top1", math.nan))
        loss = float(trainer.callback_metrics.get("val/loss", 0.0))
        is_best = top1 > self._best and math.isfinite(loss)
        if is_best:
            self._best = top1
        if self._left == 0:
            self._save(trainer, is_best)
        elif self._kept is not None:  # the next start resumes in the middle of this epoch
            self._kept["callbacks"][self.state_key] = self.state_dict()  # with the new best
            self.write_soon(self._kept, is_best)
            self._kept = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._writer.finish()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        try:
            self._writer.finish()
        except Exception as error:  # what ends the training is `exception`
            print(f"{self.run.last} could not be written: {error}", file=sys.stderr)

    def _is_due(self, trainer: Trainer, batches: int) -> bool:
        """Whether to check now. Ranks must all come to the same answer without asking."""
        hears_a_signal = trainer.world_size == 1 and signals.received() is not None
        return hears_a_signal or batches % self.every == 0

    def _agree(self, trainer: Trainer) -> int:
        """Decide what all ranks do: the most drastic that any rank wants.

        Raises:
            ValueError: On all ranks, if another start holds the lease; on all but rank 0, if rank 0
                could not write a checkpoint. Rank 0 raises the error of that.
        """
        wish = _CONTINUE
        if time.monotonic() - self._saved_at > 60 * self.minutes:
            wish = _SAVE
        if signals.received() is not None:
            wish = _STOP
        if self._writer.has_failed():
            wish = _FAILED
        if trainer.is_global_zero and not self.lease.is_held():
            wish = _GIVE_UP
        decision = self._hosts.highest(wish)
        if decision == _GIVE_UP:
            raise ValueError(self.lease.explain_loss())
        if decision == _FAILED:
            self._writer.finish()
            raise ValueError(f"{self.run.last} could not be written; see rank 0's message")
        return decision

    def _save(self, trainer: Trainer, is_best: bool = False) -> None:
        self._dump(trainer, partial(self._write_copy, is_best))
        self._saved_at = time.monotonic()

    def _dump(self, trainer: Trainer, receive: Callable[[Content], None]) -> None:
        """Let rank 0 have the content of a checkpoint."""
        if self._writes:
            trainer.save_checkpoint(self.run.last, weights_only=False, storage_options=receive)

    def _keep(self, content: Content) -> None:
        self._kept = snapshot(content)

    def _write_copy(self, is_best: bool, content: Content) -> None:
        self._kept = None  # at most one copy in memory besides the one that is being written
        self.write_soon(snapshot(content), is_best)

    def write_soon(self, copy: Content, is_best: bool = False) -> None:
        self._writer.start(self._write, copy, is_best)
        self._saved_step = copy["global_step"]

    def _write(self, copy: Content, is_best: bool) -> None:
        """Runs in a thread; leaves whole files whenever the process is killed."""
        with writing(copy, self.run.last) as temporary:
            if not self.lease.is_held():
                raise ValueError(self.lease.explain_loss())
            self.run.keep_previous()
            if is_best:
                link(temporary, self.run.best)

    def _stop_if_asked(self, trainer: Trainer) -> None:
        if self._agree(trainer) == _STOP:
            self._stop(trainer)

    def _stop(self, trainer: Trainer) -> NoReturn:
        self._writer.finish()
        for logger in trainer.loggers:
            if isinstance(logger, ResumableWandbLogger):
                logger.drop_from(self._saved_step)
                logger.finalize("interrupted")
        checkpoint = self.run.last if self._writes and self.run.last.exists() else None
        raise signals.Stopped(signals.received() or signal.SIGTERM, checkpoint)
