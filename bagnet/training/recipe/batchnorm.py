"""Statistics of BatchNorm for the weights as they are, not as they were over the last steps."""

from __future__ import annotations

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

from datamodules.loading.loader import TrainLoader


class PreciseBatchNorm(Callback):
    """Computes the statistics of BatchNorm again before each validation in a training.

    A layer's running mean and variance are an average over the last steps, in which the weights
    changed. These are the means over batches that the weights of the validation have seen: the
    first training batches of the epoch, read once more. (Wu and Johnson, "Rethinking 'Batch' in
    BatchNorm", 2021, section 3.) They depend on the epoch and on the weights alone, and the steps
    of the training do not depend on them. Frozen layers keep theirs.

    It belongs behind a callback that gives the validation other weights.

    Args:
        batches: Global batches to read.

    Raises:
        ValueError: The training batches do not come from `ImageNetDataModule`.
    """

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not isinstance(trainer.train_dataloader, TrainLoader):
            raise ValueError(
                "precise_bn reads the first batches of an epoch again, which only "
                "ImageNetDataModule can do: leave it at 0, or use that"
            )

    @torch.no_grad()
    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loader = trainer.train_dataloader
        layers = [
            layer
            for layer in pl_module.modules()
            if isinstance(layer, nn.BatchNorm2d | nn.SyncBatchNorm) and layer.weight.requires_grad
        ]
        if not isinstance(loader, TrainLoader) or trainer.sanity_checking or not layers:
            return
        momenta = [layer.momentum for layer in layers]
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # the plain mean over all batches
            layer.train()
        for images, *_ in loader.first(self.batches):
            with trainer.precision_plugin.val_step_context():
                pl_module(images.to(pl_module.device, non_blocking=True))
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
            layer.eval()
            for statistic in layer.buffers():
                if statistic.is_floating_point():  # all but the count of batches
                    statistic.copy_(trainer.strategy.reduce(statistic, reduce_op="mean"))
