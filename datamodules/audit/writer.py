"""Records what a rank trains on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FACTS = ("num_samples", "global_batch", "accumulate", "seed", "dataset")
"""What a header says besides session, rank and world size: the same in all sessions of a run."""


def file_name(session: int, rank: int) -> str:
    """Name of the file of a rank in a session."""
    return f"{session}-rank{rank:05d}.jsonl"


class AuditWriter:
    """Appends one line per step to a rank's own file.

    The first record creates the folder and the file, because Lightning builds loaders that it never
    iterates. A second writer of the same session and rank continues the same file.

    Args:
        folder: Folder of all sessions and ranks of a run.
        session: Number of this start of the run: the same on all ranks, higher with each restart.
        rank: Rank of this process.
        world_size: Number of ranks.
        facts: A value for each of `FACTS`; `dataset` is the manifest's digest.
    """

    def __init__(
        self, folder: Path, session: int, rank: int, world_size: int, facts: Mapping[str, Any]
    ) -> None:
        assert set(facts) == set(FACTS)
        self.path = folder / file_name(session, rank)
        self._header = {"session": session, "rank": rank, "world_size": world_size, **facts}
        self._descriptor: int | None = None

    def record(
        self, epoch: int, step: int, ids: Sequence[int], unreadable: Sequence[int] = ()
    ) -> None:
        """Record a batch that is handed to the training loop.

        It is one unbuffered write, so a record survives a SIGKILL of this process.

        Args:
            epoch: Epoch, counted from 0.
            step: Global batch of the epoch, counted from 0.
            ids: Sample ids of this rank's part of the batch.
            unreadable: Those of them that could not be read, so the loss ignores them.

        Raises:
            OSError: The file cannot be written.
        """
        line: dict[str, Any] = {"epoch": epoch, "step": step, "ids": list(ids)}
        if unreadable:
            line["unreadable"] = list(unreadable)
        data = _encode(line)
        try:
            if self._descriptor is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
                self._descriptor = os.open(self.path, flags, 0o666)
                if os.fstat(self._descriptor).st_size == 0:
                    data = _encode(self._header) + data
            while data:  # a disk that is nearly full takes only a part
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            raise OSError(
                error.errno,
                f"cannot record what is trained ({error.strerror}); make room and resume, or "
                "train without --data.audit_dir",
                str(self.path),
            ) from None

    def close(self) -> None:
        """Close the file. A record opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _encode(line: Mapping[str, Any]) -> bytes:
    return (json.dumps(line, separators=(",", ":")) + "\n").encode()
