"""The first and last lines of a training: what is trained, the result, where everything is."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from bagnet.run.complete import why_stopped
from bagnet.run.folder import Run
from bagnet.run.loggers.csv_table import CSVTable
from bagnet.run.loggers.wandb_start import location

FIGURES = {
    "top1": ("top-1", ".2%"),
    "top5": ("top-5", ".2%"),
    "loss": ("loss", ".6f"),
    "balanced_accuracy": ("balanced accuracy", ".2%"),
    "auroc": ("AUROC", ".4f"),
}
"""The figures of an evaluation in their order; which of them it has depends on the classes."""


def describe(metrics: Mapping[str, Any], stage: str) -> str:
    """The metrics of an evaluation (`stage` is `val` or `test`) in one line."""
    return ", ".join(
        f"{text} {float(metrics[f'{stage}/{name}']):{form}}"
        for name, (text, form) in FIGURES.items()
        if f"{stage}/{name}" in metrics
    )


class Summary(Callback):
    """Prints where the run is kept when it starts, and its last metrics when it ends."""

    def __init__(self, run: Run) -> None:
        self.run = run

    @rank_zero_only
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        parameters = sum(p.numel() for p in pl_module.parameters())
        is_trial = trainer.fast_dev_run  # type: ignore[attr-defined]
        where = "nothing is kept" if is_trial else f"run folder {self.run.folder}"
        print(
            f"{pl_module.hparams['name']}, {parameters:,} parameters, {trainer.world_size} x "
            f"{pl_module.device.type}, {trainer.precision}; {where}",
            flush=True,  # or it would wait in the buffer of a log
        )
        self._print_places_in_wandb(trainer)

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        print()
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, EarlyStopping) and trainer.should_stop:
                print(f"stopped      {why_stopped(callback.stopping_reason_message)}")
        if "val/top1" in trainer.callback_metrics:
            print(f"validation   {describe(trainer.callback_metrics, 'val')}")
            self._print_best(trainer)
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        for name, path in {
            "checkpoints": self.run.checkpoints,
            "metrics": self.run.metrics,
            "evidence": self.run.evidence,
            "confusion": self.run.confusion,
        }.items():
            if path.exists():
                averaged = " (the average of the weights)" if pl_module.hparams.get("ema") else ""
                print(f"{name:12} {path}{averaged * (name == 'checkpoints')}")
        self._print_places_in_wandb(trainer)
        for logger in trainer.loggers:
            folder = getattr(logger, "log_dir", None)
            if folder and Path(folder).is_dir():
                print(f"{type(logger).__name__.removesuffix('Logger'):12} {folder}")

    def _print_best(self, trainer: Trainer) -> None:
        """The epoch of `best.ckpt`, in any start of the run."""
        tables = [logger for logger in trainer.loggers if isinstance(logger, CSVTable)]
        rows = [row for table in tables for row in table.between(-1, sys.maxsize)]
        results = [(row["val/top1"], int(row["epoch"])) for row in rows if "val/top1" in row]
        if results:
            top1, epoch = max(results, key=lambda result: result[0])  # the first of equal ones
            print(f"best         top-1 {top1:.2%} after epoch {epoch + 1}")

    def _print_places_in_wandb(self, trainer: Trainer) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                for number, place in enumerate(location(logger.experiment)):
                    print(f"{'' if number else 'W&B':12} {place}", flush=True)
