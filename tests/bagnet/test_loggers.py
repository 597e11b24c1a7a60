from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bagnet.loggers import CSVTable

REPOSITORY = Path(__file__).parents[2]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "metrics.csv"


def test_figures_of_one_step_share_a_row(path):
    table = CSVTable(path)
    table.log_metrics({"train/loss": 2.5, "epoch": 0}, step=4)
    table.log_metrics({"val/top1": 0.25, "epoch": 0}, step=4)
    table.log_metrics({"train/loss": 1.5, "epoch": 1}, step=9)
    table.finalize("success")
    assert rows(path) == [
        {"step": "4", "epoch": "0", "train/loss": "2.5", "val/top1": "0.25"},
        {"step": "9", "epoch": "1", "train/loss": "1.5", "val/top1": ""},
    ]


def test_a_resumed_run_goes_on_in_the_table_and_replaces_the_steps_done_again(path):
    table = CSVTable(path)
    for step in range(6):
        table.log_metrics({"loss": step}, step=step)
    table.finalize("failed")
    resumed = CSVTable(path)  # from a checkpoint at step 3
    resumed.log_metrics({"loss": 30, "new": 1}, step=3)
    resumed.log_metrics({"loss": 40}, step=4)
    resumed.finalize("success")
    assert [(row["step"], row["loss"], row["new"]) for row in rows(path)] == [
        *(("0", "0", ""), ("1", "1", ""), ("2", "2", "")),
        *(("3", "30", "1"), ("4", "40", "")),
    ]


def test_a_reader_never_sees_half_a_table(path):
    table = CSVTable(path)
    table.log_metrics({"loss": 1.0}, step=0)
    table.save()
    assert rows(path)[0]["loss"] == "1.0"  # written at once while it is short
    assert [file.name for file in path.parent.iterdir()] == ["metrics.csv"]


def test_without_a_key_wandb_goes_offline_and_never_asks(tmp_path):
    """A real process without a terminal, an account or a home: as in a batch job."""
    code = (
        "from bagnet.loggers import wandb_logger; from bagnet.runs import Run; "
        "logger = wandb_logger(Run('mine'), resuming=False); "
        "logger.log_metrics({'loss': 1.0}, step=0); "
        "print('offline', logger.experiment.offline, logger.experiment.id); "
        "logger.experiment.finish()"
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
