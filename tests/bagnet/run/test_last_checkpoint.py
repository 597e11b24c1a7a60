"""The last checkpoint: after each epoch, every so many minutes, and before a stop."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch.utils.data import DataLoader

from bagnet.run import signals
from bagnet.run.folder import Run
from bagnet.run.last_checkpoint import LastCheckpoint
from bagnet.run.lease import Lease
from bagnet.training.classifier import BagNetClassifier


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return Run("mine")


class At(Callback):
    """Does something, once, before a step, or when so many batches were validated."""

    def __init__(self, step, action, validated=None) -> None:
        self.step, self.action, self.validated = step, action, validated

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if batch_idx + 1 == self.validated and not trainer.sanity_checking:
            self.validated = None
            self.action()

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            self.step = -1
            self.action()


def crash() -> None:
    raise RuntimeError("crash")


def ask() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def fit(
    run: Run,
    minutes: float,
    *callbacks: Callback,
    every: int = 2,
    validate: bool = False,
    resume=None,
    **options,
) -> None:
    torch.manual_seed(0)
    images = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
    batches = [(images, torch.arange(4) % 3, torch.arange(4))] * 10
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        callbacks=[*callbacks, LastCheckpoint(run, Lease(run.starts), minutes, every)],
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    with signals.listening():
        module = BagNetClassifier("bagnet9", num_classes=3, width=4, batch_size=4)
        loader = DataLoader(batches, batch_size=None)
        trainer.fit(module, loader, loader if validate else None, ckpt_path=resume)


def step(path) -> int:
    return torch.load(path, weights_only=True)["global_step"]


@pytest.mark.parametrize(("minutes", "last", "previous"), [(0.0, 16, 14), (60.0, 10, None)])
def test_a_crash_costs_no_more_than_the_minutes_between_two_saves(run, minutes, last, previous):
    with pytest.raises(RuntimeError, match="crash"):
        fit(run, minutes, At(17, crash))
    assert step(run.last) == last
    assert (step(run.previous) if run.previous.exists() else None) == previous


@pytest.mark.parametrize(("options", "saved"), [({}, 6), ({"accumulate_grad_batches": 2}, 6)])
def test_a_signal_saves_at_the_next_look_and_ends(run, options, saved):
    with pytest.raises(signals.Stopped) as caught:
        fit(run, 60.0, At(5, ask), **options)
    assert caught.value.signal == signal.SIGTERM
    assert caught.value.checkpoint == run.last
    assert step(run.last) == saved


def test_a_signal_before_the_first_look_has_nothing_to_save(run):
    with pytest.raises(signals.Stopped) as caught:
        fit(run, 60.0, At(0, ask), every=100, limit_train_batches=3)
    assert step(run.last) == 3  # the end of the epoch saved
    assert caught.value.checkpoint == run.last


def test_a_signal_amid_a_validation_ends_it_and_the_last_step_is_done_again(run):
    seen = []
    with pytest.raises(signals.Stopped) as caught:
        fit(run, 60.0, At(-1, ask, validated=3), validate=True)
    assert caught.value.checkpoint == run.last
    assert step(run.last) == 9
    count = At(-1, lambda: seen.append("whole"), validated=10)
    fit(run, 60.0, count, validate=True, resume=run.last)
    assert seen == ["whole"]
    assert step(run.last) == 20


def test_a_start_that_has_lost_its_claim_gives_up_and_saves_nothing(run):
    with pytest.raises(ValueError, match="mine was started again at .*; this one stops"):
        fit(run, 0.0, At(5, lambda: Lease(run.starts).take()))
    assert step(run.last) == 4


def test_handlers_are_given_back():
    before = {number: signal.getsignal(number) for number in signals.STOPPING}
    with signals.listening():
        assert signal.getsignal(signal.SIGTERM) != before[signal.SIGTERM]
    assert {number: signal.getsignal(number) for number in signals.STOPPING} == before
