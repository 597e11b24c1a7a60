"""Pictures of the evidence in the same few validation images after each epoch."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from bagnet.evidence.pictures.explained import explained
from bagnet.evidence.pictures.plots import contact_sheet
from bagnet.model.network import BagNet
from bagnet.run.folder import Run
from bagnet.training.monitoring.publish import publish


class EvidenceLogger(Callback):
    """Draws the first validation images with the evidence for the class that the network predicts.

    Loggers show the pictures as `val/evidence`; the latest is also `evidence.png` in the run's
    folder. Each epoch costs rank 0 one forward pass over these images and about two seconds of
    drawing. Nothing is drawn for networks that are not BagNets.

    Args:
        run: The run whose folder gets the picture.
        images: Number of images; 0 draws nothing.
    """

    def __init__(self, run: Run, images: int = 12) -> None:
        self.run, self.images = run, images
        self._images: list[Tensor] = []
        self._labels: list[int] = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        wanted = self.images - len(self._images)
        if wanted > 0 and trainer.is_global_zero:  # only of the first validation
            images, labels, _ = batch
            self._images += images[:wanted].cpu()
            self._labels += labels[:wanted].tolist()

    # Before the moving average of the weights leaves the network, at the end of the epoch.
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model = pl_module.model
        if trainer.sanity_checking or not self._images or not isinstance(model, BagNet):
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        images = torch.stack(self._images)
        examples = explained(model, images, data.class_names, labels=self._labels)
        publish(contact_sheet(examples, model.box), self.run.evidence, "val/evidence", trainer)
