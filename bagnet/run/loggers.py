"""Where the figures go: always to a CSV file in the run's folder, and to W&B."""

from __future__ import annotations

import csv
import io
import os
from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any

import wandb
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_only

from bagnet.run import signals
from bagnet.run.folder import Run
from bagnet.run.lease import Lease

_FINISH_SECONDS = 60.0
"""How long the end of a training waits for uploads: less than SLURM's notice. What is left, `wandb sync` sends."""

_INIT_SECONDS = 30.0
"""How long its beginning waits for W&B."""


class CSVTable(Logger):
    """One ``metrics.csv`` for the whole life of a run: a row a logged step, a column a figure, steps only rise.

    Lightning's CSVLogger deletes the file when a run is resumed. This one goes on in it, from the step that the run was
    resumed at: rows of steps that are now done again are dropped. Each figure is in the file when ``log_metrics`` returns.

    Args:
        path: The file.
        lease: Once another start has claimed the run, nothing more is written.
    """

    def __init__(self, path: Path, lease: Lease) -> None:
        super().__init__()
        self.path, self._lease = path, lease
        self._columns: list[str] = []
        self._row: dict[str, Any] = {}
        self._begin = 0  # of the last row, in bytes

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    def between(self, after: int, before: int) -> list[dict[str, float]]:
        """The rows of the steps between these two, without them."""
        return [
            {column: float(value) for column, value in row.items()}
            for row in self._read()
            if after < int(row["step"]) < before
        ]

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """The configuration is beside the table, in ``config.yaml``."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        assert step is not None
        if not self._lease.holds():
            return
        if not self._row:
            self._rewrite([row for row in self._read() if int(row["step"]) < step], metrics)
        if self._row.get("step") != step:
            self._row = {"step": step}
            self._begin = self.path.stat().st_size
        self._row.update(metrics)
        if not self._row.keys() <= set(self._columns):
            self._rewrite(self._read(before=self._begin), self._row)
        self._write_row()

    def _write_row(self) -> None:
        """Put the last row in the place of what it was."""
        text = io.StringIO(newline="")
        csv.DictWriter(text, self._columns).writerow(self._row)
        with self.path.open("r+b") as file:
            file.seek(self._begin)
            file.write(text.getvalue().encode())
            file.truncate()

    def _rewrite(self, rows: list[dict[str, Any]], columns: Mapping[str, Any]) -> None:
        """Write another table in the file's place, with columns for these figures too."""
        named = {column for row in rows for column in row} | columns.keys()
        self._columns = ["step", "epoch", *sorted(named - {"step", "epoch"})]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".csv.tmp")
        with unfinished.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)
        os.replace(unfinished, self.path)
        self._begin = self.path.stat().st_size

    def _read(self, before: int | None = None) -> list[dict[str, Any]]:
        """The whole rows (which a killed run's last one may not be), of so many bytes."""
        if not self.path.exists():
            return []
        whole, _, _ = self.path.read_bytes()[:before].rpartition(b"\n")
        return [
            {column: value for column, value in row.items() if value}
            for row in csv.DictReader(io.StringIO(whole.decode(), newline=""))
        ]


def _outlived(method: Callable[..., None]) -> Callable[..., None]:
    """What W&B does not survive is told once, and the training goes on."""

    @wraps(method)
    def attempt(self: WandbRun, *args: Any) -> None:
        if self.failed:
            return
        try:
            method(self, *args)
        except Exception as error:
            # SLURM's signals may end its process too, and then there is nothing to tell.
            if not self.failed and signals.received() is None:
                print(f"W&B has failed ({error!r}); the next start of the run sends it the rest")
            self.failed = True
            with suppress(Exception):
                wandb.teardown()

    return attempt


class WandbRun(WandbLogger):
    """A run's one history in W&B, over all its starts: a row a logged step, steps only rise, none is missing.

    A row is sent when the next one begins, and what is missing at a start comes from the table. Online, W&B says what it
    has. Offline, a start that was killed leaves a file of which nobody knows how much was written: it is put aside, and its
    rows are sent again. Where W&B fails in any way, the training does not.

    W&B's own variables (WANDB_MODE, WANDB_PROJECT, ...) rule it. Where neither WANDB_MODE nor an API key is set it works
    offline and asks nothing, and so it does where W&B does not answer.

    Args:
        run: Its name is that in W&B.
        resuming: Whether the run goes on, under its old id.
        table: All rows of the run; it comes first among the loggers.
        lease: Once another start has claimed the run, nothing more is sent.
        artifacts: Whether the end of the training uploads the best and the last checkpoint.

    Attributes:
        failed: Whether W&B has, and is left alone since.
    """

    def __init__(
        self, run: Run, resuming: bool, table: CSVTable, lease: Lease, artifacts: bool = False
    ) -> None:
        super().__init__(name=run.name, save_dir=run.folder)
        self._run, self._resuming, self._table, self._lease = run, resuming, table, lease
        self._artifacts = artifacts
        self._started: Any = None
        self._row: dict[str, Any] = {}
        self._step = self._sent = -1
        self.failed = self._finished = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run of the wandb package."""
        if self._started is None:
            with signals.held_back():  # from W&B's own process
                self._started = self._start()
        return self._started

    def _start(self) -> Any:
        # Its news are in the lines of `callbacks/summary.py`.
        wandb.setup(settings=wandb.Settings(silent=True))
        settings = wandb.Settings(
            console="off",
            silent=True,
            init_timeout=_INIT_SECONDS,
            finish_timeout=_FINISH_SECONDS,
        )
        options: dict[str, Any] = {
            "name": self._run.name,
            "dir": self._run.folder,
            "id": self._run.wandb_id(self._resuming),
            "resume": "allow",
            "project": os.environ.get("WANDB_PROJECT", "bagnet"),
            "settings": settings,
        }
        mode: Any = os.environ.get("WANDB_MODE")
        # prompt=False: a batch job has nobody to answer. verify=False: no network before the training.
        if mode is None and not wandb.login(prompt=False, verify=False):
            mode = "offline"
        if self._resuming:
            self._run.put_unfinished_wandb_aside()
        try:
            return wandb.init(mode=mode, **options)
        except wandb.Error as error:
            reason = str(error).splitlines()[0]
            print(f"W&B does not answer ({reason}); this start of the run is kept offline")
            wandb.teardown()  # it holds the run's id
            return wandb.init(mode="offline", **options)

    @rank_zero_only
    @_outlived
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        super().log_hyperparams(params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        assert step is not None
        if self._step < 0 and self._resuming:
            self._send_what_is_missing(step)
        if step != self._step:
            self._send(self._step, self._row)
            self._step, self._row = step, {}
        self._row.update(metrics)

    @rank_zero_only
    def drop_from(self, step: int) -> None:
        """Forget the row that has begun, if the run is going to do its step again."""
        if self._step >= step:
            self._row = {}

    @rank_zero_only
    @_outlived
    def finalize(self, status: str) -> None:
        if self._finished:
            return
        if status != "failed":  # or the next start sends the last row, from the table
            self._send(self._step, self._row)
        if self._started is None:
            return
        if self._artifacts and status == "success" and self._lease.holds():
            self._upload_checkpoints()
        self._started.finish()
        wandb.teardown()  # waits until its process has written all
        self._finished = True
        if self._started.offline and self._lease.holds():
            self._run.finish_wandb(Path(self._started.dir).parent.name, self._sent)

    def _upload_checkpoints(self) -> None:
        artifact = wandb.Artifact(self._run.name, type="model")
        for checkpoint in (self._run.best, self._run.last):
            if checkpoint.exists():
                artifact.add_file(str(checkpoint))
        self._started.log_artifact(artifact)

    @_outlived
    def _send_what_is_missing(self, before: int) -> None:
        run = self.experiment
        self._sent = self._run.wandb_step() if run.offline else run.starting_step - 1
        for row in self._table.between(self._sent, before):
            self._send(int(row.pop("step")), row)

    @_outlived
    def _send(self, step: int, row: dict[str, Any]) -> None:
        if row and step > self._sent and self._lease.holds():
            self.experiment.log(row, step=step)
            self._sent = step


def offline_commands(run: Run) -> tuple[str, str]:
    """What shows, and what uploads, a run that W&B holds on disk."""
    folder = run.folder / "wandb"
    return f"wandb leet {folder}", f"wandb sync {folder}/offline-run-*"
