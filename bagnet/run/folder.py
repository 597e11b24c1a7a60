"""A run's folder: what is where in it, and which checkpoint the run resumes from."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from datamodules.common.files import link, user_path

LONGEST_NAME = 119
"""Characters of a run's name; its id in W&B has nine more, of at most 128."""


@dataclass(frozen=True)
class Run:
    """A training run, named by its user, so that a requeued job finds its folder again.

    Attributes:
        name: Name of the folder and of the run in W&B: letters, digits, `.`, `_` and `-`.
        runs_dir: The folder that has a subfolder for each run; `--runs_dir` or `BAGNET_RUNS`.

    Raises:
        ValueError: If the name is not possible for a folder.
    """

    name: str
    runs_dir: Path = Path("runs")

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-][\w.-]*", self.name):
            raise ValueError(
                f"--name {self.name!r} cannot name a folder: use letters, digits, '.', '_' and '-'"
            )
        if len(self.name) > LONGEST_NAME:
            raise ValueError(
                f"--name of {len(self.name)} characters is too long: W&B has no place for more "
                f"than {LONGEST_NAME}"
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
        """The table of everything that was logged (`bagnet/run/loggers/csv_table.py`)."""
        return self.folder / "metrics.csv"

    @property
    def evidence(self) -> Path:
        """The latest picture of evidence (`bagnet/training/monitoring/evidence_logger.py`)."""
        return self.folder / "evidence.png"

    @property
    def trace(self) -> Path:
        """The trace of `--trainer.profiler pytorch` (`bagnet/training/monitoring/profiling.py`)."""
        return self.folder / "trace.json"

    @property
    def confusion(self) -> Path:
        """The latest confusion matrix (`bagnet/training/monitoring/confusion_logger.py`)."""
        return self.folder / "confusion.png"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def starts(self) -> Path:
        """The list of all starts of the run, the latest last (`bagnet/run/lease.py`)."""
        return self.folder / "starts.jsonl"

    @property
    def last(self) -> Path:
        """The newest checkpoint, from the end or the middle of an epoch."""
        return self.checkpoints / "last.ckpt"

    @property
    def previous(self) -> Path:
        """The newest checkpoint but one."""
        return self.checkpoints / "previous.ckpt"

    @property
    def best(self) -> Path:
        """The checkpoint of the epoch with the best validation top-1; none without validation."""
        return self.checkpoints / "best.ckpt"

    @property
    def weights(self) -> Path:
        """The checkpoint that the run stands for: the best one, or the last without validation."""
        return self.last if self.last.exists() and not self.best.exists() else self.best

    def refuse_to_overwrite(self) -> None:
        """Make sure that a new run has its folder to itself.

        Raises:
            ValueError: If the folder has a checkpoint.
        """
        if self.last.exists():
            raise ValueError(
                f"{self.folder} already holds a run: resume it (--resume auto), "
                "start another one (--name NAME), or delete the folder"
            )

    def checkpoint_to_resume(self, resume: str) -> Path | None:
        """Find the checkpoint to resume from; None starts a new training.

        Args:
            resume: A file, or `"auto"` for the run's newest undamaged checkpoint, if it has any.

        Raises:
            ValueError: If the file does not exist or is damaged, or all of the run's are damaged.
        """
        from bagnet.model.files import is_whole, require_whole  # takes a second to import

        if resume != "auto":
            path = user_path(resume)
            if not path.is_file():
                raise ValueError(f"--resume {resume}: no such file; give a checkpoint, or 'auto'")
            require_whole(path)
            return path
        candidates = [path for path in (self.last, self.previous) if path.exists()]
        for path in candidates:
            if is_whole(path):
                return path
            print(f"{path} is damaged and ignored", file=sys.stderr)
        if candidates:
            raise ValueError(f"{self.checkpoints} has no whole checkpoint; delete {self.folder}")
        return None

    def keep_previous(self) -> None:
        """Make the last checkpoint the previous one too, before a new one takes its place."""
        if self.last.exists():
            link(self.last, self.previous)
