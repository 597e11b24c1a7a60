"""Complete, verified copies of shards in a folder of this node, within a limit of bytes.

All processes of a node share the folder, and agree through nothing but the folder:

* `SHA256.tar` is a complete copy: its bytes had this hash when it got this name.
* `SHA256-SIZE.part` is a download. Its writer holds its lock. The system releases the lock of a
  process that dies, and the next writer resumes where that one stopped.
* `.lock` is held briefly, to create and remove names. A download gets its name only when there is
  room for all of its bytes. So the limit always holds, and a download that has room never waits for
  more: no deadlock.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from datamodules.common.errors import DISK_FULL
from datamodules.common.files import locked
from datamodules.remote import sources
from datamodules.remote.sources import BLOCK, SourceError
from datamodules.remote.urls import is_remote, redacted

_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMPLETE = re.compile(r"[0-9a-f]{64}\.tar")
_PART = re.compile(r"[0-9a-f]{64}-([0-9]+)\.part")
_RESOLUTION = 10.0  # seconds; the time of the last use is not written more often


@dataclass(frozen=True)
class ShardCache:
    """Opens shards as local files, and fetches those that are not there yet.

    The least recently used copies make room for new ones. An open file outlives its removal, so
    callers open a shard for each read; files kept open would take space beyond the limit.
    """

    folder: Path  # for this user only, on a local disk that all ranks of the node share
    limit: int  # the most bytes of complete copies, and of downloads at their final size
    delays: Sequence[float] = sources.DELAYS  # seconds between the attempts to fetch a shard
    timeout: float = sources.TIMEOUT  # seconds without a byte after which an attempt has failed
    local: bool = False  # copy shards with a path too, because it leads to a slow shared disk

    def serves(self, location: str) -> bool:
        """Whether a shard is read from a copy in the cache instead of in place."""
        return self.local or is_remote(location)

    def open(self, location: str, size: int, sha256: str) -> int:
        """Open a shard, after fetching it if necessary.

        Waits while another process fetches it, or while downloads have reserved all room.

        Args:
            location: Where the shard is, see `open_source`.
            size: Its length in bytes.
            sha256: Its hash, 64 hexadecimal digits.

        Returns:
            A read-only file descriptor, which the caller closes.

        Raises:
            ValueError: The hash is not one, the shard is larger than the limit, the folder cannot
                be written or belongs to another user, or nothing installed opens the location.
            SourceError: The last attempt failed, or failed in a way that another cannot mend.
            OSError: The local disk fails, for example because it is full.
        """
        sha256 = sha256.lower()
        if not _SHA256.fullmatch(sha256):  # it becomes a path, and manifests come from anywhere
            raise ValueError(f"{sha256!r} is not a sha256 of 64 hexadecimal digits")
        path = f"{self.folder}/{sha256}.tar"
        file = _open_complete(path, size)
        return self._fetch(location, size, sha256) if file is None else file

    def fetch(self, location: str, size: int, sha256: str) -> Path:
        """Like `open`, but return the path, which the next download may remove again."""
        os.close(self.open(location, size, sha256))
        return self.folder / f"{sha256.lower()}.tar"

    def _fetch(self, location: str, size: int, sha256: str) -> int:
        if size > self.limit:
            raise ValueError(
                f"a shard of {size:,} bytes does not fit into the cache {self.folder}, which is "
                f"limited to {self.limit:,}; give it more with --data.cache_gib"
            )
        self.make_folder()
        path, part = self.folder / f"{sha256}.tar", self.folder / f"{sha256}-{size}.part"
        while True:
            with self._names():
                file = _open_complete(path, size)
                if file is not None:
                    return file
                path.unlink(missing_ok=True)  # it has another size, so it was damaged
                lock = self._reserve(part, size)
            if isinstance(lock, Path):
                _wait_for(lock)
                continue
            try:
                with os.fdopen(lock, "r+b") as data:
                    download = partial(self._download, data, location, size, sha256)
                    sources.with_retries(download, self.delays)
                    os.fsync(data.fileno())  # the name promises a hash, even after a power cut
                    with self._names():
                        os.replace(part, path)
                        return os.open(path, os.O_RDONLY)
            except OSError as error:  # closing writes what is in the buffer, and may fail, too
                if error.errno not in DISK_FULL:
                    raise
                limit = f"the cache may take {self.limit:,} bytes (--data.cache_gib)"
                raise OSError(error.errno, f"{error.strerror}; {limit}", str(part)) from None

    def _download(self, part: BinaryIO, location: str, size: int, sha256: str) -> None:
        """Make one attempt, which resumes after the bytes of earlier ones."""
        part.seek(0)
        digest = hashlib.sha256()
        while block := part.read(BLOCK):
            digest.update(block)
        if part.tell() < size:
            with sources.open_source(location, part.tell(), size, self.timeout) as source:
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
            cause = f"its sha256 is {digest.hexdigest()[:12]}... and not {sha256[:12]}..."
            raise SourceError(redacted(location), cause)

    def _reserve(self, part: Path, size: int) -> int | Path:
        """Reserve room for a download: its locked file; or the path of one that must end first."""
        if part.exists():
            lock = _try_lock(part)
            if lock is None:
                return part
            self._make_room(0)  # the limit may have been higher when the download began
            return lock
        busy = self._make_room(size)
        if busy is not None:
            return busy
        lock = os.open(part, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        return lock

    def _make_room(self, size: int) -> Path | None:
        """Delete copies until there is room; or return a download that must end first."""
        files = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                part = _PART.fullmatch(entry.name)
                if part or _COMPLETE.fullmatch(entry.name):
                    facts = entry.stat()
                    length = int(part[1]) if part else facts.st_size
                    files.append((facts.st_mtime, length, Path(entry.path)))
        excess = sum(length for _, length, _ in files) + size - self.limit
        busy = None
        for _, length, path in sorted(files):
            if excess <= 0:
                return None
            if path.suffix == ".part":  # abandoned, if its lock is free
                lock = _try_lock(path)
                if lock is None:
                    busy = path
                    continue
                os.close(lock)
            path.unlink(missing_ok=True)
            excess -= length
        return busy if excess > 0 else None

    def _names(self) -> contextlib.AbstractContextManager[None]:
        """Hold the right to create, rename and delete files of the folder."""
        return locked(self.folder / ".lock")

    def make_folder(self) -> None:
        """Make the folder, and make sure that copies can be written there.

        Raises:
            ValueError: They cannot, or the folder belongs to another user.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600))
            owner = self.folder.stat().st_uid
        except OSError as error:
            raise ValueError(
                f"the cache folder {self.folder} cannot be written ({error.strerror}); give "
                "another --data.cache_dir"
            ) from None
        if owner != os.getuid():
            raise ValueError(
                f"the cache folder {self.folder} belongs to another user (uid {owner}), who could "
                "change its files; give a folder of your own"
            )


def _open_complete(path: str | Path, size: int) -> int | None:
    """Open a copy and record the use; None if there is none of this size."""
    try:
        file = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
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
    """Wait until a download has ended, with or without success."""
    with contextlib.suppress(FileNotFoundError), open(part, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
