"""A run: its folder, what lies where in it, and which checkpoint it goes on from."""

from __future__ import annotations

import os
import re
import secrets
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """A training run, named by its user and never by the clock, so that a requeued job finds its folder again.

    Attributes:
        name: Letters, digits, ``.``, ``_`` and ``-``; it names the folder and the run in W&B.
        runs_dir: The folder of all runs, in which this one has its own; `--runs_dir` or BAGNET_RUNS.

    Raises:
        ValueError: A name that cannot be a folder's.
    """

    name: str
    runs_dir: Path = Path("runs")

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-][\w.-]*", self.name):
            raise ValueError(
                f"--name {self.name!r} cannot name a folder: use letters, digits, '.', '_' and '-'"
            )

    @property
    def folder(self) -> Path:
        return self.runs_dir / self.name

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.folder / "config.yaml"

    @property
    def metrics(self) -> Path:
        """The table of everything that was logged."""
        return self.folder / "metrics.csv"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def starts(self) -> Path:
        """The list of all starts of the run, the latest last (``bagnet/run/lease.py``)."""
        return self.folder / "starts.jsonl"

    @property
    def last(self) -> Path:
        """The newest checkpoint, of an epoch's end or amid one."""
        return self.checkpoints / "last.ckpt"

    @property
    def previous(self) -> Path:
        """The one before it."""
        return self.checkpoints / "previous.ckpt"

    @property
    def best(self) -> Path:
        """The checkpoint of the epoch with the best validation top-1."""
        return self.checkpoints / "best.ckpt"

    def refuse_to_overwrite(self) -> None:
        """Make sure that a new run has its folder to itself.

        Raises:
            ValueError: The folder has a checkpoint of another one.
        """
        if self.last.exists():
            raise ValueError(
                f"{self.folder} already holds a run: go on with it (--resume auto), "
                "start another one (--name NAME), or delete the folder"
            )

    def checkpoint_to_resume(self, resume: str) -> Path | None:
        """The checkpoint that a training goes on from, or None to start anew.

        Args:
            resume: ``"auto"`` for the run's newest checkpoint that is whole, if it has one, or a file.

        Raises:
            ValueError: A file that does not exist or is damaged, or no whole one among the run's.
        """
        if resume != "auto":
            if not Path(resume).is_file():
                raise ValueError(f"--resume {resume}: no such file; give a checkpoint, or 'auto'")
            if not is_whole(Path(resume)):
                raise ValueError(f"--resume {resume}: the file is damaged; give another one")
            return Path(resume)
        candidates = [path for path in (self.last, self.previous) if path.exists()]
        for path in candidates:
            if is_whole(path):
                return path
            print(f"{path} is damaged and left out", file=sys.stderr)
        if candidates:
            raise ValueError(f"{self.checkpoints} has no whole checkpoint; delete {self.folder}")
        return None

    def keep_previous(self) -> None:
        """Give the last checkpoint the name of the one before; a new one is about to be written."""
        if self.last.exists():
            new = self.previous.with_suffix(".link")
            new.unlink(missing_ok=True)
            os.link(self.last, new)  # it has both names until the new one takes the first
            os.replace(new, self.previous)

    def wandb_id(self, resuming: bool) -> str:
        """The id of the run in W&B: kept in the folder, and the same until the run starts anew."""
        file = self.folder / "wandb-id.txt"
        if not (resuming and file.exists()):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{self.name}-{secrets.token_hex(4)}\n")
            self._wandb_finished.unlink(missing_ok=True)
        return file.read_text().strip()

    def wandb_step(self) -> int:
        """The last step in the finished folders of W&B's offline mode; -1 where there is none."""
        return max((int(step) for _, step in self._finished_in_wandb()), default=-1)

    def finish_wandb(self, folder: str, step: int) -> None:
        """Remember that a folder of W&B's offline mode is complete, up to a step."""
        with self._wandb_finished.open("a") as file:
            file.write(f"{folder} {step}\n")

    def put_unfinished_wandb_aside(self) -> None:
        """Rename those folders of W&B's offline mode whose start was killed: part of their rows may not be there."""
        finished = {folder for folder, _ in self._finished_in_wandb()}
        for path in (self.folder / "wandb").glob("offline-run-*"):
            if path.name not in finished:
                path.rename(path.with_name(f"unfinished-{path.name}"))

    @property
    def _wandb_finished(self) -> Path:
        return self.folder / "wandb-finished.txt"

    def _finished_in_wandb(self) -> list[list[str]]:
        file = self._wandb_finished
        return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def is_whole(checkpoint: Path) -> bool:
    """Whether every byte of a checkpoint is as it was written; reads all of it."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError, EOFError):
        return False
