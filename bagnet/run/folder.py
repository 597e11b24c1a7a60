"""A run's folder: what is where in it, and which checkpoint the run resumes from."""

from __future__ import annotations

import re
import secrets
import sys
import zipfile
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
        if resume != "auto":
            path = user_path(resume)
            if not path.is_file():
                raise ValueError(f"--resume {resume}: no such file; give a checkpoint, or 'auto'")
            if not is_whole(path):
                raise ValueError(f"--resume {resume}: the file is damaged; give another one")
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

    def wandb_id(self, resuming: bool) -> str:
        """The run's id in W&B, which the folder remembers; a new one unless the run is resumed."""
        if resuming and self._wandb_id.exists():
            return self._wandb_id.read_text().strip()
        return f"{self.name}-{secrets.token_hex(4)}"

    def keep_wandb_id(self, run_id: str, resuming: bool) -> None:
        """Remember the run's id in W&B, and forget what W&B has of another run or id."""
        if not resuming or run_id != self.wandb_id(resuming):
            self._wandb_id.write_text(f"{run_id}\n")
            self._wandb_finished.unlink(missing_ok=True)

    def wandb_step(self) -> int:
        """The last step in the finished folders of W&B's offline mode; -1 if there is none."""
        return max((int(step) for _, step in self._finished_in_wandb()), default=-1)

    def finish_wandb(self, folder: str, step: int) -> None:
        """Note that a folder of W&B's offline mode has all rows up to a step."""
        with self._wandb_finished.open("a") as file:
            file.write(f"{folder} {step}\n")

    def put_unfinished_wandb_aside(self, current: Path) -> None:
        """Rename the offline folders of starts that were killed, as rows may be missing there.

        Args:
            current: The folder of this start; those of the others are beside it.
        """
        finished = {folder for folder, _ in self._finished_in_wandb()} | {current.name}
        for file in current.parent.glob(f"offline-run-*/run-{self.wandb_id(resuming=True)}.wandb"):
            folder = file.parent
            if folder.name not in finished:
                folder.rename(folder.with_name(f"unfinished-{folder.name}"))

    @property
    def _wandb_id(self) -> Path:
        return self.folder / "wandb-id.txt"

    @property
    def _wandb_finished(self) -> Path:
        return self.folder / "wandb-finished.txt"

    def _finished_in_wandb(self) -> list[list[str]]:
        file = self._wandb_finished
        return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def is_whole(checkpoint: Path) -> bool:
    """Whether the checksums of a checkpoint match; reads all of it."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError, EOFError):
        return False
