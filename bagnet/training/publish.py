"""Where the pictures of a run are shown: in its folder, and in W&B."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from pytorch_lightning import Trainer

from bagnet.evidence.pictures.plots import rgb, save_png
from bagnet.run.wandb import ResumableWandbLogger


def publish(figure: Figure, path: Path, key: str, trainer: Trainer) -> None:
    """Write a picture to a file, where it replaces the one before, and send it to W&B.

    Args:
        figure: The picture.
        path: A PNG file in the run's folder.
        key: Its name in W&B, such as `val/evidence`.
        trainer: Has the step and the loggers.
    """
    save_png(figure, path)
    for logger in trainer.loggers:
        if isinstance(logger, ResumableWandbLogger):
            logger.log_image(key, [rgb(figure)], step=max(0, trainer.global_step - 1))
