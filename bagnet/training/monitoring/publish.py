"""Where the pictures of a run are shown: in its folder, and in loggers that can show pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import CometLogger, MLFlowLogger, TensorBoardLogger

from bagnet.evidence.pictures.plots import rgb, save_png


def publish(figure: Figure, path: Path, key: str, trainer: Trainer) -> None:
    """Write a picture to a file, where it replaces the one before, and send it to the loggers.

    Args:
        figure: The picture.
        path: A PNG file in the run's folder.
        key: Its name for the loggers, such as `val/evidence`.
        trainer: Has the step and the loggers.
    """
    save_png(figure, path)
    for logger in trainer.loggers:
        _show(logger, key, rgb(figure), max(0, trainer.global_step - 1))


def _show(logger: Any, key: str, image: np.ndarray, step: int) -> None:
    """Send a picture, uint8 `(H, W, 3)`, to a logger; nothing if it has no place for pictures."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(key, image, step, dataformats="HWC")
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_image(logger.run_id, image, key=key, step=step)
    elif isinstance(logger, CometLogger):
        logger.experiment.log_image(image, name=key, step=step)
    elif hasattr(logger, "log_image"):  # W&B's, and loggers that follow it
        logger.log_image(key, [image], step=step)
