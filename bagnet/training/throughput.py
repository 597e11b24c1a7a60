"""How fast the training runs, what of it is waiting for data, and how much memory it takes."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer


class Throughput(Callback):
    """Logs, every ``every`` optimizer steps and at the end of an epoch, figures of the batches since the last time.

    ``throughput/samples_per_sec`` over all devices and ``throughput/device/samples_per_sec`` for one: training only,
    without validation and checkpoints. ``throughput/data_wait``: the share (0 to 1) of the time in which the training
    loop waited for its next batch. ``memory/peak_gib``: the most that was allocated on the GPU, or resident without one.

    No figure synchronises with the GPU: over tens of steps the host cannot run ahead of it by more than a step or two.
    """

    def __init__(self, every: int = 50) -> None:
        self.every = every
        self._last_end = 0.0
        self._clear()

    def _clear(self) -> None:
        self._samples, self._batches, self._waited, self._computed = 0, 0, 0.0, 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last_end = time.perf_counter()  # amid an epoch, a resumed run begins with a batch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._clear()
        self._last_end = time.perf_counter()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._start = time.perf_counter()
        self._waited += self._start - self._last_end

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._last_end = time.perf_counter()
        self._computed += self._last_end - self._start
        self._samples += len(batch[0])
        self._batches += 1
        # The steps at which Lightning logs too, so that a row of the table has both.
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if stepped and trainer.global_step % self.every == 0:
            self._log(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last_end = time.perf_counter()  # validation is not a wait for data

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._batches:
            self._log(trainer, pl_module)

    def _log(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seconds = self._waited + self._computed
        per_device = self._samples / seconds
        figures = {
            "throughput/samples_per_sec": per_device * trainer.world_size,
            "throughput/device/samples_per_sec": per_device,
            "throughput/data_wait": self._waited / seconds,
            "memory/peak_gib": peak_memory(pl_module.device) / 2**30,
        }
        for logger in trainer.loggers:
            logger.log_metrics(figures, step=trainer.global_step - 1)
        self._clear()


def peak_memory(device: torch.device) -> int:
    """Bytes: the most allocated on a CUDA device so far, or this process's largest resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
