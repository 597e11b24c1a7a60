"""The confusion matrix of a few classes as a picture, after each validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from pytorch_lightning import Callback, LightningModule, Trainer

from bagnet.evidence.pictures.plots import Sheet
from bagnet.run.folder import Run
from bagnet.training.metrics import FewClassMetrics
from bagnet.training.monitoring.publish import publish

LONGEST = 24
"""Characters of a class name; more than that are cut out of its middle."""


class ConfusionLogger(Callback):
    """Draws which classes are taken for which in the validation images.

    Loggers show the pictures as `val/confusion`; the latest is also `confusion.png` in the run's
    folder. Nothing is drawn for more classes than `FEW_CLASSES`.

    Args:
        run: The run whose folder gets the picture.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = pl_module.val_metrics
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        if isinstance(metrics, FewClassMetrics):
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            figure = confusion_picture(metrics.confusion.numpy(), data.class_names)
            publish(figure, self.run.confusion, "val/confusion", trainer)


def confusion_picture(matrix: np.ndarray, names: Sequence[str]) -> Figure:
    """Draw a confusion matrix: counts, and their shares of the row, which is a true class.

    Args:
        matrix: Images by true class (rows) and predicted class (columns), int (K, K).
        names: Names of the classes.
    """
    classes = len(names)
    texts = [name if len(name) <= LONGEST else f"{name[:12]}…{name[-11:]}" for name in names]
    totals = matrix.sum(1, keepdims=True)
    shares = matrix / totals.clip(1)
    cell, size = 0.5 + 0.8 / classes, 7 + 4 / classes  # inches, points
    side = classes * cell
    longest = max(len(text) for text in texts)
    left, top, below = 0.5 + 0.075 * longest, 0.62, 0.3 + 0.055 * longest
    sheet = Sheet(max(left + side + 0.6, 4.2), top + side + below)
    axes = sheet.axes(left, top, side, side)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.7)  # dark text is legible on all of it
    ticks = range(classes)
    counted = [f"{text} ({total:,})" for text, total in zip(texts, totals[:, 0], strict=True)]
    axes.set_yticks(ticks, counted, fontsize=8)
    axes.set_xticks(ticks, texts, fontsize=8, rotation=45, ha="right", rotation_mode="anchor")
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(classes + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(classes + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="0.88", linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    for spine in axes.spines.values():
        spine.set(linewidth=0.6, color="0.6")
    for row, column in np.argwhere(matrix):
        axes.text(
            column,
            row,
            f"{matrix[row, column]:,}\n{shares[row, column]:.0%}",
            fontsize=size,
            ha="center",
            va="center",
            color="black" if row == column else "#8c3b00",
        )
    sheet.text(0.1, 0.24, "row: true class (images), column: predicted class", size=8)
    sheet.text(0.1, 0.44, "number of images, share of the row", size=8, color="0.35")
    return sheet.figure
