"""A loss that is not finite ends the run, and the last good checkpoint stays."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.plugins.precision import MixedPrecision

from bagnet.run.checkpoint_io import AtomicCheckpointIO
from bagnet.run.folder import Run
from bagnet.training.monitoring.finite import FiniteLoss
from datamodules.plan import TrainPlan
from datamodules.shards.manifest import Manifest
from tests.bagnet.run.fitting import fit, step
from tests.bagnet.training.quiet import classifier, loader, quiet_trainer
from tests.trainings import TINY, train

REPOSITORY = Path(__file__).parents[4]

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")


class Poison(Callback):
    """Breaks the network before a step, as a sample or an overflow would.

    Args:
        step: Number of the step, from 0.
        rank: The rank that has this batch.
        value: What a weight becomes.
    """

    def __init__(self, step: int, rank: int = 0, value: float = math.nan) -> None:
        self.step, self.rank, self.value = step, rank, value

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        if (trainer.global_step, trainer.global_rank) == (self.step, self.rank):
            pl_module.model.fc.bias.data[0] = self.value


class Steps(Callback):
    """Notes the steps that were done."""

    def on_train_batch_end(self, trainer: Trainer, *arguments: object) -> None:
        self.done = trainer.global_step


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return Run("x")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_run_ends_within_the_stated_steps_and_names_the_batch(value):
    steps = Steps()
    trainer = quiet_trainer(
        max_epochs=1, callbacks=[steps, Poison(4, value=value), FiniteLoss(every=3)]
    )
    message = (
        r"loss is (nan|inf) in step 4 of epoch 0 .*learning rate 0.000156 .*samples 0, 1, 2, 3;"
    )
    with pytest.raises(ValueError, match=message):
        trainer.fit(classifier(), loader(*[4] * 20))
    assert 4 < steps.done <= 4 + 2 * 3


def test_a_large_batch_is_named_by_its_first_samples():
    trainer = quiet_trainer(max_epochs=1, callbacks=[Poison(0), FiniteLoss()])
    with pytest.raises(ValueError, match="samples 0, 1, .*, 15 and 4 more;"):
        trainer.fit(classifier(), loader(20, 4))


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("broken", [3, 5, 9])
def test_what_is_saved_is_from_before_and_can_be_resumed(run, accumulated, broken):
    """Also when the look comes later than the next save: here every 100 steps, saves at each."""
    options = {"accumulate_grad_batches": accumulated, "limit_val_batches": 1, "every": 1}
    with pytest.raises(ValueError, match=f"in step {broken} "):
        fit(run, 0.0, Poison(broken), FiniteLoss(100), max_epochs=3, **options)
    content = torch.load(run.last, weights_only=True)
    assert content["global_step"] <= broken
    assert all(each.isfinite().all() for each in content["state_dict"].values())
    fit(run, 60.0, FiniteLoss(), resume=run.last, max_epochs=3, **options)
    assert step(run.last) == 30 // accumulated


def test_a_network_whose_validation_loss_is_nan_is_never_the_best(run):
    class Broken(Callback):
        def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            pl_module.log("val/loss", math.nan if trainer.current_epoch == 1 else 1.0)

    fit(run, 60.0, Broken(), scores=(0.1, 0.3, 0.2), max_epochs=3, limit_val_batches=1)
    assert (step(run.last), step(run.best)) == (30, 30)


def test_weights_that_are_not_finite_are_neither_written_nor_read(run):
    """The loss was still finite: the step after it broke the weights."""

    class Break(Callback):
        def on_train_batch_end(
            self, trainer: Trainer, pl_module: LightningModule, *arguments: object
        ) -> None:
            if trainer.global_step == 10:
                pl_module.model.fc.bias.data[0] = math.inf

    message = r"last.ckpt is not written: after 10 steps, state_dict.model.fc.bias is not finite"
    with pytest.raises(ValueError, match=message):
        fit(run, 0.0, Break(), FiniteLoss(), every=9)
    assert step(run.last) == 9
    content = torch.load(run.last, weights_only=True)
    content["optimizer_states"][0]["state"][0]["momentum_buffer"].fill_(math.nan)
    content["callbacks"]["EarlyStopping"] = {"best_score": torch.tensor(math.inf)}  # is harmless
    torch.save(content, run.last)
    with pytest.raises(ValueError, match=r"last.ckpt: optimizer_states.0.*momentum_buffer is not"):
        fit(run, 60.0, FiniteLoss(), resume=run.last)


@pytest.mark.parametrize("part", ["state_dict", "current_model_state", "optimizer_states"])
def test_no_part_of_a_checkpoint_may_be_broken(tmp_path, part):
    """With a moving average, the weights that the training continues from are a part of it."""
    file = tmp_path / "last.ckpt"
    content = {"state_dict": {}, part: {"weight": torch.tensor([1.0, math.nan])}}
    with pytest.raises(ValueError, match=rf"is not written: .* {part}.weight is not finite"):
        AtomicCheckpointIO().save_checkpoint(content, file)
    assert not file.exists()
    torch.save(content, file)
    with pytest.raises(ValueError, match=rf"{part}.weight is not finite, so it cannot be trained"):
        AtomicCheckpointIO().load_checkpoint(file)


def test_gradients_that_overflow_in_float16_are_no_reason_to_end():
    scaler = torch.amp.GradScaler(device="cpu", init_scale=2.0**40)
    plugins = [MixedPrecision("16-mixed", "cpu", scaler)]
    trainer = quiet_trainer(max_epochs=1, callbacks=[FiniteLoss(1)], plugins=plugins)
    trainer.fit(classifier(), loader(*[4] * 4))
    assert scaler.get_scale() < 2.0**40


def test_a_learning_rate_that_is_far_too_large_is_one_line(shards, run, capsys):
    rate = ("--model.learning_rate", "1e12", "--model.warmup_epochs", "0", "--name", "x")
    assert train(shards, *rate, "--trainer.max_epochs", "3") == 2
    (line,) = [each for each in capsys.readouterr().err.splitlines() if "rror" in each]
    assert re.search(r"^error: the loss is (nan|inf) in step \d of epoch 0.*lower --model", line)
    if run.last.exists():
        AtomicCheckpointIO().load_checkpoint(run.last)


@pytest.mark.slow
def test_two_ranks_end_together_with_the_batch_of_the_rank_that_had_it(shards, run):
    """Real processes. After that step, all weights of both ranks are NaN."""
    words = [*TINY, "--data.root", str(shards), "--name", "x", "--trainer.max_epochs", "9"]
    words += ["--trainer.devices", "2"]
    poison = f"--trainer.callbacks+={__name__}.Poison"
    poison = [poison, "--trainer.callbacks.step=15", "--trainer.callbacks.rank=1"]
    command = [sys.executable, str(REPOSITORY / "train.py"), *words]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [*command, *poison], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = {line for line in done.stderr.splitlines() if "the loss is" in line}
    found = re.search(r"loss is nan in step 15 of epoch 2 .* the samples ([\d, ]+);", line)
    assert found is not None, line
    counts = Manifest.load(shards / "train").counts
    plan = TrainPlan(counts, epoch=2, seed=0, global_batch=24, streams=64, window=2)
    ids = plan.batch(15 % len(plan), rank=1, world_size=2).tolist()
    assert found[1].split(", ") == [str(number) for number in ids]
    assert step(run.last) <= 15
    resume = ("--name", "x", "--trainer.max_epochs", "3", "--resume", "auto")
    assert train(shards, *resume) == 0
    assert step(run.last) == 3 * len(plan)
