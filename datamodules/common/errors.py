"""Errors that more than one package raises or handles, and warnings. Imports nothing heavy."""

from __future__ import annotations

import errno
import os
import re
import sys
import warnings
from pathlib import Path
from typing import TextIO

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""`errno` of an `OSError` that says a file cannot grow: full disk, quota, limit on file size."""
_NOT_WRITABLE = "give a place where you may write"
_AWAY = "see whether it was removed, or its disk unmounted"
REMEDIES = {
    **dict.fromkeys(DISK_FULL, "make room and run the same command again"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), _NOT_WRITABLE),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "give a folder, or move it away"),
    errno.EISDIR: "give a file",
    errno.ENAMETOOLONG: "give a shorter name",
    **dict.fromkeys((errno.ENOENT, errno.ESTALE, errno.ENODEV, errno.ENOTCONN), _AWAY),
    errno.EIO: "see whether its disk is sound",
    errno.ENXIO: "give a file, or remove it",
    errno.ELOOP: "remove the links that lead in a circle",
}
"""What a user can do about an `OSError`, by its `errno`."""


class ReadingEnded(ValueError):
    """A process that reads the data has ended, or was ended because it hung; nothing is wrong with
    the command, which can be given again."""


def explain(error: OSError) -> str:
    """Say what an error of the file system means: the path, the cause, and what to do."""
    path = error.filename2 or error.filename or ""
    cause = error.strerror or str(error)
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        file = next((each for each in (Path(path), *Path(path).parents) if each.is_file()), None)
        path, cause = (file, "is a file, and not a folder") if file else (path, cause)
    # Ours may have a remedy already, after a semicolon.
    remedy = "" if ";" in cause else REMEDIES.get(error.errno or 0, "")
    return f"{path}: " * bool(path) + cause + f"; {remedy}" * bool(remedy)


def too_little_memory(error: Exception) -> str | None:
    """Say in a few words that an allocation failed; None for any other error.

    torch has a class of its own for GPUs, and for CPUs only a text.
    """
    is_of_gpu = type(error).__name__ == "OutOfMemoryError"
    if not (is_of_gpu or isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)):
        return None
    place = "the GPU" if is_of_gpu else "this machine"
    found = re.search(r"to allocate ([\d.]+) (\w+)", str(error))
    if found is None:
        return f"{place} has too little memory"
    number, unit = found.groups()
    amount = f"{int(number) / 2**30:,.1f} GiB" if unit == "bytes" else f"{number} {unit}"
    return f"{place} has too little memory to allocate {amount}"


def told(message: str) -> str:
    """What a user reads of an error: one line without passwords, whatever a name in it has."""
    from datamodules.remote.urls import redacted_text

    return redacted_text(printable(" ".join(line.strip() for line in message.splitlines())))


def printable(text: str) -> str:
    """Replace what would make another line, colour a terminal, or split a column of a table."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def warn_in_one_line(quietly: bool = False) -> None:
    """From now on, print warnings as errors are printed, without the place in the code.

    It is `warnings.showwarning` that is replaced: Lightning sets `formatwarning` when imported.

    Args:
        quietly: Do not print them; for a process beside which another one prints the same.
    """

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not quietly:
            print(f"warning: {told(str(message))}", file=file or sys.stderr)

    warnings.showwarning = show


def reader_left() -> int:
    """End without a word after whoever reads the output has left, as `head` and `grep -q` do.

    Returns:
        The exit code, that of a program that SIGPIPE ended.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is in the buffer
    return 141


class SampleError(ValueError):
    """A sample that cannot be used: the data is at fault, not the code.

    Its shard is missing or cut short, its bytes are not those in the manifest, it is not a complete
    image or has too many pixels, or it has no valid label.

    Args:
        sample_id: Its number in the manifest.
        key: Its name.
        shard: Path or URL of its shard, without secrets.
        cause: What is wrong with it.
    """

    def __init__(self, sample_id: int, key: str, shard: str, cause: str) -> None:
        super().__init__(sample_id, key, shard, cause)  # all of them, for pickle
        self.sample_id, self.key, self.shard, self.cause = sample_id, key, shard, cause

    def __str__(self) -> str:
        return f"cannot read sample {self.key!r} of {self.shard}: {self.cause}"
