"""A run's history in Weights & Biases, one over all its starts."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any

import wandb
from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from bagnet.run import signals
from bagnet.run.csv_table import CSVTable
from bagnet.run.folder import Run
from bagnet.run.lease import Lease

_INIT_SECONDS = 30.0
"""How long a start waits for W&B before it works offline."""

_FINISH_SECONDS = 60.0
"""How long the end waits for uploads: less than SLURM's notice. `wandb sync` sends the rest."""


def start_run(folder: Path, **options: Any) -> Any:
    """Start or resume a run of the wandb package; the only place that does.

    W&B's own variables apply (`WANDB_MODE`, `WANDB_PROJECT`, ...). With neither `WANDB_MODE` nor an
    API key the run is kept offline, and so it is if W&B does not answer. Nothing is ever asked,
    since a batch job has nobody to answer.

    Args:
        folder: Existing or not; W&B's files are written to its subfolder `wandb`.
        **options: Further arguments of `wandb.init`.

    Returns:
        A `wandb.Run`, which is a context manager.
    """
    options = {
        "project": os.environ.get("WANDB_PROJECT", "bagnet"),
        "dir": folder,
        "settings": wandb.Settings(
            console="off", silent=True, init_timeout=_INIT_SECONDS, finish_timeout=_FINISH_SECONDS
        ),
        **options,
    }
    folder.mkdir(parents=True, exist_ok=True)  # or W&B would write elsewhere
    with signals.held_back():  # from the process that W&B starts
        wandb.setup(settings=wandb.Settings(silent=True))
        mode: Any = os.environ.get("WANDB_MODE")
        # Without verify=False, it would use the network even if offline.
        if mode is None and not wandb.login(prompt=False, verify=False):
            mode = "offline"
        try:
            return wandb.init(mode=mode, **options)
        except wandb.Error as error:
            reason = str(error).splitlines()[0]
            print(f"W&B does not answer ({reason}); working offline in {folder / 'wandb'}")
            wandb.teardown()  # it still holds the run's id
            return wandb.init(mode="offline", **options)


def location(run: Any, folder: Path) -> str:
    """Where to find a run of the wandb package.

    Args:
        run: What `start_run` returned.
        folder: As given to `start_run`.

    Returns:
        The run's address or, if it is offline, the commands that show and upload it; empty if W&B
        is disabled.
    """
    if run.disabled:
        return ""
    if run.offline:
        files = folder / "wandb"
        return f"offline; view: wandb leet {files}; upload: wandb sync {files}/offline-run-*"
    return str(run.url)


def _survived(method: Callable[..., None]) -> Callable[..., None]:
    """Report the first failure of W&B and leave W&B alone from then on; the training continues."""

    @wraps(method)
    def attempt(self: ResumableWandbLogger, *args: Any) -> None:
        if self.failed:
            return
        try:
            method(self, *args)
        except Exception as error:
            # A signal from SLURM may have ended W&B's process too, which is no failure.
            if signals.received() is None:
                print(f"W&B has failed ({error!r}); the next start of the run sends the rest")
            self.failed = True
            with suppress(Exception):
                wandb.teardown()

    return attempt


class ResumableWandbLogger(WandbLogger):
    """One W&B run over all starts of a run: one row for each logged step, steps rise, none missing.

    A row is sent when the next one begins. Rows that W&B lacks when the run resumes come from the
    CSV table. Online, W&B knows which ones it has. Offline, nobody knows how much of a killed
    start's file was written, so that file is put aside and its rows are sent again. If W&B fails,
    the training does not. `start_run` says which mode applies.

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
        self._started: Any = None
        self._row: dict[str, Any] = {}
        self._step = self._sent = -1
        self.failed = self._finished = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The `wandb.Run`, started when it is first needed."""
        if self._started is None:
            run_id = self._run.wandb_id(self._resuming)
            if self._resuming:
                self._run.put_unfinished_wandb_aside()
            self._started = start_run(
                self._run.folder, name=self._run.name, id=run_id, resume="allow"
            )
        return self._started

    @rank_zero_only
    @_survived
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        super().log_hyperparams(params)

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
        if self._started is None:
            return
        if self._artifacts and status == "success" and self._lease.is_held():
            self._upload_checkpoints()
        self._started.finish()
        wandb.teardown()  # waits until W&B's process has written everything
        self._finished = True
        if self._started.offline and self._lease.is_held():
            self._run.finish_wandb(Path(self._started.dir).parent.name, self._sent)

    def _upload_checkpoints(self) -> None:
        artifact = wandb.Artifact(self._run.name, type="model")
        for checkpoint in (self._run.best, self._run.last):
            if checkpoint.exists():
                artifact.add_file(str(checkpoint))
        self._started.log_artifact(artifact)

    @_survived
    def _send_missing_rows(self, before: int) -> None:
        run = self.experiment
        self._sent = self._run.wandb_step() if run.offline else run.starting_step - 1
        for row in self._table.between(self._sent, before):
            self._send(int(row.pop("step")), row)

    @_survived
    def _send(self, step: int, row: dict[str, Any]) -> None:
        if row and step > self._sent and self._lease.is_held():
            self.experiment.log(row, step=step)
            self._sent = step
