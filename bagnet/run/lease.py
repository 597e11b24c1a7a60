"""Which start of a run may write: a file lists all of them, and the latest holds the lease.

If SLURM loses a node it starts the job again elsewhere, while the old tasks may still be running in
the same folder.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bagnet.run.provenance import git_commit, slurm_job
from datamodules.common.files import append_line
from datamodules.common.reading import MAX_TEXT, plain, read_plain


class Lease:
    """A start's right to write into its run's folder, until another start acquires it.

    Args:
        path: The run's list of starts, one line of JSON each.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._token: str | None = None
        self._length = -1  # of the list, when this lease was last seen to be held

    def acquire(self) -> dict[str, Any]:
        """Take the lease from whoever holds it, and return what the list says about this start."""
        self._token = secrets.token_hex(8)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        starts = read_plain(self.path, MAX_TEXT).splitlines() if self.path.exists() else []
        facts = {
            "start": len(starts) + 1,
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            **slurm_job(),
            "git_commit": git_commit(),
        }
        append_line(json.dumps({**facts, "token": self._token}), self.path)
        return facts

    def is_held(self) -> bool:
        """Whether no later start has acquired the lease; also true before this one has."""
        if self._token is None:
            return True
        # Network file systems look for changes when they open.
        with suppress(FileNotFoundError), open(self.path, "rb", opener=plain) as file:
            length = os.fstat(file.fileno()).st_size
            if length == self._length or _latest(file.read(MAX_TEXT)).get("token") == self._token:
                self._length = length
                return True
        return False

    def explain_loss(self) -> str:
        """Say who holds the lease now."""
        latest = latest_start(self.path)
        if not latest:
            return f"{self.path} is gone, so this process stops without writing anything more"
        job = f", job {latest['slurm_job_id']}" if "slurm_job_id" in latest else ""
        return (
            f"{self.path.parent} was started again at {latest.get('time')} (on "
            f"{latest.get('host')}{job}); that process holds the run's lease, so this one stops "
            "without writing anything more"
        )


def latest_start(path: Path) -> dict[str, Any]:
    """What a run's list says about its latest start; nothing if there is no such list."""
    with suppress(FileNotFoundError), open(path, "rb", opener=plain) as file:
        return _latest(file.read(MAX_TEXT))
    return {}


def _latest(starts: bytes) -> dict[str, Any]:
    """The latest start whose line is whole: others are damaged, or not written to their end."""
    for line in reversed(starts.splitlines()):
        with suppress(ValueError, RecursionError):
            start = json.loads(line)
            if isinstance(start, dict) and "token" in start:
                return start
    return {}
