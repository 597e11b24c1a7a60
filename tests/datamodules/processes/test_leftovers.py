"""Semaphores of killed processes are removed, and those of living ones are not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from datamodules.processes import leftovers

OWNER = """
import multiprocessing, sys
lock = multiprocessing.get_context("spawn").Lock()
print(lock._semlock.name, flush=True)
sys.stdin.read()
"""


class Owner:
    """A process that has a semaphore.

    Attributes:
        file: The semaphore's.
    """

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self.file = Path("/dev/shm", "sem." + self.process.stdout.readline().strip().lstrip("/"))

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)  # multiprocessing's own process, too
        self.process.communicate()


@pytest.fixture
def owners():
    both = [Owner(), Owner()]
    yield both
    for owner in both:
        owner.kill()
        owner.file.unlink(missing_ok=True)


@pytest.mark.skipif(
    os.readlink("/proc/self/ns/pid") != leftovers._ALL_PROCESSES,
    reason="needs to see all processes",
)
def test_only_what_no_process_has_is_removed(owners):
    dead, living = owners
    dead.kill()
    assert dead.file.exists()
    leftovers.remove_leftovers()  # is not old enough
    assert dead.file.exists()
    leftovers.remove_leftovers(seconds=0.0)
    assert not dead.file.exists()
    assert living.file.exists()


@pytest.mark.parametrize("hidden", ["namespace", "memory"])
def test_nothing_is_removed_where_processes_may_be_hidden(owners, monkeypatch, hidden):
    def hide() -> set[int]:
        raise PermissionError

    if hidden == "namespace":
        monkeypatch.setattr(leftovers, "_ALL_PROCESSES", "pid:[1]")
    else:
        monkeypatch.setattr(leftovers, "_in_memory", hide)
    owners[0].kill()
    assert leftovers.remove_leftovers(seconds=0.0) == 0
    assert owners[0].file.exists()
