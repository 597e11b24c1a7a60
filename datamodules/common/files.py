"""Files that appear complete or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from datamodules.common.errors import DISK_FULL


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, and rename it to `path` when it has been written.

    At any moment, `path` is the old file or the new one, whole, even if the machine loses power.
    After an exception the old file is still there and the temporary one is not. If the process is
    killed, the temporary file stays until the next write of `path` on the same host. Several
    processes may write the same path at once. Missing folders are made.

    Args:
        path: The file to write or replace.

    Yields:
        Where to write it: on the same file system, with the same suffix.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    temporary = path.with_name(f"{_prefix(path)}{os.getpid()}.tmp{path.suffix}")
    try:
        # A killed process with our number may have left a link to another file there.
        temporary.unlink(missing_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename in (None, temporary, str(temporary)):  # of no use to people
            error.filename, error.filename2 = str(path), None
        raise
    except RuntimeError as error:  # torch.save hides a full disk behind an error of its own
        hidden = error.__context__
        if not isinstance(hidden, OSError) or hidden.errno not in DISK_FULL:
            raise
        raise OSError(hidden.errno, hidden.strerror, str(path)) from None
    finally:
        with contextlib.suppress(OSError):  # read-only now, or gone: the error above says it
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`, and rename it to `path` when all is written.

    After an exception, nothing is left; if the process is killed, the temporary folder. Missing
    folders above are made.

    Args:
        path: A folder that does not exist, or is empty.

    Raises:
        ValueError: There is something already.
    """
    if os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"{path} exists, and is no empty folder: give a new one, or move it away")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(
            ".tmp", _prefix(path), path.parent, ignore_cleanup_errors=True
        ) as temporary:
            folder = Path(temporary, "new")
            folder.mkdir()  # with the usual rights, unlike the temporary one
            yield folder
            os.replace(folder, path)
    except OSError as error:
        if str(error.filename).startswith(str(path.with_name(_prefix(path)))):  # of no use
            error.filename = str(path)
        raise


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until no other process has this lock, and hold it.

    Args:
        path: A file for the lock alone; it is made, and stays.

    Raises:
        OSError: The file cannot be written, or its file system has no locks.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        # A child forked in the meantime has the descriptor too, so closing is not enough.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)


def user_path(text: str | Path) -> Path:
    """A path as people write it, with `~` and variables such as `$HOME`: no shell sees those in a
    config, or after the `=` of a flag.

    Raises:
        ValueError: A variable is not set.
    """
    if os.path.exists(text):  # its name may have a dollar
        return Path(text)
    path = os.path.expanduser(os.path.expandvars(text))
    if unset := re.search(r"\$(\w+|\{\w+\})", path):
        raise ValueError(f"the path {text} has the variable {unset[0]}, which is not set")
    return Path(path)


def write_text(text: str, path: Path) -> None:
    """Write a text file in UTF-8; see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let errors in this context name the file: those of writes and of closing do not."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def append_line(line: str, path: Path) -> None:
    """Append a line to a text file, on a line of its own even if a kill has cut the last one."""
    with naming(path), path.open("ab+") as file:
        if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
            line = f"\n{line}"
        file.write(f"{line}\n".encode())


def set_aside(path: Path, reason: str) -> None:
    """Rename a damaged file, in case somebody can read it, and say so on stderr."""
    kept = path.with_suffix(f".damaged{path.suffix}")
    os.replace(path, kept)
    print(f"{path} is damaged ({reason}); it is kept as {kept.name}", file=sys.stderr)


def link(source: Path, path: Path) -> None:
    """Give a file a second name, as `replacing` does; a copy if there can be no hard link."""
    with replacing(path) as temporary:
        try:
            os.link(source, temporary)
        except OSError:  # the file system has none
            shutil.copyfile(source, temporary)


def _prefix(path: Path) -> str:
    # The host is part of the name because on a shared file system, a process id alone says nothing.
    return f".{path.stem}.{socket.gethostname()}."


def _remove_leftovers(path: Path) -> None:
    """Remove what processes of this host left behind when they were killed writing `path`."""
    prefix, suffix = _prefix(path), f".tmp{path.suffix}"
    for leftover in path.parent.glob(f"{glob.escape(prefix)}*{glob.escape(suffix)}"):
        process = leftover.name[len(prefix) : -len(suffix)]
        if process.isdigit() and not _is_alive(int(process)):
            leftover.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's
    return True
