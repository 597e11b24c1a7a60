"""Who trains a run: each start is written down, and only the latest may go on writing.

After a node was lost, SLURM starts its job again elsewhere while the old tasks may still live. Both have the same folder.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bagnet.run import slurm
from bagnet.run.provenance import git_commit


class Lease:
    """This start's lease to a run, against those of other starts.

    Args:
        path: The run's list of starts, a line of JSON each.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._token: str | None = None
        self._length = -1  # of the list, when it was ours

    def take(self) -> dict[str, Any]:
        """Lease the run from now on, and return what is written down about this start."""
        self._token = secrets.token_hex(8)
        facts = {
            "start": self._number_of_starts() + 1,
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            **slurm.facts(),
            "git_commit": git_commit(),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps({**facts, "token": self._token}) + "\n")
        return facts

    def holds(self) -> bool:
        """Whether no later start has claimed the run; true before this one has."""
        if self._token is None:
            return True
        with self.path.open("rb") as file:  # opened anew: that is when network file systems look
            length = os.fstat(file.fileno()).st_size
            if length != self._length and json.loads(file.readlines()[-1])["token"] != self._token:
                return False
        self._length = length
        return True

    def lost(self) -> str:
        """What to say when it does not hold any more."""
        with self.path.open() as file:
            later = json.loads(file.readlines()[-1])
        job = f", job {later['slurm_job_id']}" if "slurm_job_id" in later else ""
        return (
            f"{self.path.parent} was started again at {later['time']} (on {later['host']}{job}), and that start goes on "
            "with it; this one stops, and has written nothing since"
        )

    def _number_of_starts(self) -> int:
        return len(self.path.read_text().splitlines()) if self.path.exists() else 0
