"""Whole, verified copies of shards in a folder of this node, within a limit of bytes.

All processes of a node share the folder, and need nothing but the folder to agree:

* ``SHA256.tar`` is a complete copy: its bytes had this hash when it got this name.
* ``SHA256-SIZE.part`` is a download. Whoever writes it holds its lock, and the system releases the
  lock of a process that dies; the next one goes on where that one stopped.
* ``.lock`` is held for moments, to give names and to take them away. A download gets its name only
  when there is room for all of its bytes, so the limit holds at any time, and who has been given
  room never waits for more: nobody can wait for ever.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from datamodules.remote.sources import (
    BLOCK,
    DELAYS,
    TIMEOUT,
    SourceError,
    open_source,
    with_retries,
)
from datamodules.remote.urls import is_remote, name_for_people

_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMPLETE = re.compile(r"[0-9a-f]{64}\.tar")
_PART = re.compile(r"[0-9a-f]{64}-([0-9]+)\.part")
_RESOLUTION = 10.0  # seconds; the time of the last use is written this often at most


@dataclass(frozen=True)
class ShardCache:
    """Opens shards as local files, and fetches those that are not there yet.

    The copies used least recently make room for new ones. A file that is open survives that, so
    callers open a shard for each read, or keep it open and pay with space beyond the limit.

    Attributes:
        folder: Made for this user only; on a local disk that all ranks of the node share.
        limit: Bytes, of complete copies and of downloads at their final size.
        delays: Seconds between the attempts to fetch a shard.
        timeout: Seconds without a byte after which an attempt has failed.
        local: Whether shards with a path are copied too: it may lead to a slow disk that nodes share.
    """

    folder: Path
    limit: int
    delays: Sequence[float] = DELAYS
    timeout: float = TIMEOUT
    local: bool = False

    def serves(self, location: str) -> bool:
        """Whether a shard is read from a copy in here, and not in place."""
        return self.local or is_remote(location)

    def open(self, location: str, size: int, sha256: str) -> int:
        """A read-only file descriptor of the shard, for the caller to close; fetches if need be.

        Waits while another process fetches the same shard, or while all room is promised to
        downloads.

        Args:
            location: Where the shard is to be had, for `open_source`.
            size: Its length, bytes.
            sha256: Its hash, 64 hexadecimal digits.

        Raises:
            ValueError: The folder belongs to another user, no hash, a shard that is larger than the limit, or nothing installed that
                opens the location.
            SourceError: The last attempt failed, or one that no other could better.
            OSError: The local disk, for example a full one.
        """
        sha256 = sha256.lower()
        if not _SHA256.fullmatch(sha256):  # it becomes a path, and manifests come from anywhere
            raise ValueError(f"{sha256!r} is no sha256: 64 hexadecimal digits")
        path = f"{self.folder}/{sha256}.tar"
        file = _open_complete(path, size)
        return self._fetch(location, size, sha256) if file is None else file

    def fetch(self, location: str, size: int, sha256: str) -> Path:
        """As `open`, but for the path, which the next download may take away again."""
        os.close(self.open(location, size, sha256))
        return self.folder / f"{sha256.lower()}.tar"

    def _fetch(self, location: str, size: int, sha256: str) -> int:
        if size > self.limit:
            raise ValueError(
                f"a shard of {size:,} bytes does not fit into the cache {self.folder}, which is "
                f"limited to {self.limit:,}; give it more with --data.cache_gib"
            )
        self._make_folder()
        path, part = self.folder / f"{sha256}.tar", self.folder / f"{sha256}-{size}.part"
        while True:
            with self._names():
                file = _open_complete(path, size)
                if file is not None:
                    return file
                path.unlink(missing_ok=True)  # of another size: it was damaged
                lock = self._claim(part, size)
            if isinstance(lock, Path):
                _wait_for(lock)
                continue
            with os.fdopen(lock, "r+b") as data:
                with self._disk_errors(part):
                    attempt = partial(self._download, data, location, size, sha256)
                    with_retries(attempt, self.delays)
                    os.fsync(data.fileno())  # the name promises a hash, also after a power cut
                with self._names():
                    os.replace(part, path)
                    return os.open(path, os.O_RDONLY)

    def _download(self, part: BinaryIO, location: str, size: int, sha256: str) -> None:
        """One attempt, which goes on from what the ones before have left."""
        part.seek(0)
        digest = hashlib.sha256()
        while block := part.read(BLOCK):
            digest.update(block)
        if part.tell() < size:
            with open_source(location, part.tell(), size, self.timeout) as source:
                if source.tell() == 0:
                    part.seek(0)
                    part.truncate()
                    digest = hashlib.sha256()
                while block := source.read(BLOCK):
                    part.write(block)
                    digest.update(block)
            part.flush()
        if digest.hexdigest() != sha256:
            part.seek(0)
            part.truncate()
            raise SourceError(
                name_for_people(location),
                f"its sha256 is {digest.hexdigest()[:12]}... and not {sha256[:12]}...",
            )

    @contextmanager
    def _disk_errors(self, part: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            text = f"{error.strerror}; the cache may take {self.limit:,} bytes (--data.cache_gib)"
            raise OSError(error.errno, text, str(part)) from None

    def _claim(self, part: Path, size: int) -> int | Path:
        """The part, with its lock and room for all of it; or a part that must end before."""
        if part.exists():
            lock = _try_lock(part)
            if lock is None:
                return part
            self._make_room(0)  # the limit may have been higher when it was begun
            return lock
        busy = self._make_room(size)
        if busy is not None:
            return busy
        lock = os.open(part, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        return lock

    def _make_room(self, size: int) -> Path | None:
        """Delete until there is room; or name a download that has to end first."""
        files = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                part = _PART.fullmatch(entry.name)
                if part or _COMPLETE.fullmatch(entry.name):
                    facts = entry.stat()
                    files.append(
                        (facts.st_mtime, int(part[1]) if part else facts.st_size, Path(entry.path))
                    )
        excess = sum(length for _, length, _ in files) + size - self.limit
        busy = None
        for _, length, path in sorted(files):
            if excess <= 0:
                return None
            if path.suffix == ".part":  # nobody's, if its lock is free
                lock = _try_lock(path)
                if lock is None:
                    busy = path
                    continue
                os.close(lock)
            path.unlink(missing_ok=True)
            excess -= length
        return busy if excess > 0 else None

    @contextmanager
    def _names(self) -> Iterator[None]:
        """The right to make, rename and delete files of the folder."""
        lock = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            # A process that was forked meanwhile has the descriptor too; closing is not enough.
            fcntl.flock(lock, fcntl.LOCK_UN)
            os.close(lock)

    def _make_folder(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = self.folder.stat().st_uid
        if owner != os.getuid():
            raise ValueError(
                f"the cache folder {self.folder} belongs to another user (uid {owner}), who could "
                "change what is read from it; give a folder of your own"
            )


def _open_complete(path: str | Path, size: int) -> int | None:
    """Open a copy and remember the use; None where there is none of this size."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    facts = os.fstat(file)
    if facts.st_size != size:
        os.close(file)
        return None
    if time.time() - facts.st_mtime > _RESOLUTION:  # not atime: many disks do not keep it
        os.utime(file)
    return file


def _try_lock(part: Path) -> int | None:
    lock = os.open(part, os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _wait_for(part: Path) -> None:
    """Until its download has ended, well or not."""
    try:
        lock = os.open(part, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
    finally:
        os.close(lock)
