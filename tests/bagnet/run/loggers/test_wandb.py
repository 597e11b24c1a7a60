"""A run's history in W&B: one over all starts, complete, and never in the way of the training."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import wandb

from bagnet.run.folder import Run
from bagnet.run.lease import Lease
from bagnet.run.loggers.csv_table import CSVTable
from bagnet.run.loggers.wandb import ResumableWandbLogger
from bagnet.run.loggers.wandb_records import WandbRecords
from bagnet.run.loggers.wandb_start import location, start_run
from tests.slurm.runs import records

REPOSITORY = Path(__file__).parents[4]


class Recorder(ResumableWandbLogger):
    """Records what is sent to W&B online, which has the rows up to a step already."""

    offline = disabled = False

    def __init__(self, *arguments, has: int = -1, breaks_at: int = 999, error=None) -> None:
        super().__init__(*arguments)
        self.sent, self.starting_step, self.breaks_at = {}, has + 1, breaks_at
        self.error, self.summary = error, {}

    @property
    def experiment(self):
        return self

    def log(self, row, step, commit):
        assert commit  # or W&B would write its own summary over ours
        if step >= self.breaks_at:
            raise self.error
        assert step > max(self.sent, default=-1)
        self.sent[step] = row


@pytest.fixture
def mine(tmp_path, monkeypatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return Run("mine")


def start(run: Run, steps: range, **options) -> Recorder:
    lease = Lease(run.starts)
    table = CSVTable(run.metrics, lease)
    wandb_logger = Recorder(run, True, table, lease, **options)
    for step in steps:
        for logger in (table, wandb_logger):
            logger.log_metrics({"a": step}, step=step)
            logger.log_metrics({"b": -step}, step=step)
    return wandb_logger


def test_values_of_one_step_are_one_row_and_steps_only_rise(mine):
    assert start(mine, range(4)).sent == {step: {"a": step, "b": -step} for step in range(3)}


def test_a_resumed_run_sends_what_wandb_lacks_and_nothing_again(mine):
    start(mine, range(6))
    resumed = start(mine, range(4, 9), has=2)  # a kill: of steps 0 to 5, W&B got 0 to 2
    assert list(resumed.sent) == [3, 4, 5, 6, 7]
    assert resumed.sent[3] == {"a": 3, "b": -3}
    again = start(mine, range(5, 9), has=7)
    assert list(again.sent) == []


def test_of_a_complete_run_wandb_gets_what_the_last_start_could_not_send(mine):
    lease = Lease(mine.starts)
    table = start(mine, range(6))._table
    killed = Recorder(mine, True, table, lease, has=2)
    killed.complete()
    assert list(killed.sent) == [3, 4, 5]
    WandbRecords(mine, True).finish("offline-run-1", 5)
    whole = Recorder(mine, True, table, lease)
    whole.complete()
    assert whole.sent == {}


def test_a_row_whose_step_will_be_repeated_can_be_dropped(mine):
    logger = start(mine, range(3))
    logger.drop_from(2)
    logger.log_metrics({"a": 9}, step=9)
    assert list(logger.sent) == [0, 1]


def test_the_summary_of_a_resumed_run_has_the_best_of_all_its_starts(mine):
    lease = Lease(mine.starts)
    table = CSVTable(mine.metrics, lease)
    for step, (top1, loss) in enumerate([(0.4, 2.0), (0.7, 1.0), (0.6, 3.0)]):
        table.log_metrics({"val/top1": top1, "val/loss": loss}, step=step)
    for sends in (1, 2):  # W&B has this row already, or lacks it
        resumed = Recorder(mine, True, table, lease, has=sends)
        resumed.log_metrics({"loss": 0.5}, step=3)
        resumed.log_metrics({"val/top1": 0.5, "val/loss": 2.0}, step=4)
        resumed.finalize("failed")
        resumed.log_metrics({}, step=5)
        assert resumed.summary["val/top1"] == {"max": 0.7, "last": 0.5}
        assert resumed.summary["val/loss"] == {"min": 1.0, "last": 2.0}


def test_the_configuration_in_wandb_has_only_what_is_set(mine):
    lease = Lease(mine.starts)
    logger = ResumableWandbLogger(mine, False, CSVTable(mine.metrics, lease), lease)
    logger.log_hyperparams({"trainer": {"max_steps": -1, "profiler": None}, "seed": 0, "x": None})
    assert dict(logger.experiment.config) == {"trainer": {"max_steps": -1}, "seed": 0}


@pytest.mark.parametrize("error", [ConnectionError("gone"), SystemExit(137)])
def test_when_wandb_fails_the_training_continues(mine, capsys, error):
    logger = start(mine, range(8), breaks_at=3, error=error)
    assert list(logger.sent) == [0, 1, 2]
    said = f"W&B has failed ({error!r}); the training continues without it, and the next start"
    assert capsys.readouterr().out.count(said) == 1
    assert len(mine.metrics.read_text().splitlines()) == 1 + 8


def test_without_an_answer_from_wandb_a_run_is_kept_offline(tmp_path, monkeypatch, capsys):
    init = wandb.init

    def refuse(settings):
        if settings.mode != "offline":
            raise wandb.Error("no route\nto host")
        return init(mode="disabled")

    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(wandb, "init", refuse)
    with start_run(tmp_path) as run:
        assert location(run) == []
    assert capsys.readouterr().out == "W&B is not available (no route); working offline\n"


def test_checkpoints_are_uploaded_on_request(mine, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    mine.checkpoints.mkdir(parents=True)
    for checkpoint in (mine.best, mine.last):
        checkpoint.write_bytes(b"weights of " + checkpoint.name.encode())
    lease = Lease(mine.starts)
    for artifacts in (False, True):
        logger = ResumableWandbLogger(mine, False, CSVTable(mine.metrics, lease), lease, artifacts)
        logger.log_metrics({"loss": 1.0}, step=0)
        logger.finalize("success")
        folder = Path(logger.experiment.dir).parent
        (file,) = folder.glob("*.wandb")
        uploaded = [record.artifact for record in records(file) if record.HasField("artifact")]
        assert len(uploaded) == int(artifacts)
    (artifact,) = uploaded
    assert artifact.name == "mine"
    assert {entry.path for entry in artifact.manifest.contents} == {"best.ckpt", "last.ckpt"}


WITHOUT_A_KEY = """
from bagnet.run.loggers.csv_table import CSVTable
from bagnet.run.folder import Run
from bagnet.run.lease import Lease
from bagnet.run.loggers.wandb import ResumableWandbLogger
from bagnet.run.loggers.wandb_records import WandbRecords
from bagnet.run.loggers.wandb_start import location
run = Run("mine")
lease = Lease(run.starts)
logger = ResumableWandbLogger(run, False, CSVTable(run.metrics, lease), lease)
logger.log_metrics({"loss": 1.0}, step=0)
print(logger.experiment.id, *location(logger.experiment))
logger.finalize("success")
"""


@pytest.mark.slow
def test_without_a_key_wandb_works_offline_and_never_asks(tmp_path):
    """A real process without a terminal, an account or a home of its own, as in a batch job."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    homeless = {"HOME": "/proc/nowhere", "MPLCONFIGDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_A_KEY],
        cwd=tmp_path,
        env={**ours, **homeless, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    run_id = (tmp_path / "runs/mine/wandb-id.txt").read_text().strip()
    assert done.stdout.startswith(f"{run_id} offline; view: wandb leet runs/mine/wandb upload: ")
    assert list(tmp_path.glob(f"runs/mine/wandb/offline-run-*/run-{run_id}.wandb"))
    assert done.stderr == ""


def test_a_log_of_wandb_that_cannot_be_written_is_no_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(logging, "raiseExceptions", True)
    with start_run(tmp_path):
        handler = logging.FileHandler("/dev/full")
        handler.emit(logging.makeLogRecord({"msg": "a"}))
    assert "Traceback" not in capsys.readouterr().err
    with suppress(OSError):
        handler.close()
