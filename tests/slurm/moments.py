"""Callbacks that prolong moments too short to be hit by a test."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

BALLAST = 200_000_000
"""Bytes that `Ballast` adds to a checkpoint."""


class WaitForSignal(Callback):
    """Each rank waits until it receives a signal, once in the life of a run.

    Args:
        moment: Where it waits: `"batch"` for the middle of a batch, or `"validation"`.
    """

    def __init__(self, moment: str) -> None:
        self.moment = moment

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor
    ) -> None:
        if self.moment == "batch":
            self._wait(trainer)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *batch: Any
    ) -> None:
        if self.moment == "validation" and not trainer.sanity_checking:
            self._wait(trainer)

    def _wait(self, trainer: Trainer) -> None:
        mark = Path(f"waiting-{trainer.global_rank}")
        if mark.exists():
            return
        read, write = os.pipe()
        os.set_blocking(write, False)
        before = signal.set_wakeup_fd(write)  # Python writes a byte for each signal that it handles
        mark.touch()
        os.read(read, 1)
        signal.set_wakeup_fd(before)
        os.close(read)
        os.close(write)


class Ballast(Callback):
    """Makes each checkpoint so large that writing it takes a while."""

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["ballast"] = torch.zeros(BALLAST, dtype=torch.uint8)


class Stuck(Callback):
    """Ranks wait forever in the third batch, as on a GPU for a rank that no longer answers.

    Args:
        ranks: Those that wait; each then creates the file `stuck-RANK`.
        failing: The rank that raises an error instead, when the others wait.
    """

    def __init__(self, ranks: list[int], failing: int | None = None) -> None:
        self.ranks, self.failing = ranks, failing

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx != 2:
            return
        if trainer.global_rank == self.failing:
            while not all(Path(f"stuck-{rank}").exists() for rank in self.ranks):
                threading.Event().wait(0.01)
            raise RuntimeError("this rank has failed")
        if trainer.global_rank in self.ranks:
            Path(f"stuck-{trainer.global_rank}").touch()
            threading.Event().wait()
