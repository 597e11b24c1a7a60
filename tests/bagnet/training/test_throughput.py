from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import Logger

from bagnet.training.throughput import Throughput


class Recorder(Logger):
    """Keeps what is logged."""

    name = "recorder"
    version = ""

    def __init__(self) -> None:
        super().__init__()
        self.logged: list[tuple[int, dict[str, float]]] = []

    def log_hyperparams(self, *args: object, **kwargs: object) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.logged.append((step, metrics))


class Sleeper(LightningModule):
    """A step that takes `step_seconds`."""

    def __init__(self, step_seconds: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.step_seconds = step_seconds

    def training_step(self, batch: tuple[torch.Tensor, ...], batch_idx: int) -> torch.Tensor:
        time.sleep(self.step_seconds)
        return self.weight.sum()

    def validation_step(self, batch: tuple[torch.Tensor, ...], batch_idx: int) -> None:
        time.sleep(0.2)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Slow:
    """Six batches of four, each after `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __len__(self) -> int:
        return 6

    def __iter__(self) -> Iterator[tuple[torch.Tensor]]:
        for _ in range(6):
            time.sleep(self.seconds)
            yield (torch.zeros(4, 1),)


def record(data_seconds: float, step_seconds: float) -> list[tuple[int, dict[str, float]]]:
    recorder = Recorder()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=recorder,
        callbacks=[Throughput(every=4)],
        log_every_n_steps=4,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Sleeper(step_seconds), Slow(data_seconds), Slow(0))
    return [(step, row) for step, row in recorder.logged if "memory/peak_gib" in row]


def test_time_is_told_apart_into_waiting_and_working():
    # Bounds are wide: a loaded machine sleeps longer than it was told to.
    fast_data = [row for _, row in record(data_seconds=0.0, step_seconds=0.05)]
    slow_data = [row for _, row in record(data_seconds=0.05, step_seconds=0.0)]
    assert all(row["throughput/data_wait"] < 0.4 for row in fast_data)
    assert all(row["throughput/data_wait"] > 0.6 for row in slow_data)


def test_rows_come_every_n_steps_and_at_the_end_of_an_epoch_without_validation_time():
    logged = record(data_seconds=0.0, step_seconds=0.05)
    assert [step for step, _ in logged] == [3, 5, 7, 11]
    for _, row in logged:
        # 4 images in 0.05 s; one validation inside the figure would cost 1.2 s.
        assert 15 < row["throughput/samples_per_sec"] <= 80
        assert row["throughput/device/samples_per_sec"] == pytest.approx(
            row["throughput/samples_per_sec"]
        )
        assert row["memory/peak_gib"] > 0.01
