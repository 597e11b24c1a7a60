"""Jobs on the cluster: what SLURM and their processes say about them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.slurm.cluster import Cluster, kill, until

_Found = TypeVar("_Found")


@dataclass
class Job:
    """A job, or one task of an array (then the number is `ARRAY_TASK`)."""

    cluster: Cluster
    number: str
    folder: Path

    @property
    def log(self) -> Path:
        """Its output; the file exists once the job has begun."""
        return next(self.folder.glob(f"slurm-*{self.number}.log"), self.folder / "no-output-yet")

    def told(self) -> str:
        """Explains a failure."""
        return f"{self.show()}\n{self.log.read_text() if self.log.exists() else self.log}"

    def show(self) -> dict[str, str]:
        """What SLURM knows about it."""
        line = self.cluster.run("scontrol", "show", "job", "-o", self.number)
        return dict(word.split("=", 1) for word in line.split() if "=" in word)

    @property
    def state(self) -> str:
        return self.show()["JobState"]

    @property
    def starts(self) -> int:
        return int(self.show()["Restarts"]) + 1

    def until(self, condition: Callable[[], _Found], what: str) -> _Found:
        """Wait like `until`, but fail as soon as the job has ended."""
        look_again = 0.0

        def look() -> _Found:
            nonlocal look_again
            found = condition()
            if not found and time.monotonic() > look_again:
                look_again = time.monotonic() + 2
                ended = self.state in ("FAILED", "CANCELLED", "COMPLETED", "TIMEOUT", "NODE_FAIL")
                found = condition()  # it may have become true just before the end
                assert found or not ended, f"it ended before {what}\n{self.told()}"
            return found

        return until(look, what, self.told)

    def until_state(self, state: str) -> None:
        self.until(lambda: self.state == state, state)

    def until_requeued(self, starts: int) -> None:
        """Wait until it is in the queue again after so many starts."""
        self.until(lambda: self.starts == starts + 1, f"the requeue after start {starts}")

    def tasks(self) -> dict[int, int]:
        """The process of each rank of the training."""
        # The tasks of an array have job ids of their own.
        found, job_id = {}, self.show()["JobId"]
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has just ended
                words = (folder / "cmdline").read_bytes().split(b"\0")
                if b"train.py" not in words[1:2]:  # interpreter, script: workers look different
                    continue
                environment = (folder / "environ").read_text(errors="replace").split("\0")
                if {f"SLURM_CONF={self.cluster.conf}", f"SLURM_JOB_ID={job_id}"} <= {*environment}:
                    variables = dict(word.split("=", 1) for word in environment if "=" in word)
                    found[int(variables["SLURM_PROCID"])] = int(folder.name)
        return found

    def freeze(self) -> list[int]:
        """Stop all tasks where they are, and return their processes by rank.

        SLURM continues them with most of the signals that it sends.
        """
        found = self.tasks()
        kill(list(found.values()), signal.SIGSTOP)
        assert len(found) == int(self.show()["NumTasks"]), self.told()
        return [found[rank] for rank in sorted(found)]

    def warn(self) -> None:
        """Send the warning of the time limit, to all tasks between the same two batches."""
        tasks = self.freeze()
        self.cluster.run("scancel", "--signal=USR1", self.number)
        until(
            lambda: all(signal.SIGUSR1 in pending(task) for task in tasks), "the signal", self.told
        )
        kill(tasks, signal.SIGCONT)

    def preempt(self) -> None:
        """Run an urgent job on its nodes until it has left them."""
        starts, job = self.starts, self.show()
        words = ["--partition=urgent", "--exclusive", "--output=/dev/null"]
        words += [f"--nodes={job['NumNodes']}", f"--nodelist={job['NodeList']}"]
        said = self.cluster.run("sbatch", "--parsable", *words, "--wrap", "sleep infinity")
        urgent = Job(self.cluster, said.strip(), self.folder)
        until(lambda: urgent.state == "RUNNING", "the nodes to be free", self.told)
        self.cluster.run("scancel", urgent.number)
        assert self.starts == starts + 1, self.told()


def pending(process: int) -> set[signal.Signals]:
    """The signals that a frozen process has been sent."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    mask = int(status["ShdPnd"], 16) | int(status["SigPnd"], 16)
    return {number for number in signal.Signals if mask >> (number - 1) & 1}


def written(process: int) -> int:
    """The size of the largest file that a process has open for writing."""
    sizes = [0]
    for file in Path(f"/proc/{process}/fd").iterdir():
        with suppress(OSError):  # it has just been closed
            flags = int((file.parent.with_name("fdinfo") / file.name).read_text().split()[3], 8)
            if flags & os.O_ACCMODE != os.O_RDONLY:
                sizes.append(file.stat().st_size)
    return max(sizes)
