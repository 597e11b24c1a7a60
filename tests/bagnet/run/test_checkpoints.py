"""Checkpoints are saved after each epoch, every so many minutes, and before a stop; in a thread."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
import weakref

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.loggers import Logger

from bagnet.run import checkpoints, signals
from bagnet.run.checkpoint_io import Background
from bagnet.run.folder import Run
from bagnet.run.lease import Lease
from bagnet.training.classifier import BagNetClassifier
from tests.bagnet.run.fitting import fit, step

PATIENCE = 60.0


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


@pytest.fixture
def slow_disk(monkeypatch) -> None:
    """A disk that begins to write when somebody waits for it."""
    save, finish, awaited = torch.save, Background.finish, threading.Event()

    def slow_save(*arguments) -> None:
        assert awaited.wait(PATIENCE)
        awaited.clear()
        save(*arguments)

    def wait_for(background: Background) -> None:
        awaited.set()
        finish(background)
        awaited.clear()

    monkeypatch.setattr(torch, "save", slow_save)
    monkeypatch.setattr(Background, "finish", wait_for)


@pytest.mark.parametrize(("minutes", "last", "previous"), [(0.0, 16, 14), (60.0, 10, None)])
def test_a_crash_costs_no_more_than_the_minutes_between_two_saves(run, minutes, last, previous):
    with pytest.raises(RuntimeError, match="crash"):
        fit(run, minutes, At(17, crash))
    assert step(run.last) == last
    assert (step(run.previous) if run.previous.exists() else None) == previous


@pytest.mark.parametrize(
    ("asked_at", "options", "saved"),
    [
        (4, {}, 5),
        (4, {"accumulate_grad_batches": 2}, 5),
        (2, {"limit_train_batches": 3}, 3),  # the end of the epoch saves
    ],
)
def test_a_signal_saves_after_the_step_and_ends(run, asked_at, options, saved, capfd):
    with pytest.raises(signals.Stopped) as caught:
        fit(run, 60.0, At(asked_at, ask), every=100, **options)
    assert (caught.value.signal, caught.value.checkpoint) == (signal.SIGTERM, run.last)
    assert step(run.last) == saved
    assert capfd.readouterr().err.count("SIGTERM: stopping after this batch") == 1


def test_a_signal_during_a_validation_ends_it_and_the_last_step_is_repeated(run):
    seen = []

    def ask_early() -> None:
        assert not run.last.exists()  # the state before the last step is only kept
        ask()

    with pytest.raises(signals.Stopped) as caught:
        fit(run, 60.0, At(-1, ask_early, validated=3), limit_val_batches=10)
    assert caught.value.checkpoint == run.last
    assert step(run.last) == 9
    count = At(-1, lambda: seen.append("whole"), validated=10)
    fit(run, 60.0, count, limit_val_batches=10, resume=run.last)
    assert seen == ["whole"]
    assert step(run.last) == 20


def test_a_long_validation_costs_no_more_than_the_minutes_between_two_saves(run):
    class ItTakesLong(At):
        def on_validation_batch_end(self, trainer, *arguments) -> None:
            trainer.checkpoint_callback.minutes = 0.0
            super().on_validation_batch_end(trainer, *arguments)

    with pytest.raises(RuntimeError, match="crash"):
        fit(run, 60.0, ItTakesLong(-1, crash, validated=5), limit_val_batches=10)
    assert step(run.last) == 9


@pytest.mark.usefixtures("slow_disk")
def test_a_start_that_has_lost_its_lease_gives_up_and_writes_nothing_more(run):
    with pytest.raises(ValueError, match="mine was started again at .*; that process holds"):
        fit(run, 0.0, At(5, lambda: Lease(run.starts).acquire()))
    assert step(run.last) == 2  # not 4, which was being written
    assert not run.previous.exists()


class Keep(Callback):
    """Keeps the weights and the momentum before some step, and ends the run one step later."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            self.tensors = [tensor.clone() for tensor in state(trainer, pl_module)]
        if trainer.global_step == self.step + 1:
            now = state(trainer, pl_module)
            assert not any(map(torch.equal, self.tensors, now))
            crash()


def state(trainer, module) -> list[torch.Tensor]:
    weights = [weight.detach() for weight in module.parameters()]
    return weights + [
        each["momentum_buffer"] for each in trainer.optimizers[0].state_dict()["state"].values()
    ]


@pytest.mark.usefixtures("slow_disk")
def test_the_next_step_cannot_change_what_is_being_written(run):
    keep = Keep(2)
    with pytest.raises(RuntimeError, match="crash"):
        fit(run, 0.0, keep)
    saved = torch.load(run.last, weights_only=True)
    assert saved["global_step"] == 2
    names = [name for name, _ in BagNetClassifier("bagnet9", 3, width=4).named_parameters()]
    (optimizer,) = saved["optimizer_states"]
    tensors = [saved["state_dict"][name] for name in names]
    tensors += [each["momentum_buffer"] for each in optimizer["state"].values()]
    assert len(tensors) == len(keep.tensors)
    assert all(map(torch.equal, tensors, keep.tensors))


class FilesAtTheEnd(Logger):
    """Notes which step the file has when the loggers end; W&B may upload it then."""

    name = version = "files"

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run, self.ends = run, []

    def log_hyperparams(self, *arguments) -> None: ...

    def log_metrics(self, *arguments, **options) -> None: ...

    def finalize(self, status: str) -> None:
        self.ends.append((status, step(self.run.last)))


@pytest.mark.usefixtures("slow_disk")
def test_the_file_is_complete_before_the_loggers_end(run):
    logger = FilesAtTheEnd(run)
    with pytest.raises(signals.Stopped):
        fit(run, 60.0, At(5, ask), logger=logger)
    assert logger.ends == [("failed", 6)]  # what Lightning tells all loggers of the users
    logger.ends.clear()
    fit(run, 60.0, logger=logger, resume=run.last)
    assert logger.ends == [("success", 20)]


@pytest.mark.usefixtures("slow_disk")
@pytest.mark.parametrize(("minutes", "taken"), [(0.0, 12), (60.0, 4)])
def test_at_most_one_copy_is_in_memory_besides_the_one_that_is_being_written(
    run, monkeypatch, minutes, taken
):
    copies, alive, take = [], [], checkpoints.snapshot

    def count(content):
        copy = take(content)
        copies.append(weakref.ref(copy["state_dict"]["model.fc.weight"]))
        alive.append(sum(copy() is not None for copy in copies))
        return copy

    monkeypatch.setattr(checkpoints, "snapshot", count)
    fit(run, minutes, limit_val_batches=1)
    assert len(alive) == taken
    assert max(alive) == 2


@pytest.fixture
def full_disk(monkeypatch) -> None:
    def fail(*arguments) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", fail)


@pytest.mark.usefixtures("full_disk")
def test_a_failed_write_ends_the_run_at_the_next_check(run, monkeypatch):
    start = Background.start

    def start_and_fail(background: Background, *arguments) -> None:
        start(background, *arguments)
        while not background.has_failed():
            time.sleep(0.001)

    monkeypatch.setattr(Background, "start", start_and_fail)
    with pytest.raises(OSError, match="No space left on device: .*last.ckpt"):
        fit(run, 60.0, At(10, crash))  # the second epoch's first step
    assert list(run.checkpoints.iterdir()) == []


@pytest.mark.usefixtures("full_disk")
def test_what_ends_a_run_matters_more_than_a_failed_write(run, capsys):
    with pytest.raises(RuntimeError, match="crash"):
        fit(run, 0.0, At(3, crash))
    assert "last.ckpt could not be written: [Errno 28] No space left" in capsys.readouterr().err


def test_handlers_are_restored():
    before = {number: signal.getsignal(number) for number in signals.STOPPING}
    with signals.listening():
        assert signal.getsignal(signal.SIGTERM) != before[signal.SIGTERM]
    assert {number: signal.getsignal(number) for number in signals.STOPPING} == before
