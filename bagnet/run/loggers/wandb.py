"""A run's history in Weights & Biases, one over all its starts."""

from __future__ import annotations

import re
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any

import wandb
from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.utilities import rank_zero_only

from bagnet.run import signals
from bagnet.run.folder import Run
from bagnet.run.lease import Lease
from bagnet.run.loggers.csv_table import CSVTable
from bagnet.run.loggers.wandb_records import WandbRecords
from bagnet.run.loggers.wandb_start import reason, start_run

_BEST = {
    **dict.fromkeys(("val/top1", "val/top5", "val/balanced_accuracy", "val/auroc"), max),
    "val/loss": min,
}
"""Metrics whose best value is in the run's summary, beside the last."""


def _survived(method: Callable[..., None]) -> Callable[..., None]:
    """Report the first failure of W&B and leave W&B alone from then on; the training continues."""

    @wraps(method)
    def attempt(self: ResumableWandbLogger, *args: Any, **kwargs: Any) -> None:
        if self.failed:
            return
        try:
            method(self, *args, **kwargs)
        except (Exception, SystemExit) as error:  # wandb exits if its process ended badly
            if self.failed:  # while it was started for this method
                return
            # A signal from SLURM may have ended W&B's process too, which is no failure.
            if signals.received() is None:
                print(
                    f"W&B has failed ({reason(error)}); the training continues without it, and "
                    "the next start of the run sends the rest"
                )
            self.failed = True
            with suppress(Exception, SystemExit):
                wandb.teardown()

    return attempt


def _without_none(config: Any) -> Any:
    """Leave out what is not set."""
    if not isinstance(config, dict):
        return config
    return {key: _without_none(value) for key, value in config.items() if value is not None}


class ResumableWandbLogger(WandbLogger):
    """One W&B run over all starts of a run: one row for each logged step, steps rise, none missing.

    A row is sent when the next one begins. Rows that W&B lacks when the run resumes come from the
    CSV table. Online, W&B knows which ones it has. Offline, nobody knows how much of a killed
    start's file was written, so that file is put aside and its rows are sent again. If W&B fails,
    the training does not. `start_run` says which settings apply.

    Args:
        run: Has the name, the id and the folder.
        resuming: Whether the run is resumed, under its old id.
        table: All rows of the run; it must come first among the loggers.
        lease: Nothing is sent after it is lost.
        artifacts: Whether to upload the best and the last checkpoint when the training ends.

    Attributes:
        failed: Whether W&B has failed.
    """

    def __init__(
        self, run: Run, resuming: bool, table: CSVTable, lease: Lease, artifacts: bool = False
    ) -> None:
        super().__init__(name=run.name, save_dir=run.folder)
        self._run, self._resuming, self._table, self._lease = run, resuming, table, lease
        self._artifacts = artifacts
        self._records = WandbRecords(run, resuming)
        self._started: Any = None
        self._row: dict[str, Any] = {}
        self._best: dict[str, float] = {}
        self._step = self._sent = -1
        self.failed = self._finished = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The `wandb.Run`, started when it is first needed; if W&B has failed, does nothing."""
        if self._started is None:
            self._start()
        return DummyLogger().experiment if self.failed else self._started

    @_survived
    def _start(self) -> None:
        run = start_run(
            self._run.folder,
            run_name=self._run.name,
            run_id=self._records.id(),
            resume="allow",
        )
        if not run.disabled:
            # WANDB_RUN_ID or a sweep may have chosen another id.
            self._records.keep_id(run.id)
            self._records.put_unfinished_aside(Path(run.settings.sync_dir), run.id)
        for name, better in _BEST.items():
            run.define_metric(name, summary=f"{better.__name__},last")
        self._started = run

    @rank_zero_only
    @_survived
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        super().log_hyperparams(_without_none(params))

    @rank_zero_only
    @_survived
    def log_image(self, *args: Any, **kwargs: Any) -> None:
        super().log_image(*args, **kwargs)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        assert step is not None
        if self._step < 0 and self._resuming:
            self._send_missing_rows(step)
        if step != self._step:
            self._send(self._step, self._row)
            self._step, self._row = step, {}
        self._row.update(metrics)

    @rank_zero_only
    def drop_from(self, step: int) -> None:
        """Forget the row that has begun if the run will repeat its step."""
        if self._step >= step:
            self._row = {}

    @rank_zero_only
    @_survived
    def finalize(self, status: str) -> None:
        if self._finished:
            return
        if status != "failed":  # else the next start sends the last row, from the table
            self._send(self._step, self._row)
        if self._started is None or self.failed:
            return
        if self._artifacts and status == "success" and self._lease.is_held():
            self._upload_checkpoints()
        self._started.finish()
        wandb.teardown()  # waits until W&B's process has written everything
        self._finished = True
        if not self._started.disabled and self._lease.is_held():
            folder = Path(self._started.settings.sync_dir)
            self._records.finish(folder.name, self._sent)

    @rank_zero_only
    def complete(self) -> None:
        """Send what W&B lacks of a run that is complete: its last start may have been killed."""
        steps = [int(row["step"]) for row in self._table.between(-1, sys.maxsize)]
        if steps and self._records.last_step() < steps[-1]:
            self._send_missing_rows(sys.maxsize)
            self.finalize("success")

    def _upload_checkpoints(self) -> None:
        name = re.sub("[^A-Za-z0-9_.-]", "_", self._run.name)  # what W&B takes
        artifact = wandb.Artifact(name, type="model")
        for checkpoint in (self._run.best, self._run.last):
            if checkpoint.exists():
                artifact.add_file(str(checkpoint))
        self._started.log_artifact(artifact)

    @_survived
    def _send_missing_rows(self, before: int) -> None:
        run = self.experiment
        self._sent = self._records.last_step() if run.offline else run.starting_step - 1
        for row in self._table.between(-1, before):
            step = int(row.pop("step"))
            self._note_best(row)
            self._send(step, row)

    @_survived
    def _send(self, step: int, row: dict[str, Any]) -> None:
        if not row or step <= self._sent or not self._lease.is_held():
            return
        run = self.experiment
        run.log(row, step=step, commit=True)
        self._sent = step
        self._note_best(row)
        if self._resuming:  # W&B itself finds the best of this start only
            for name in _BEST.keys() & row.keys():
                best = {_BEST[name].__name__: self._best[name]}
                run.summary[name] = {**best, "last": row[name]}

    def _note_best(self, row: dict[str, Any]) -> None:
        for name in _BEST.keys() & row.keys():
            self._best[name] = _BEST[name](self._best.get(name, row[name]), row[name])
