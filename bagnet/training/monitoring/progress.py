"""How far the training is, and how long it will take: a bar on a terminal, lines in a log."""

from __future__ import annotations

import math
import sys
import time
from datetime import timedelta
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar, TQDMProgressBar

from bagnet.run.summary import describe
from bagnet.training.recipe.schedule import epochs_of, steps_per_epoch

LOG_SECONDS = 180.0
"""Seconds between two lines of a log within an epoch or a validation."""


def progress_bar() -> ProgressBar:
    """A bar where somebody may look at it, or else lines."""
    return Bar() if sys.stderr.isatty() else Lines()


class Bar(TQDMProgressBar):
    """A bar of at most 80 columns.

    It waits for the device only when it is refreshed, to read the loss of that step.
    """

    def __init__(self) -> None:
        super().__init__(refresh_rate=20)

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        """Lightning names the epoch and its length where an epoch begins, not where it resumes."""
        super().on_train_start(trainer)
        if trainer.fit_loop.restarted_mid_epoch:
            self.on_train_epoch_start(trainer)
            bar = self.train_progress_bar
            bar.initial = bar.n = trainer.fit_loop.batch_idx + 1
            bar.refresh()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Loss and top-1 only: the table and W&B have the rest."""
        figures = {
            "loss": getattr(pl_module, "latest_loss", None),  # callback_metrics has an older one
            "val/top1": trainer.callback_metrics.get("val/top1"),
        }
        return {name: float(value) for name, value in figures.items() if value is not None}


class Lines(ProgressBar):
    """Prints a line after each epoch, and one every few minutes in between, with the time left.

    Args:
        seconds: Between two lines within an epoch or a validation.
    """

    def __init__(self, seconds: float = LOG_SECONDS) -> None:
        super().__init__()
        self.seconds = seconds
        self._validated = ""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._printed = time.monotonic()

    is_enabled = False
    """Whether the module's own lines must be kept apart from a bar."""

    def disable(self) -> None:
        """Only rank 0 prints anyway."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began, self._first_step = time.monotonic(), trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._is_due():
            self._print_training(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._print_training(trainer, pl_module)
        self._validated = ""

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluation_began = time.monotonic()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._is_due():
            total = sum(trainer.num_test_batches if trainer.testing else trainer.num_val_batches)
            left = _left(self._evaluation_began, batch_idx + 1, total)
            self._print(trainer, f"evaluation, batch {batch_idx + 1:,}/{total:,}{left}")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._validated = f"validation {describe(trainer.callback_metrics, 'val')}"

    on_test_start, on_test_batch_end = on_validation_start, on_validation_batch_end

    def _is_due(self) -> bool:
        return time.monotonic() - self._printed >= self.seconds

    def _print_training(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module: Any = pl_module  # BagNetClassifier
        step, epochs, total = trainer.global_step, "", ""
        if (trainer.max_epochs or -1) >= 0:
            epochs = f"/{trainer.max_epochs:,}"
        steps = epochs_of(trainer) * steps_per_epoch(trainer)
        if math.isfinite(steps):
            total = f"/{steps:,.0f}"
        figures = self._validated or f"loss {float(module.latest_loss):.4g}"
        left = _left(self._began, step - self._first_step, steps - self._first_step)
        self._print(
            trainer,
            f"epoch {trainer.current_epoch + 1:,}{epochs}, step {step:,}{total}: {figures}{left}",
        )

    def _print(self, trainer: Trainer, line: str) -> None:
        self._printed = time.monotonic()
        if trainer.is_global_zero:
            print(line, flush=True)  # or it would wait in the buffer of a log


def _left(began: float, done: float, total: float) -> str:
    """The time that is left, in words, if all units take as long as those since `began`."""
    if done <= 0 or not math.isfinite(total):
        return ""
    seconds = (time.monotonic() - began) / done * (total - done)
    return f"; {timedelta(seconds=round(max(0.0, seconds)))} left"
