"""A run: its folder, what lies where in it, and which checkpoint it goes on from."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from pathlib import Path

RUNS = Path("runs")
"""Where the folders of all runs are, below the working directory."""


@dataclass(frozen=True)
class Run:
    """A training run, named by its user and never by the clock, so that a requeued job finds its folder again.

    Attributes:
        name: Letters, digits, ``.``, ``_`` and ``-``; it names the folder and the run in W&B.

    Raises:
        ValueError: A name that cannot be a folder's.
    """

    name: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-][\w.-]*", self.name):
            raise ValueError(
                f"--run {self.name!r} cannot name a folder: use letters, digits, '.', '_' and '-'"
            )

    @property
    def folder(self) -> Path:
        return RUNS / self.name

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
    def last(self) -> Path:
        """The checkpoint of the last epoch."""
        return self.checkpoints / "last.ckpt"

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
                "start another one (--run NAME), or delete the folder"
            )

    def checkpoint_to_resume(self, resume: str) -> Path | None:
        """The checkpoint that a training goes on from, or None to start anew.

        Args:
            resume: ``"auto"`` for the run's last checkpoint, if it has one, or a file.

        Raises:
            ValueError: A file that does not exist.
        """
        if resume == "auto":
            return self.last if self.last.exists() else None
        if not Path(resume).is_file():
            raise ValueError(f"--resume {resume}: no such file; give a checkpoint, or 'auto'")
        return Path(resume)

    def wandb_id(self, resuming: bool) -> str:
        """The id of the run in W&B: kept in the folder, and the same until the run starts anew."""
        file = self.folder / "wandb-id.txt"
        if not (resuming and file.exists()):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{self.name}-{secrets.token_hex(4)}\n")
        return file.read_text().strip()
