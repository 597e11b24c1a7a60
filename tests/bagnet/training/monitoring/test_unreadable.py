"""Samples that could not be read are counted over all ranks; too many of them stop the run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import Callback, LightningDataModule, Trainer
from torch.utils.data import DataLoader

from bagnet.training.classifier import BagNetClassifier
from bagnet.training.monitoring.unreadable import UnreadableLimit
from datamodules.common.batch import UNREADABLE
from tests.bagnet.training.quiet import Rows, quiet_trainer


class Data(LightningDataModule):
    """10 batches of 4; `bad` and `bad_val` say how many of a batch could not be read."""

    root = "shards"

    def __init__(self, bad: dict[int, int], bad_val: dict[int, int] | None = None) -> None:
        super().__init__()
        self.bad, self.bad_val = bad, bad_val or {}
        self.train_manifest = SimpleNamespace(num_samples=40)
        self.val_manifest = SimpleNamespace(num_samples=40)

    def loader(self, bad: dict[int, int]) -> DataLoader:
        batches = []
        for step in range(10):
            labels = torch.arange(4) % 3
            labels[: bad.get(step, 0)] = UNREADABLE
            images = torch.full((4, 3, 16, 16), 9 * step, dtype=torch.uint8)
            batches.append((images, labels, torch.arange(4)))
        return DataLoader(batches, batch_size=None)

    def train_dataloader(self) -> DataLoader:
        return self.loader(self.bad)

    def val_dataloader(self) -> DataLoader:
        return self.loader(self.bad_val)

    test_dataloader = val_dataloader


def trainer(limit: float, epochs: int = 1, every: int = 3, **options) -> Trainer:
    callbacks = [UnreadableLimit(limit, every)]
    return quiet_trainer(max_epochs=epochs, logger=Rows(), callbacks=callbacks, **options)


def logged(run: Trainer, name: str) -> list[tuple[int, float]]:
    return [(step, row[name]) for step, row in run.logger.rows if name in row]


def module() -> BagNetClassifier:
    torch.manual_seed(0)
    return BagNetClassifier("bagnet9", num_classes=3, width=4, batch_size=4)


def test_counts_are_logged_and_restart_with_each_epoch():
    run = trainer(limit=0.1, epochs=2)
    with pytest.warns(UserWarning, match="3 samples could not be read and are left out"):
        run.fit(module(), datamodule=Data({0: 1, 4: 2, 9: 1}, {5: 3}))
    train = logged(run, "train/unreadable")
    assert train == [(2, 1), (5, 3), (8, 3), (9, 4), (11, 1), (14, 3), (17, 3), (19, 4)]
    assert logged(run, "val/unreadable") == [(9, 3), (19, 3)]


def test_above_the_limit_the_run_stops_at_the_next_check_with_cause_and_remedy():
    run = trainer(limit=0.1)
    with pytest.raises(ValueError, match="5 of the 40 train samples could not be read") as caught:
        run.fit(module(), datamodule=Data({4: 3, 5: 2, 6: 4}))
    assert run.global_step == 6
    assert "10.00% that --data.max_unreadable allows" in str(caught.value)
    assert "python -m datamodules.pack verify shards" in str(caught.value)


def test_batches_after_the_last_check_are_checked_at_the_end_of_the_epoch():
    with pytest.raises(ValueError, match="5 of the 40 train"):
        trainer(limit=0.1, every=50).fit(module(), datamodule=Data({8: 1, 9: 4}))


def test_checks_fall_on_optimizer_steps_when_gradients_are_accumulated():
    run = trainer(limit=1.0, every=2, accumulate_grad_batches=2)
    run.fit(module(), datamodule=Data({0: 1, 6: 1}))
    train = logged(run, "train/unreadable")
    assert train == [(1, 1), (3, 2), (4, 2)]


class SaveAt(Callback):
    """Saves a checkpoint after `step` steps."""

    def __init__(self, path, step: int) -> None:
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path, weights_only=False)


def test_a_resume_in_the_middle_of_an_epoch_keeps_the_count(tmp_path):
    path = tmp_path / "middle.ckpt"
    data = Data({0: 1, 4: 2})
    run = trainer(limit=1.0)
    run.callbacks.append(SaveAt(path, 5))
    run.fit(module(), datamodule=data)
    resumed = trainer(limit=1.0)
    # This loader restarts, so its first bad batches are counted twice.
    with pytest.warns(UserWarning, match="your dataloader is not resumable"):
        resumed.fit(module(), datamodule=data, ckpt_path=path)
    train = logged(resumed, "train/unreadable")
    assert train == [(5, 4), (8, 4), (9, 6)]


@pytest.mark.parametrize("evaluate", ["validate", "test"])
def test_an_evaluation_warns_about_what_is_left_out_or_stops(evaluate):
    with pytest.warns(UserWarning, match="3 samples could not be read and are left out"):
        getattr(trainer(limit=0.1), evaluate)(module(), datamodule=Data({}, {5: 3}), verbose=False)
    with pytest.raises(ValueError, match="6 of the 40 val samples"):
        getattr(trainer(limit=0.1), evaluate)(module(), datamodule=Data({}, {2: 3, 5: 3}))
