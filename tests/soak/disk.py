"""A disk that can be filled, made read-only, taken away or slowed down while a command uses it.

It is a file system in memory, which only root can mount. Other users get a folder: then files
cannot grow beyond the room, and Python's calls that write fail as on a read-only disk.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEBIBYTES = 64
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_EVENTS = {"open": 2, "os.mkdir": None, "os.rename": None, "os.remove": None}
"""Audit events of what writes, and the argument with the flags."""


@dataclass(frozen=True)
class Disk:
    """The disk. Its methods `full`, ..., `slow` are for the process of a command.

    Args:
        place: An empty folder.
        mounted: Whether it is a file system of its own.
    """

    place: Path
    mounted: bool

    @property
    def path(self) -> Path:
        """Where commands write."""
        return self.place / "disk"

    @property
    def store(self) -> Path:
        """The same files, also while the disk is read-only or away."""
        return self.place / "store" if self.mounted else self.path

    def make(self) -> None:
        self.path.mkdir(parents=True)
        if self.mounted:
            self.store.mkdir()
            _mount("-t", "tmpfs", "-o", f"size={MEBIBYTES}m", "tmpfs", self.store)
            # What is left when the disk is away belongs to somebody else.
            _mount("-t", "tmpfs", "-o", "ro", "tmpfs", self.path)
            _mount("--bind", self.store, self.path)

    def mend(self) -> None:
        """Make it a good disk again, with the files that are still there."""
        self.filler.unlink(missing_ok=True)
        if not self.mounted:
            return
        if self.path.stat().st_dev != self.store.stat().st_dev:
            _mount("--bind", self.store, self.path)
        _mount("-o", "remount,bind,rw", self.path)

    def empty(self) -> None:
        """Remove everything from it."""
        for each in self.store.iterdir():
            shutil.rmtree(each) if each.is_dir() and not each.is_symlink() else each.unlink()

    def unmake(self) -> None:
        while self.mounted and os.path.ismount(self.path):
            _umount(self.path)
        if self.mounted:
            _umount(self.store)
        shutil.rmtree(self.place)

    @property
    def filler(self) -> Path:
        return self.store / ".filler"

    def full(self, room: int) -> None:
        """Leave `room` bytes."""
        if not self.mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
            return
        facts = os.statvfs(self.store)
        with self.filler.open("wb") as file:
            free = facts.f_bavail * facts.f_bsize
            if free > room:
                os.posix_fallocate(file.fileno(), 0, free - room)

    def read_only(self, write: int) -> None:
        """Take no more writes from the given one on, counted from 1."""
        if self.mounted:
            at_write(self.path, write, lambda: _mount("-o", "remount,bind,ro", self.path))
        else:
            at_write(self.path, write, self._refuse, once=False)

    def removed(self, write: int) -> None:
        """Remove all files before a write."""
        at_write(self.path, write, self.empty)

    def unmounted(self, write: int) -> None:
        """Take it away before a write."""
        assert self.mounted
        at_write(self.path, write, lambda: _umount(self.path))

    def slow(self, seconds: float) -> None:
        """Let each call that opens, renames or synchronizes a file wait."""
        for owner, name in (
            *((builtins, "open"), (io, "open"), (os, "open"), (os, "replace"), (os, "fsync")),
            *((os, "pread"), (os, "link")),
        ):
            setattr(owner, name, _delayed(getattr(owner, name), seconds))

    def _refuse(self) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self.path))


def at_write(folder: Path, number: int, act: Callable[[], object], once: bool = True) -> None:
    """Act before a write below a folder: the numbered one, or all from that one on."""
    count, below = 0, os.fspath(folder)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in _EVENTS or not os.path.realpath(str(arguments[0])).startswith(below):
            return
        flags = _EVENTS[event]
        if flags is not None and not arguments[flags] & _WRITES:
            return
        count += 1
        if count == number or (count > number and not once):
            act()

    sys.addaudithook(watch)


@contextlib.contextmanager
def a_disk(place: Path) -> Iterator[Disk]:
    """A good and empty disk, mounted if this user may do so."""
    for mounted in (True, False):
        disk = Disk(place, mounted)
        try:
            disk.make()
            break
        except (OSError, subprocess.CalledProcessError):
            shutil.rmtree(place)
    try:
        yield disk
    finally:
        disk.unmake()


def _mount(*words: str | Path) -> None:
    subprocess.run(("mount", *map(str, words)), check=True, capture_output=True)


def _umount(path: Path) -> None:
    subprocess.run(("umount", "--lazy", str(path)), check=True, capture_output=True)


def _delayed(function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    def wait(*arguments: Any, **options: Any) -> Any:
        time.sleep(seconds)
        return function(*arguments, **options)

    return wait
