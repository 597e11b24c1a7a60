"""Measures what our module, callbacks and loggers add to a step of a bare Lightning training.

    python -m tests.bagnet.training.host_time SHARDS
    torchrun --nproc_per_node 2 -m tests.bagnet.training.host_time SHARDS

The network is tiny and the batches are in memory, so that a step is the host's work. Both trainings
take turns. A table shows microseconds of a step: the median, and the tenth percentile, which other
load on the machine disturbs less.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from unittest import mock

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F

from bagnet.run import signals
from bagnet.training import network_module
from bagnet.training.classifier import BagNetClassifier
from bagnet.training.command_line.cli import BagNetCLI
from bagnet.training.command_line.flags import expand
from datamodules.imagenet import ImageNetDataModule
from tests.bagnet.training.quiet import CLASSES, batches, quiet_trainer

STEPS, WARMUP, ROUNDS = 600, 100, 3


class Batches:
    """Yields batches from memory, and notes when each one is requested."""

    def __init__(self) -> None:
        self.batches, self.moments = batches(*[8] * 16), list[float]()

    def __len__(self) -> int:
        return STEPS

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for step in range(STEPS):
            self.moments.append(time.perf_counter())
            yield self.batches[step % 16]

    def microseconds(self) -> list[float]:
        """Median and tenth percentile of a step."""
        moments = self.moments[WARMUP:]
        steps = sorted(1e6 * (end - begin) for begin, end in pairwise(moments))
        return [statistics.median(steps), steps[len(steps) // 10]]


class Bare(BagNetClassifier):
    """The same network, loss and optimizer, without metrics, schedule and logging."""

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        images, labels, _ = batch
        return F.cross_entropy(self(images).float(), labels)

    on_train_batch_start = LightningModule.on_train_batch_start
    on_before_optimizer_step = LightningModule.on_before_optimizer_step
    on_train_epoch_end = LightningModule.on_train_epoch_end


def tiny(name: str, num_classes: int, width: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))


def bare(devices: int) -> list[float]:
    loader = Batches()
    strategy = "ddp" if devices > 1 else "auto"
    trainer = quiet_trainer(max_epochs=1, devices=devices, strategy=strategy, barebones=True)
    trainer.fit(Bare(num_classes=CLASSES, batch_size=8 * devices), loader)
    return loader.microseconds()


def complete(devices: int, shards: str) -> list[float]:
    loader = Batches()

    class Data(ImageNetDataModule):
        num_classes = CLASSES
        classes = class_names = tuple(str(label) for label in range(CLASSES))

        def train_dataloader(self) -> Batches:
            return loader

    with tempfile.TemporaryDirectory() as runs, signals.listening():
        words = ["--gpus", "0", "--trainer.devices", str(devices), "--runs_dir", runs]
        words += ["--data.root", shards, "--data.workers", "0", "--trainer.max_epochs", "1"]
        words += ["--data.batch_size", str(8 * devices), "--trainer.limit_val_batches", "0"]
        BagNetCLI(BagNetClassifier, Data, expand(words))
    return loader.microseconds()


def measure(shards: str) -> dict[str, list[float]]:
    """Medians over all rounds of the figures of both."""
    torch.set_num_threads(1)
    devices = int(os.environ.get("WORLD_SIZE", "1"))
    with mock.patch.object(network_module, "build_model", tiny):
        rounds = [(bare(devices), complete(devices, shards)) for _ in range(ROUNDS)]
    return {
        name: [statistics.median(figures) for figures in zip(*both, strict=True)]
        for name, both in zip(("bare", "complete"), zip(*rounds, strict=True), strict=True)
    }


if __name__ == "__main__":
    for name, (median, fast) in measure(sys.argv[1]).items():
        print(f"host time of a step, {name}: {median:.0f} us, tenth percentile {fast:.0f} us")
