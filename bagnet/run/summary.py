"""The first and the last lines of a training: what is trained, what came out, and where everything is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from bagnet.run.folder import Run
from bagnet.run.loggers import offline_commands

OFFLINE = "offline"


def describe(figures: Mapping[str, Any], stage: str) -> str:
    """The figures of an evaluation in one line."""
    top1, top5, loss = (float(figures[f"{stage}/{name}"]) for name in ("top1", "top5", "loss"))
    return f"top-1 {top1:.2%}, top-5 {top5:.2%}, loss {loss:.6f}"


class Summary(Callback):
    """Says where the run is kept when it starts, and the last validation's figures when it ends."""

    def __init__(self, run: Run) -> None:
        self.run = run

    @rank_zero_only
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        parameters = sum(p.numel() for p in pl_module.parameters())
        print(
            f"{pl_module.hparams['name']}, {parameters:,} parameters, "
            f"{trainer.world_size} x {pl_module.device.type}, {trainer.precision}; run folder {self.run.folder}"
        )
        where = self._where_in_wandb(trainer)
        if where == OFFLINE:
            print("W&B offline; see it, upload it:", "; ".join(offline_commands(self.run)))
        elif where:
            print(f"W&B: {where}")

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        print()
        if "val/top1" in trainer.callback_metrics:
            print(f"validation   {describe(trainer.callback_metrics, 'val')}")
        print(f"checkpoints  {self.run.checkpoints}")
        print(f"metrics      {self.run.metrics}")
        where = self._where_in_wandb(trainer)
        if where == OFFLINE:
            see, upload = offline_commands(self.run)
            print(f"W&B          see it:    {see}\n             upload it: {upload}")
        elif where:
            print(f"W&B          {where}")

    def _where_in_wandb(self, trainer: Trainer) -> str | None:
        """The address of the run, or ``OFFLINE``; None where W&B is disabled."""
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and not logger.experiment.disabled:
                run = logger.experiment
                return OFFLINE if run.offline else run.url
        return None
