"""What a run's folder remembers of W&B: the run's id there, and what was sent.

Either can be lost without harm: the run then continues as a new one in W&B, or is sent again.
"""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from bagnet.run.folder import Run
from datamodules.common.files import append_line, set_aside
from datamodules.common.reading import MAX_TEXT, read_plain


class WandbRecords:
    """Reads and writes the records of a run, in two small files in its folder.

    Args:
        run: The run.
        resuming: Whether the run is resumed; otherwise the records are those of another run.
    """

    def __init__(self, run: Run, resuming: bool) -> None:
        self._run, self._resuming = run, resuming
        self._id_file = run.folder / "wandb-id.txt"
        self._finished_file = run.folder / "wandb-finished.txt"

    def id(self) -> str:
        """The run's id in W&B, which the folder remembers; a new one unless the run is resumed."""
        if self._resuming and self._id_file.exists():
            kept = read_plain(self._id_file, MAX_TEXT).decode("utf-8", "replace").strip()
            if re.fullmatch(r"[^\s/\\#?%:\ufffd\0-\x1f]{1,128}", kept):  # what W&B takes
                return kept
            set_aside(self._id_file, "it has no id of W&B, so the run is a new one there")
        return f"{self._run.name}-{secrets.token_hex(4)}"

    def keep_id(self, run_id: str) -> None:
        """Remember the run's id in W&B, and forget what W&B has of another run or id."""
        if not self._resuming or run_id != self.id():
            self._id_file.write_text(f"{run_id}\n")
            self._finished_file.unlink(missing_ok=True)

    def last_step(self) -> int:
        """The last step in the folders that W&B has finished; -1 if there is none."""
        return max(self._finished().values(), default=-1)

    def finish(self, folder: str, step: int) -> None:
        """Note that W&B has all rows up to a step, in this folder or on its server."""
        append_line(f"{folder} {step}", self._finished_file)

    def put_unfinished_aside(self, current: Path, run_id: str) -> None:
        """Rename the offline folders of starts that were killed, as rows may be missing there.

        Args:
            current: The folder of this start; those of the others are beside it.
            run_id: The run's id in W&B.
        """
        finished = {*self._finished(), current.name}
        for file in current.parent.glob(f"offline-run-*/run-{run_id}.wandb"):
            folder = file.parent
            if folder.name not in finished:
                folder.rename(folder.with_name(f"unfinished-{folder.name}"))

    def _finished(self) -> dict[str, int]:
        """The last step in each finished folder; damaged lines are taken for unfinished folders."""
        if not self._finished_file.exists():
            return {}
        text = read_plain(self._finished_file, MAX_TEXT).decode("utf-8", "replace")
        lines = re.findall(r"^(\S+) (-?\d{1,18})$", text, re.MULTILINE)
        return {folder: int(step) for folder, step in lines}
