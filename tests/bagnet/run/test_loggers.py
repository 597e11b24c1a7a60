from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bagnet.run.folder import Run
from bagnet.run.lease import Lease
from bagnet.run.loggers import CSVTable, WandbRun
from tests.slurm.runs import records

REPOSITORY = Path(__file__).parents[3]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "metrics.csv"


@pytest.fixture
def lease(tmp_path: Path) -> Lease:
    return Lease(tmp_path / "run" / "starts.jsonl")


def test_figures_of_one_step_share_a_row(path, lease):
    table = CSVTable(path, lease)
    table.log_metrics({"train/loss": 2.5, "epoch": 0}, step=4)
    table.log_metrics({"val/top1": 0.25, "epoch": 0}, step=4)
    table.log_metrics({"train/loss": 1.5, "epoch": 1}, step=9)
    table.finalize("success")
    assert rows(path) == [
        {"step": "4", "epoch": "0", "train/loss": "2.5", "val/top1": "0.25"},
        {"step": "9", "epoch": "1", "train/loss": "1.5", "val/top1": ""},
    ]


def test_a_resumed_run_goes_on_in_the_table_and_replaces_the_steps_done_again(path, lease):
    table = CSVTable(path, lease)
    for step in range(6):
        table.log_metrics({"loss": step}, step=step)
    table.finalize("failed")
    resumed = CSVTable(path, lease)  # from a checkpoint at step 3
    resumed.log_metrics({"loss": 30, "new": 1}, step=3)
    resumed.log_metrics({"loss": 40}, step=4)
    resumed.finalize("success")
    assert [(row["step"], row["loss"], row["new"]) for row in rows(path)] == [
        *(("0", "0", ""), ("1", "1", ""), ("2", "2", "")),
        *(("3", "30", "1"), ("4", "40", "")),
    ]


def test_each_figure_is_in_the_file_at_once(path, lease):
    table = CSVTable(path, lease)
    table.log_metrics({"loss": 1.0}, step=0)
    assert rows(path) == [{"step": "0", "epoch": "", "loss": "1.0"}]
    table.log_metrics({"loss": 0.5}, step=1)
    table.log_metrics({"top1": 0.25}, step=1)  # a new column, for a row that is there
    table.log_metrics({"loss": 0.25}, step=2)
    table.log_metrics({"top1": 0.5}, step=2)
    assert [(row["loss"], row["top1"]) for row in rows(path)] == [
        *(("1.0", ""), ("0.5", "0.25"), ("0.25", "0.5")),
    ]
    assert [file.name for file in path.parent.iterdir()] == ["metrics.csv"]


def test_what_a_killed_run_wrote_of_a_row_is_left_out(path, lease):
    table = CSVTable(path, lease)
    for step in range(3):
        table.log_metrics({"loss": step}, step=step)
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size - 3)
    assert table.between(-1, 9) == [{"step": 0, "loss": 0}, {"step": 1, "loss": 1}]
    CSVTable(path, lease).log_metrics({"loss": 5}, step=2)
    assert [row["loss"] for row in rows(path)] == ["0", "1", "5"]


def test_a_start_that_has_lost_its_claim_writes_no_more(path, lease):
    lease.take()
    table = CSVTable(path, lease)
    table.log_metrics({"loss": 1.0}, step=0)
    Lease(lease.path).take()
    table.log_metrics({"loss": 2.0}, step=1)
    assert [row["loss"] for row in rows(path)] == ["1.0"]


class Recorder(WandbRun):
    """What is sent to W&B online, where the run has rows up to a step."""

    offline = disabled = False

    def __init__(self, *arguments, has: int = -1, breaks_at: int = 999) -> None:
        super().__init__(*arguments)
        self.sent, self.starting_step, self.breaks_at = {}, has + 1, breaks_at

    @property
    def experiment(self):
        return self

    def log(self, row, step):
        if step >= self.breaks_at:
            raise ConnectionError("gone")
        assert step > max(self.sent, default=-1)
        self.sent[step] = row


@pytest.fixture
def mine(tmp_path, monkeypatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return Run("mine")


def start(run: Run, steps: range, **options) -> Recorder:
    lease = Lease(run.starts)
    table = CSVTable(run.metrics, lease)
    wandb = Recorder(run, True, table, lease, **options)
    for step in steps:
        for logger in (table, wandb):
            logger.log_metrics({"a": step}, step=step)
            logger.log_metrics({"b": -step}, step=step)
    return wandb


def test_figures_of_one_step_are_one_row_in_wandb_and_its_steps_only_rise(mine):
    assert start(mine, range(4)).sent == {step: {"a": step, "b": -step} for step in range(3)}


def test_a_resumed_run_sends_what_wandb_lacks_and_nothing_again(mine):
    start(mine, range(6))
    resumed = start(mine, range(4, 9), has=2)  # it was killed: of steps 0 to 5, W&B got 0 to 2
    assert list(resumed.sent) == [3, 4, 5, 6, 7]
    assert resumed.sent[3] == {"a": 3, "b": -3}
    again = start(mine, range(5, 9), has=7)
    assert list(again.sent) == []


def test_a_row_of_a_step_that_is_done_again_can_be_dropped(mine):
    wandb = start(mine, range(3))
    wandb.drop_from(2)
    wandb.log_metrics({"a": 9}, step=9)
    assert list(wandb.sent) == [0, 1]


def test_when_wandb_fails_the_training_goes_on(mine, capsys):
    wandb = start(mine, range(8), breaks_at=3)
    assert list(wandb.sent) == [0, 1, 2]
    assert capsys.readouterr().out.count("W&B has failed (ConnectionError('gone'))") == 1
    assert len(rows(mine.metrics)) == 8


def test_checkpoints_are_given_to_wandb_when_asked_for(mine, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    mine.checkpoints.mkdir(parents=True)
    for checkpoint in (mine.best, mine.last):
        checkpoint.write_bytes(b"weights of " + checkpoint.name.encode())
    lease = Lease(mine.starts)
    for artifacts in (False, True):
        logger = WandbRun(mine, False, CSVTable(mine.metrics, lease), lease, artifacts)
        logger.log_metrics({"loss": 1.0}, step=0)
        logger.finalize("success")
        folder = Path(logger.experiment.dir).parent
        (file,) = folder.glob("*.wandb")
        given = [record.artifact for record in records(file) if record.HasField("artifact")]
        assert len(given) == int(artifacts)
    (artifact,) = given
    assert artifact.name == "mine"
    assert {entry.path for entry in artifact.manifest.contents} == {"best.ckpt", "last.ckpt"}


def test_without_a_key_wandb_goes_offline_and_never_asks(tmp_path):
    """A real process without a terminal, an account or a home: as in a batch job."""
    code = (
        "from bagnet.run.lease import Lease; from bagnet.run.folder import Run; "
        "from bagnet.run.loggers import CSVTable, WandbRun; run = Run('mine'); lease = Lease(run.starts); "
        "logger = WandbRun(run, False, CSVTable(run.metrics, lease), lease); "
        "logger.log_metrics({'loss': 1.0}, step=0); "
        "print('offline', logger.experiment.offline, logger.experiment.id); "
        "logger.finalize('success')"
    )
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("WANDB")
    } | {"HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.strip().splitlines()
    run_id = (tmp_path / "runs/mine/wandb-id.txt").read_text().strip()
    assert line == f"offline True {run_id}"
    assert list(tmp_path.glob(f"runs/mine/wandb/offline-run-*/run-{run_id}.wandb"))
    assert "wandb:" not in done.stderr
