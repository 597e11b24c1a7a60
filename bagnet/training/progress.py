"""The progress bar."""

from __future__ import annotations

import sys
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar


class Progress(TQDMProgressBar):
    """Fits 80 columns; in the log file of a batch job, where each refresh is a line, it moves every 100 batches."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=1 if sys.stderr.isatty() else 100)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Loss and top-1 only: the rest is in the table and in W&B."""
        metrics = super().get_metrics(trainer, pl_module)
        shown = {"train/loss_step": "loss", "val/top1": "val/top1"}
        return {label: metrics[name] for name, label in shown.items() if name in metrics}
