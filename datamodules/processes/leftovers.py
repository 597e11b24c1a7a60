"""Removes semaphores that killed processes have left in shared memory, if no process has them.

multiprocessing removes its named semaphores through a process of its own. A kill of all processes,
as at the end of a job, kills that one, too, and about twenty files per training stay in /dev/shm
until the machine restarts.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from pathlib import Path

_NAME = re.compile(r"sem\.mp-[a-z0-9_]{8}")
"""What multiprocessing calls a semaphore: eight random characters, so it says nothing of whose."""

_ALL_PROCESSES = "pid:[4026531836]"
"""Linux's first namespace of process ids, in which a program sees all processes."""


def remove_leftovers_soon() -> None:
    """Do so in a thread: nothing waits for it."""
    threading.Thread(target=remove_leftovers, daemon=True).start()


def remove_leftovers(seconds: float = 60.0) -> int:
    """Remove this user's semaphores that no process has in its memory.

    A process that uses a semaphore has it in its memory from before the file gets its name. Nothing
    is removed if that cannot be known: in a container, whose /dev/shm others may share, or if a
    process of this user hides its memory.

    Args:
        seconds: The least age of what is removed.

    Returns:
        Number of files.
    """
    try:
        if os.readlink("/proc/self/ns/pid") != _ALL_PROCESSES:
            return 0
        old = _semaphores(seconds)
        for _ in range(2):  # a process may hand one over to another that was looked at before
            for inode in _in_memory() if old else ():
                old.pop(inode, None)
    except OSError:  # memory is hidden, or this is no Linux
        return 0
    for file in old.values():
        file.unlink(missing_ok=True)
    return len(old)


def _semaphores(seconds: float) -> dict[int, Path]:
    """This user's semaphores of at least this age, by inode."""
    found = {}
    for file in Path("/dev/shm").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it has just been removed
            status = file.stat()
            is_old = time.time() - status.st_ctime >= seconds
            if is_old and status.st_uid == os.geteuid() and _NAME.fullmatch(file.name):
                found[status.st_ino] = file
    return found


def _in_memory() -> set[int]:
    """Inodes of all files that processes of this user have in their memory.

    Raises:
        PermissionError: One of these processes hides that.
    """
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == "1":
            continue  # the system's first process, which has none and may hide its memory
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            if str(os.geteuid()) in _users(process):
                for line in (process / "maps").read_text().splitlines():
                    found.add(int(line.split(maxsplit=5)[4]))
    return found


def _users(process: Path) -> list[str]:
    """The ids of the users that a process runs as; its folder's owner may be another one."""
    status = (process / "status").read_text()
    return status.partition("\nUid:")[2].partition("\n")[0].split()
