"""What a log and a terminal show of a training."""

from __future__ import annotations

import re

import pytest
from pytorch_lightning import Callback, Trainer

from bagnet.training.monitoring import progress
from bagnet.training.monitoring.progress import Bar, Lines, progress_bar
from tests.bagnet.training.quiet import classifier, loader, quiet_trainer


class Clock(Callback):
    """Stands in for the `time` module; each batch takes ten seconds."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def on_train_batch_start(self, *arguments: object) -> None:
        self.now += 10

    def on_validation_batch_start(self, *arguments: object) -> None:
        self.now += 10


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def trainer(clock: Clock, seconds: float, **options: object) -> Trainer:
    defaults = {"max_epochs": 2, "num_sanity_val_steps": 0, "enable_progress_bar": True}
    return quiet_trainer(callbacks=[clock, Lines(seconds)], **{**defaults, **options})


def test_a_line_after_each_epoch_says_how_good_it_is_and_how_long_the_rest_takes(clock, capsys):
    trainer(clock, 1000.0).fit(classifier(), loader(4, 4, 4), loader(4))
    _, first, second = capsys.readouterr().out.splitlines()
    figures = r"validation top-1 [\d.]+%, top-5 [\d.]+%, loss [\d.]+"
    figures += r", balanced accuracy [\d.]+%, AUROC [\d.]+"
    assert re.fullmatch(rf"epoch 1/2, step 3/6: {figures}; 0:00:40 left", first)
    assert re.fullmatch(rf"epoch 2/2, step 6/6: {figures}; 0:00:00 left", second)


def test_lines_come_every_few_minutes_within_an_epoch_and_a_validation(clock, capsys):
    trainer(clock, 20.0, max_epochs=1).fit(classifier(), loader(4, 4, 4), loader(*[4] * 5))
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [re.sub(r"loss [\d.]+", "loss", line).split(": val")[0] for line in lines] == [
        "epoch 1/1, step 2/3: loss; 0:00:10 left",
        "evaluation, batch 1/5; 0:00:40 left",
        "evaluation, batch 3/5; 0:00:20 left",
        "evaluation, batch 5/5; 0:00:00 left",
        "epoch 1/1, step 3/3",
    ]


def test_an_epoch_without_validation_shows_its_loss(clock, capsys):
    options = {"check_val_every_n_epoch": 2, "max_epochs": -1, "max_steps": 6}
    trainer(clock, 1000.0, **options).fit(classifier(), loader(4, 4), loader(4))
    _, *lines = capsys.readouterr().out.splitlines()
    assert [line.split(" ")[4] for line in lines] == ["loss", "validation", "loss"]
    assert lines[0].startswith("epoch 1, step 2/6: loss ")


def test_an_evaluation_of_its_own_shows_its_batches(clock, capsys):
    trainer(clock, 30.0).validate(classifier(), loader(*[4] * 4), verbose=False)
    assert capsys.readouterr().out == "evaluation, batch 3/4; 0:00:10 left\n"


@pytest.mark.parametrize(("is_terminal", "kind"), [(True, Bar), (False, Lines)])
def test_a_terminal_has_a_bar_and_a_log_has_lines(monkeypatch, is_terminal, kind):
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal)
    assert isinstance(progress_bar(), kind)


class Notes(Bar):
    """Notes what the bar shows before each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[tuple[str, float, float]] = []

    def on_train_batch_start(self, *arguments: object) -> None:
        bar = self.train_progress_bar
        self.shown.append((bar.desc, bar.n, bar.total))


class Saver(Callback):
    """Saves a checkpoint after the second batch."""

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == 2:
            trainer.save_checkpoint(f"{trainer.default_root_dir}/second.ckpt")


def test_a_bar_that_resumes_within_an_epoch_names_it_and_counts_on(tmp_path):
    options = {"max_epochs": 1, "enable_progress_bar": True, "default_root_dir": tmp_path}
    first, second = Notes(), Notes()
    quiet_trainer(callbacks=[first, Saver()], **options).fit(classifier(), loader(4, 4, 4))
    assert first.shown[0] == ("Epoch 0: ", 0, 3)
    trainer = quiet_trainer(callbacks=[second], **options)
    trainer.fit(classifier(), loader(4, 4, 4), ckpt_path=tmp_path / "second.ckpt")
    assert second.shown == [("Epoch 0: ", 2, 3)]
