"""A step whose loss or gradients are not finite is as if it had not been, if the user wants so."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from bagnet.run.folder import Run
from bagnet.training.monitoring.finite import FiniteLoss
from datamodules.audit.verdict import audit
from tests.bagnet.run.fitting import fit
from tests.bagnet.training.quiet import Rows, batches, classifier, quiet_trainer
from tests.trainings import TINY, table

REPOSITORY = Path(__file__).parents[4]

pytestmark = pytest.mark.filterwarnings(
    "ignore:You defined a `validation_step` but have no", "ignore:.*are not finite"
)


class Spoil(Callback):
    """Makes the first layer's output NaN in some steps, for one rank.

    Args:
        steps: Numbers of the steps, from 0.
        rank: The rank that has these batches.
    """

    def __init__(self, steps: list[int], rank: int = 0) -> None:
        self.steps, self.rank = steps, rank

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        if trainer.global_step in self.steps and trainer.global_rank == self.rank:
            hook = pl_module.model.conv1.register_forward_hook(lambda *given: given[2] * math.nan)
            self.remove = hook.remove

    def on_train_batch_end(self, *arguments: object) -> None:
        getattr(self, "remove", lambda: None)()


def data(*left_out: int, spoiled: tuple[int, ...] = (), count: int = 8) -> DataLoader:
    """Batches of floats; those that are spoiled are NaN, those left out do not exist."""
    kept = []
    for number, (images, *labels) in enumerate(batches(*[4] * count)):
        pixels = images / 255
        if number in spoiled:
            pixels[0] = math.nan
        if number not in left_out:
            kept.append((pixels, *labels))
    return DataLoader(kept, batch_size=None)


def train(loader: DataLoader, *callbacks: Callback, accumulated: int = 1, **options: Any) -> Any:
    """Everything that training leaves: the module and the optimizer's state."""
    trainer = quiet_trainer(
        max_epochs=1,
        callbacks=[*callbacks],
        accumulate_grad_batches=accumulated,
        logger=(rows := Rows()),
        num_sanity_val_steps=0,
    )
    module = classifier(schedule="constant", **options)
    trainer.fit(module, loader)
    logged = {name: value for _, row in rows.rows for name, value in row.items()}
    return module.state_dict(), trainer.optimizers[0].state_dict()["state"], logged


def require_equal(ours: Any, theirs: Any) -> None:
    weights, states, _ = ours
    assert weights.keys() == theirs[0].keys()
    for name, value in weights.items():
        assert torch.equal(value, theirs[0][name]), name
    for number, state in states.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, theirs[1][number][name]), name


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("spoiled", [0, 3])
def test_a_skipped_step_leaves_no_trace(optimizer, spoiled):
    """The oracle is a training that never had the batch."""
    ours = train(data(spoiled=(spoiled,)), FiniteLoss(max_skipped=1), optimizer=optimizer)
    theirs = train(data(spoiled), optimizer=optimizer)
    require_equal(ours, theirs)
    assert ours[2]["train/skipped_steps"] == 1.0
    assert ours[2]["train/loss"] == theirs[2]["train/loss"]


def test_of_accumulated_batches_all_are_skipped_together():
    ours = train(data(spoiled=(2,)), FiniteLoss(max_skipped=1), accumulated=2)
    require_equal(ours, train(data(2, 3), accumulated=2))


def test_finite_steps_are_what_they_were():
    require_equal(train(data(), FiniteLoss(max_skipped=3)), train(data()))


def test_a_moving_average_stays_finite():
    weights, *_ = train(data(spoiled=(3, 4)), FiniteLoss(max_skipped=2), ema=0.5)
    assert all(value.isfinite().all() for value in weights.values())


def test_a_loss_alone_is_enough_to_skip():
    """Its gradients are finite."""

    class Break(Callback):
        def on_train_batch_start(
            self, trainer: Trainer, pl_module: LightningModule, *batch: object
        ) -> None:
            def loss(*batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                value, logits = type(pl_module).loss(pl_module, *batch)
                return value + (math.inf if trainer.global_step == 3 else 0.0), logits

            pl_module.loss = loss

    require_equal(train(data(), Break(), FiniteLoss(max_skipped=1)), train(data(3)))


def test_gradients_alone_are_enough_to_skip():
    class Break(Callback):
        def on_before_optimizer_step(
            self, trainer: Trainer, pl_module: LightningModule, optimizer: object
        ) -> None:
            if trainer.global_step == 3:
                pl_module.model.fc.bias.grad[0] = math.nan

    require_equal(train(data(), Break(), FiniteLoss(max_skipped=1)), train(data(3)))


def test_too_many_in_a_row_end_the_run():
    spoiled = (1, 3, 4, 5)
    assert train(data(spoiled=spoiled), FiniteLoss(max_skipped=3))[2]["train/skipped_steps"] == 4.0
    message = "2 steps are skipped, and the next one is not finite either, in step 5 of epoch 0"
    with pytest.raises(ValueError, match=message):
        train(data(spoiled=spoiled), FiniteLoss(2, max_skipped=2))


def test_counts_survive_a_resume(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, finite = Run("x"), FiniteLoss(max_skipped=2)
    fit(run, 0.0, Spoil([3, 9]), finite, max_epochs=1)
    counts = {"skipped": 2, "in_a_row": 1}
    assert finite.state_dict() == counts
    resumed = FiniteLoss(max_skipped=2)
    fit(run, 60.0, Spoil([10]), resumed, resume=run.last)
    assert resumed.state_dict() == {"skipped": 3, "in_a_row": 0}
    with pytest.raises(ValueError, match="1 steps are skipped, and the next one"):
        fit(run, 60.0, Spoil([20, 21]), FiniteLoss(max_skipped=1), resume=run.last, max_epochs=3)


@pytest.mark.slow
def test_two_ranks_skip_the_step_that_was_broken_on_one_of_them(shards, tmp_path, monkeypatch):
    """Real processes, whose weights Lightning's DDP would never compare."""
    monkeypatch.chdir(tmp_path)
    words = [*TINY, "--data.root", str(shards), "--name", "x", "--trainer.max_epochs", "2"]
    words += ["--trainer.devices", "2", "--max_skipped_steps", "1", "--model.ema", "0.5"]
    words += ["--data.audit_dir", "audit", f"--trainer.callbacks+={__name__}.Spoil"]
    words += ["--trainer.callbacks.steps=[2,8]", "--trainer.callbacks.rank=1"]
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "train.py"), *words],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "skipped, because their loss or gradients are not finite" in done.stderr
    assert [float(row["train/skipped_steps"]) for row in table("x") if row["val/top1"]] == [1, 2]
    content = torch.load(Run("x").last, weights_only=True)
    assert all(value.isfinite().all() for value in content["state_dict"].values())
    assert all(value.isfinite().all() for value in content["current_model_state"].values())
    assert {epoch.verdict for epoch in audit(Path("audit")).epochs} == {"exact"}
