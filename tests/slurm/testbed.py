"""A real SLURM of three nodes on this machine, and the jobs on it."""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

REPOSITORY = Path(__file__).parents[2]
SCRIPT = REPOSITORY.parent / "shared" / "slurm-testbed" / "slurm-testbed"
PATIENCE = 300.0
"""Seconds that anything may take which takes some on a machine that has nothing else to do."""

_Found = TypeVar("_Found")


def why_not() -> str | None:
    """Why there can be no testbed here."""
    if not SCRIPT.exists():
        return f"no {SCRIPT}: put the testbed there, and this runs on it"
    if os.geteuid() != 0:
        return f"{SCRIPT} must be run as root: it gives each node a hostname of its own"
    return None


def until(condition: Callable[[], _Found], what: str, told: Callable[[], str]) -> _Found:
    """Wait until `condition` is true, and return what it found.

    Args:
        condition: Is asked again and again.
        what: is waited for.
        told: What a reader wants to see when it never comes.
    """
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited for {what}\n{told()}"
        time.sleep(0.005)
    return found


class Testbed:
    """SLURM with its own folder, ports and names of nodes, so that others can run beside it.

    Its jobs are preempted by those in the partition `urgent`.

    Args:
        folder: Empty, and open to all users; for what the daemons write.
    """

    def __init__(self, folder: Path) -> None:
        self.prefix = f"t{secrets.token_hex(2)}n"
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SLURM")},
            "SLURM_TESTBED_DIR": str(folder),
            "SLURM_TESTBED_PORT": str(_free_ports(4)),
            "SLURM_TESTBED_NODES": "3",  # one to spare
            "SLURM_TESTBED_PREFIX": self.prefix,
            "SLURM_TESTBED_PARTITIONS": "debug urgent",
            "SLURM_CONF": str(folder / "slurm.conf"),
        }
        self.conf = folder / "slurm.conf"

    def up(self) -> None:
        self.script("up")
        with self.conf.open("a") as conf:
            conf.write("PreemptType=preempt/partition_prio\nPreemptMode=REQUEUE\n")
            # Lightning's port comes from the job's number: those of another process's testbed must not meet there.
            worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
            conf.write(f"FirstJobId={1000 * (worker % 9 + 1) + secrets.randbelow(900)}\n")
        self.run("scontrol", "shutdown", "slurmctld")
        until(self._is_controller_gone, "the controller to end", lambda: self.script("logs"))
        self.script("up")
        self.run("scontrol", "update", "PartitionName=urgent", "PriorityTier=10")

    def down(self) -> None:
        self.script("down", "--purge")

    def script(self, *words: str) -> str:
        return self.run(str(SCRIPT), *words)

    def run(self, *words: str, cwd: Path | None = None) -> str:
        done = subprocess.run(
            words, cwd=cwd, env=self._environment, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _is_controller_gone(self) -> bool:
        status = subprocess.run(
            [SCRIPT, "status"], env=self._environment, capture_output=True, text=True
        )
        return "slurmctld    not running" in status.stdout


@dataclass
class Job:
    """A job of a testbed; of an array, one task."""

    testbed: Testbed
    number: str
    folder: Path

    @property
    def log(self) -> Path:
        """Its output, once it has begun."""
        return next(self.folder.glob(f"slurm-*{self.number}.log"), self.folder / "no-output-yet")

    @property
    def id(self) -> str:
        """As its tasks know it; the same as the number, but for the tasks of an array."""
        return self.show()["JobId"]

    def told(self) -> str:
        """For the reader of a failure."""
        return f"{self.show()}\n{self.log.read_text() if self.log.exists() else self.log}"

    def show(self) -> dict[str, str]:
        """What SLURM knows of it."""
        line = self.testbed.run("scontrol", "show", "job", "-o", self.number)
        return dict(word.split("=", 1) for word in line.split() if "=" in word)

    @property
    def state(self) -> str:
        return self.show()["JobState"]

    @property
    def starts(self) -> int:
        return int(self.show()["Restarts"]) + 1

    def until(self, condition: Callable[[], _Found], what: str) -> _Found:
        """Wait as `until` does, but not for a job that is over."""
        look_again = 0.0

        def look() -> _Found:
            nonlocal look_again
            found = condition()
            if not found and time.monotonic() > look_again:
                look_again = time.monotonic() + 2
                over = self.state in ("FAILED", "CANCELLED", "COMPLETED", "TIMEOUT", "NODE_FAIL")
                found = condition()  # it may have become true just before the end
                assert found or not over, f"it ended before {what}\n{self.told()}"
            return found

        return until(look, what, self.told)

    def until_state(self, state: str) -> None:
        self.until(lambda: self.state == state, state)

    def until_requeued(self, starts: int) -> None:
        """Wait until it is in the queue again, after so many starts."""
        self.until(lambda: self.starts == starts + 1, f"the requeue after start {starts}")

    def tasks(self) -> dict[int, int]:
        """The processes of the training by their ranks."""
        found, number = {}, self.id
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has just ended
                words = (folder / "cmdline").read_bytes().split(b"\0")
                if b"train.py" not in words[1:2]:  # the interpreter, the script: no worker
                    continue
                environment = (folder / "environ").read_text(errors="replace").split("\0")
                if {f"SLURM_CONF={self.testbed.conf}", f"SLURM_JOB_ID={number}"} <= {*environment}:
                    variables = dict(word.split("=", 1) for word in environment if "=" in word)
                    found[int(variables["SLURM_PROCID"])] = int(folder.name)
        return found

    def freeze(self) -> list[int]:
        """Stop all its tasks where they are, and return them by rank; SLURM lets them go on with most of its signals."""
        found = self.tasks()
        kill(list(found.values()), signal.SIGSTOP)
        assert len(found) == int(self.show()["NumTasks"]), self.told()
        return [found[rank] for rank in sorted(found)]

    def preempt(self) -> None:
        """Take its nodes away, for as long as it takes it to leave them."""
        starts, job = self.starts, self.show()
        words = ["--partition=urgent", "--exclusive", "--output=/dev/null"]
        words += [f"--nodes={job['NumNodes']}", f"--nodelist={job['NodeList']}"]
        said = self.testbed.run("sbatch", "--parsable", *words, "--wrap", "sleep 600")
        urgent = Job(self.testbed, said.strip(), self.folder)
        until(lambda: urgent.state == "RUNNING", "the nodes to be free", self.told)
        self.testbed.run("scancel", urgent.number)
        assert self.starts == starts + 1, self.told()


def kill(processes: list[int], number: signal.Signals) -> None:
    for process in processes:
        os.kill(process, number)


def pending(process: int) -> set[signal.Signals]:
    """The signals that a process has got and not taken, as it is frozen."""
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{process}/status").read_text().splitlines()
        if ":\t" in line
    )
    mask = int(status["ShdPnd"], 16) | int(status["SigPnd"], 16)
    return {number for number in signal.Signals if mask >> (number - 1) & 1}


def _free_ports(count: int) -> int:
    """The first of `count` ports in a row that nobody listens on."""
    while True:
        first = 20000 + secrets.randbelow(10000)
        with suppress(OSError):
            for port in range(first, first + count):
                with socket.create_server(("127.0.0.1", port)):
                    pass
            return first
