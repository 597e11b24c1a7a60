"""Data of three classes, and a logger that keeps what is sent to W&B, for tests of pictures."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader

from bagnet.run.lease import Lease
from bagnet.run.loggers.csv_table import CSVTable
from bagnet.run.loggers.wandb import ResumableWandbLogger


class Data(LightningDataModule):
    """Three classes, and one unreadable image."""

    class_names = ("a", "b", "c")

    def __init__(self, side: int) -> None:
        super().__init__()
        self.images = torch.randint(0, 256, (4, 3, side, side), dtype=torch.uint8)

    def train_dataloader(self) -> DataLoader:
        labels = torch.tensor([0, 1, 2, -1])
        batches = [(self.images.clone(), labels, torch.arange(4))] * 3
        return DataLoader(batches, batch_size=None)

    val_dataloader = train_dataloader


class Recorder(ResumableWandbLogger):
    """Keeps what is sent to W&B."""

    def __init__(self, run) -> None:
        lease = Lease(run.starts)
        super().__init__(run, False, CSVTable(run.metrics, lease), lease)
        self.logged = []

    @property
    def experiment(self):
        return SimpleNamespace(log=lambda row, step: None, config={}, offline=True)

    def log_image(self, key, images, step):
        self.logged.append((key, step, images))
