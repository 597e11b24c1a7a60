"""How fast the training runs, how long it waits for data, and how much memory it takes."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any, cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

from bagnet.training.monitoring.utilization import data_sheet, training_flops


class Throughput(Callback):
    """Logs figures of the latest batches every `every` optimizer steps and after each epoch.

    They cover training only, without validation and checkpoints:

    * `throughput/samples_per_sec` over all devices, `throughput/device/samples_per_sec` for one.
    * `throughput/device/mfu`: share (0 to 1) of the peak in the device's data sheet that the
      network's arithmetic takes (model FLOPs utilization), on GPUs that are known
      (`bagnet/training/monitoring/utilization.py`) and in half precision.
    * `throughput/data_wait`: share (0 to 1) of the time spent waiting for the loader's next batch,
      if the loader tells (`TrainLoader.waited`).
    * `memory/peak_gib`: peak memory allocated on the GPU, or resident without one.

    Nothing synchronises with the GPU: over tens of steps, the host cannot run ahead of it by more
    than a step or two.
    """

    def __init__(self, every: int = 50) -> None:
        self.every = every
        self._counted: dict[tuple[torch.Size, int], float] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer)  # a resumed run may start in the middle of an epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer)

    def _begin(self, trainer: Trainer) -> None:
        self._samples, self._seconds = 0, 0.0
        self._last_end = time.perf_counter()
        self._waited_before = _waited(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        self._seconds += now - self._last_end
        self._last_end = now
        self._samples += len(batch[0])
        self._image_size = batch[0].shape[1:]
        # At the same steps as Lightning's own logging, so that both share a row of the table.
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if stepped and trainer.global_step % self.every == 0:
            self._log(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last_end = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._samples:
            self._log(trainer, pl_module)

    def _log(self, trainer: Trainer, pl_module: LightningModule) -> None:
        per_device = self._samples / self._seconds
        figures = {
            "throughput/samples_per_sec": per_device * trainer.world_size,
            "throughput/device/samples_per_sec": per_device,
            "memory/peak_gib": peak_memory(pl_module.device) / 2**30,
        }
        peak = data_sheet(pl_module.device) if "16" in str(trainer.precision) else None
        if peak is not None:
            figures["throughput/device/mfu"] = per_device * self._flops(pl_module) / peak
        waited = _waited(trainer)
        if waited is not None and self._waited_before is not None:
            figures["throughput/data_wait"] = (waited - self._waited_before) / self._seconds
        for logger in trainer.loggers:
            logger.log_metrics(figures, step=trainer.global_step - 1)
        self._begin(trainer)

    def _flops(self, pl_module: LightningModule) -> float:
        """Operations for one image of the latest batch; counting them takes a moment."""
        network = cast(nn.Module, pl_module.model)
        trained = sum(weights.requires_grad for weights in network.parameters())
        key = (self._image_size, trained)
        if key not in self._counted:
            self._counted[key] = training_flops(network, self._image_size)
        return self._counted[key]


def _waited(trainer: Trainer) -> float | None:
    """Seconds that the training has waited for its loader so far, if the loader tells."""
    return getattr(trainer.train_dataloader, "waited", None)


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: allocated on a CUDA device, or else this process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
