"""Where the figures go: always to a CSV file in the run's folder, and to W&B."""

from __future__ import annotations

import csv
import os
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from bagnet.runs import Run


class CSVTable(Logger):
    """One ``metrics.csv`` for the whole life of a run: a row a logged step, a column a figure, steps only rise.

    Lightning's CSVLogger deletes the file when a run is resumed. This one goes on in it, from the step that the run was
    resumed at: rows of steps that are now done again are dropped.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._rows: list[dict[str, Any]] | None = None
        self._next_write = 0.0

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """The configuration is beside the table, in ``config.yaml``."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        assert step is not None
        if self._rows is None:
            self._rows = [row for row in self._read() if int(row["step"]) < step]
        if not self._rows or int(self._rows[-1]["step"]) != step:
            self._rows.append({"step": step})
        self._rows[-1].update(metrics)

    @rank_zero_only
    def save(self) -> None:
        """Write the table, unless that was done so recently that a long table would slow the training down."""
        if self._rows and time.monotonic() >= self._next_write:
            begin = time.monotonic()
            self._write(self._rows)
            self._next_write = time.monotonic() + 20 * (time.monotonic() - begin)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._rows:
            self._write(self._rows)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        """Write to a temporary file and put it in the old one's place."""
        columns = sorted({column for row in rows for column in row} - {"step", "epoch"})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".csv.tmp")
        with unfinished.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["step", "epoch", *columns])
            writer.writeheader()
            writer.writerows(rows)
        os.replace(unfinished, self.path)

    def _read(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return [
                {column: value for column, value in row.items() if value}
                for row in csv.DictReader(file)
            ]


def wandb_logger(run: Run, resuming: bool) -> WandbLogger:
    """The W&B run of ``run``; W&B's own variables (WANDB_MODE, WANDB_PROJECT, ...) rule it.

    Where neither WANDB_MODE nor an API key is set, it works offline and asks nothing.
    """
    # Its news are in the lines of `callbacks/summary.py`.
    wandb.setup(settings=wandb.Settings(silent=True))
    mode = os.environ.get("WANDB_MODE")
    # prompt=False: a batch job has nobody to answer. verify=False: no network before the training.
    if mode is None and not wandb.login(prompt=False, verify=False):
        mode = "offline"
    return WandbLogger(
        name=run.name,
        save_dir=run.folder,
        id=rank_zero_only(run.wandb_id)(resuming),
        project=os.environ.get("WANDB_PROJECT", "bagnet"),
        mode=mode,
        settings=wandb.Settings(console="off", silent=True),
    )


def offline_commands(run: Run) -> tuple[str, str]:
    """What shows, and what uploads, a run that W&B holds on disk."""
    folder = run.folder / "wandb"
    return f"wandb leet {folder}", f"wandb sync {folder}/offline-run-*"
