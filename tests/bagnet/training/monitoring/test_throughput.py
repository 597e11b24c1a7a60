from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from pytorch_lightning import LightningModule

from bagnet.training.monitoring import throughput
from bagnet.training.monitoring.throughput import Throughput
from tests.bagnet.training.quiet import Rows, quiet_trainer


class Clock:
    """Stands in for the `time` module; time passes only when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(throughput, "time", clock)
    return clock


class Slow(LightningModule):
    """A training step takes 2 s, what follows it another one, and a validation step 100 s."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.clock = clock

    def training_step(self, batch: tuple[torch.Tensor, ...], batch_idx: int) -> torch.Tensor:
        self.clock.now += 2
        return self.weight.sum()

    def on_train_batch_end(self, *arguments: object) -> None:
        self.clock.now += 1  # between two steps, but not for data

    def validation_step(self, batch: tuple[torch.Tensor, ...], batch_idx: int) -> None:
        self.clock.now += 100

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Loader:
    """Six batches of four images; each takes a second to load."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.waited = 0.0

    def __len__(self) -> int:
        return 6

    def __iter__(self) -> Iterator[tuple[torch.Tensor]]:
        for _ in range(6):
            self.clock.now += 1
            self.waited += 1
            yield (torch.zeros(4, 1),)


def test_rows_every_n_steps_and_after_each_epoch_count_only_training(clock):
    trainer = quiet_trainer(
        max_epochs=2,
        logger=Rows(),
        callbacks=[Throughput(every=4)],
        log_every_n_steps=4,
        num_sanity_val_steps=0,
    )
    trainer.fit(Slow(clock), Loader(clock), Loader(clock))
    rows = [(step, row) for step, row in trainer.logger.rows if "memory/peak_gib" in row]
    assert [step for step, _ in rows] == [3, 5, 7, 11]
    # 1 s to load a batch, 2 s to train on it, 1 s between two; an epoch begins without a pause.
    for (_, row), images, seconds in zip(rows, [16, 8, 8, 16], [15, 8, 7, 16], strict=True):
        assert row.pop("memory/peak_gib") > 0.01
        assert row == {
            "throughput/samples_per_sec": images / seconds,
            "throughput/device/samples_per_sec": images / seconds,
            "throughput/data_wait": images / 4 / seconds,
        }
