"""Checkpoints are whole, and saved after each epoch, every so many minutes, and before a stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch.utils.data import DataLoader

from bagnet.run import signals
from bagnet.run.checkpoints import AtomicCheckpointIO, LastCheckpoint
from bagnet.run.folder import Run, is_whole
from bagnet.run.lease import Lease
from bagnet.training.classifier import BagNetClassifier

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return Run("mine")


class At(Callback):
    """Does something once, before a step or after so many batches of a validation."""

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


class Batches(DataLoader):
    """Ten batches; Lightning warns if a loader without a state is resumed within an epoch."""

    def __init__(self) -> None:
        images = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
        super().__init__([(images, torch.arange(4) % 3, torch.arange(4))] * 10, batch_size=None)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def fit(run: Run, minutes: float, *callbacks: Callback, every: int = 2, resume=None, **options):
    torch.manual_seed(0)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        callbacks=[*callbacks, LastCheckpoint(run, Lease(run.starts), minutes, every)],
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"limit_val_batches": 0, **options},
    )
    with signals.listening():
        module = BagNetClassifier("bagnet9", num_classes=3, width=4, batch_size=4)
        trainer.fit(module, Batches(), Batches(), ckpt_path=resume)


def step(path: Path) -> int:
    return torch.load(path, weights_only=True)["global_step"]


@pytest.mark.parametrize(("minutes", "last", "previous"), [(0.0, 16, 14), (60.0, 10, None)])
def test_a_crash_costs_no_more_than_the_minutes_between_two_saves(run, minutes, last, previous):
    with pytest.raises(RuntimeError, match="crash"):
        fit(run, minutes, At(17, crash))
    assert step(run.last) == last
    assert (step(run.previous) if run.previous.exists() else None) == previous


@pytest.mark.parametrize(
    ("asked_at", "every", "options", "saved"),
    [
        (5, 2, {}, 6),
        (5, 2, {"accumulate_grad_batches": 2}, 6),
        (0, 100, {"limit_train_batches": 3}, 3),  # the end of the epoch saves
    ],
)
def test_a_signal_saves_at_the_next_check_and_ends(run, asked_at, every, options, saved):
    with pytest.raises(signals.Stopped) as caught:
        fit(run, 60.0, At(asked_at, ask), every=every, **options)
    assert (caught.value.signal, caught.value.checkpoint) == (signal.SIGTERM, run.last)
    assert step(run.last) == saved


def test_a_signal_during_a_validation_ends_it_and_the_last_step_is_repeated(run):
    seen = []
    with pytest.raises(signals.Stopped) as caught:
        fit(run, 60.0, At(-1, ask, validated=3), limit_val_batches=10)
    assert caught.value.checkpoint == run.last
    assert step(run.last) == 9
    count = At(-1, lambda: seen.append("whole"), validated=10)
    fit(run, 60.0, count, limit_val_batches=10, resume=run.last)
    assert seen == ["whole"]
    assert step(run.last) == 20


def test_a_start_that_has_lost_its_lease_gives_up_and_saves_nothing(run):
    with pytest.raises(ValueError, match="mine was started again at .*; that process holds"):
        fit(run, 0.0, At(5, lambda: Lease(run.starts).acquire()))
    assert step(run.last) == 4


def test_handlers_are_restored():
    before = {number: signal.getsignal(number) for number in signals.STOPPING}
    with signals.listening():
        assert signal.getsignal(signal.SIGTERM) != before[signal.SIGTERM]
    assert {number: signal.getsignal(number) for number in signals.STOPPING} == before


def test_a_save_that_fails_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)
    with pytest.raises(AttributeError, match="pickle"):
        AtomicCheckpointIO().save_checkpoint({"step": lambda: 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


SAVE_FOREVER = """
import itertools, sys
import torch
from bagnet.run.checkpoints import AtomicCheckpointIO
weights = torch.randn(300_000)
for step in itertools.count():
    AtomicCheckpointIO().save_checkpoint({"step": step, "weights": weights}, sys.argv[1])
"""


@pytest.mark.slow
def test_a_killed_save_leaves_a_whole_checkpoint(tmp_path):
    path = tmp_path / "new" / "last.ckpt"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", SAVE_FOREVER, str(path)]
    saving = subprocess.Popen(command, env=environment)
    deadline = time.monotonic() + 240
    while not (path.exists() and torch.load(path, weights_only=True)["step"] >= 3):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    while not list(path.parent.glob(".*.tmp.ckpt")):  # it is writing the next one
        assert time.monotonic() < deadline
    saving.kill()
    saving.wait()
    assert is_whole(path)
    assert torch.load(path, weights_only=True)["weights"].shape == (300_000,)
