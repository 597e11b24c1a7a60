"""If a limit ends a training in the middle of an epoch, the rest of the epoch follows on resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from bagnet.run.folder import Run
from bagnet.training.command_line.command import main
from datamodules.audit.__main__ import main as audit
from tests.bagnet.run.fitting import fit, step


class StopsEarly(Callback):
    """Asks the training to stop after this step, as an early stop or a time limit does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *arguments: Any
    ) -> None:
        trainer.should_stop = trainer.global_step == self.step


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return Run("mine")


@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_state_after_the_last_step_is_saved_as_one_within_the_epoch(run, accumulated):
    scores = (0.3, 0.2)  # of the validation that Lightning adds when it stops
    fit(run, 60.0, StopsEarly(3), accumulate_grad_batches=accumulated, scores=scores)
    content = torch.load(run.last, weights_only=True)
    assert content["global_step"] == 3
    assert content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] == 0


def test_a_stop_between_two_optimizer_steps_comes_after_the_second(run):
    """A time limit may come at any batch."""

    class StopsWithin(Callback):
        def on_train_batch_end(self, trainer: Trainer, *arguments: Any) -> None:
            trainer.should_stop |= arguments[-1] == 4  # the first of two batches

    fit(run, 60.0, StopsWithin(), accumulate_grad_batches=2)
    assert step(run.last) == 3


def test_the_state_before_a_validation_within_an_epoch_is_saved_if_that_ends_the_training(run):
    class StopsInValidation(Callback):
        def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            trainer.should_stop = True  # as EarlyStopping does

    options = {"limit_val_batches": 1, "val_check_interval": 4, "max_epochs": 1}
    fit(run, 60.0, StopsInValidation(), **options)
    content = torch.load(run.last, weights_only=True)
    assert content["global_step"] == 4
    assert content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] == 0


def test_a_limit_of_steps_may_end_an_epoch(run):
    fit(run, 60.0, max_steps=3)
    assert step(run.last) == 3


def test_the_validation_at_an_early_stop_may_be_the_best(run):
    options = {"limit_val_batches": 1, "limit_train_batches": 4, "max_epochs": 3}
    fit(run, 60.0, StopsEarly(6), scores=(0.1, 0.3), **options)
    assert run.best.samefile(run.last)
    fit(run, 60.0, scores=(0.2, 0.1), resume=run.last, **options)
    assert (step(run.last), step(run.best)) == (12, 6)  # the score is in the checkpoint


@pytest.mark.slow
def test_the_rest_of_the_epoch_follows(shards, run):
    words = ["--patch", "9", "--gpus", "0", "--model.width", "4", "--evidence_images", "0"]
    words += ["--data.root", str(shards), "--data.image_size", "32", "--data.resize_size", "32"]
    words += ["--data.batch_size", "24", "--data.workers", "0", "--model.decay_every", "1"]
    words += ["--trainer.enable_progress_bar", "false", "--trainer.max_epochs", "2"]
    parts = [*words, "--name", "parts", "--data.audit_dir", "audit", "--resume", "auto"]
    assert main([*words, "--name", "whole"]) == 0
    for limit in (["--trainer.max_steps", "2"], ["--trainer.max_steps", "8"], []):
        assert main([*parts, *limit]) == 0
    assert audit(["audit"]) == 0
    whole, resumed = (
        torch.load(Path("runs", name, "checkpoints/last.ckpt"), weights_only=True)["state_dict"]
        for name in ("whole", "parts")
    )
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_checkpoints_of_lightnings_callback_can_be_resumed_from_at_any_step(run, tmp_path):
    """Twice: resumed at an epoch's last batch, Lightning would write a wrong one in the next."""

    def steps(name: str) -> ModelCheckpoint:
        return ModelCheckpoint(
            tmp_path / name,
            "{step}",
            every_n_train_steps=1,
            save_top_k=-1,
            enable_version_counter=False,
        )

    def progress(name: str, step: int) -> dict[str, Any]:
        content = torch.load(tmp_path / name / f"step={step}.ckpt", weights_only=True)
        loop = content["loops"]["fit_loop"]
        parts = ("epoch_progress", "epoch_loop.batch_progress", "epoch_loop.state_dict")
        return {"step": content["global_step"], **{part: loop[part] for part in parts}}

    fit(run, 60.0, steps("whole"), limit_val_batches=1)
    expected = progress("whole", 20)
    for first in (9, 10, 11):
        resume = tmp_path / f"whole/step={first}.ckpt"
        fit(run, 60.0, steps("once"), limit_val_batches=1, resume=resume)
        resume = tmp_path / f"once/step={first + 2}.ckpt"
        fit(run, 60.0, steps("twice"), limit_val_batches=1, resume=resume)
        assert progress("once", 20) == progress("twice", 20) == expected
