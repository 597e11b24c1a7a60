"""Files from outside are read only if they are plain ones, and never beyond a bound."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

MAX_TEXT = 1 << 30
"""Largest text that is read, in bytes; a table of ImageNet-21k's 14 million images fits."""
MAX_MANIFEST = 1 << 28
"""Largest `manifest.json`, here and on servers, in bytes."""


def require_plain(path: str | Path) -> None:
    """Refuse what may have no end: a pipe may never begin, and /dev/zero never ends.

    Raises:
        OSError: There is nothing there, or a pipe, a device or a socket.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # folders have an error of their own
        raise OSError(errno.ENXIO, "not a plain file, but a pipe or a device", str(path))


def plain(path: str | Path, flags: int = os.O_RDONLY) -> int:
    """Open a file that has an end, for `open(path, "rb", opener=plain)`.

    Returns:
        The file descriptor.

    Raises:
        OSError: It cannot be opened, or is no plain file.
    """
    require_plain(path)
    return os.open(path, flags)


def read_plain(path: Path, most: int) -> bytes:
    """Read a plain file whole.

    Args:
        path: The file.
        most: The largest size, in bytes. A larger file is refused before it is read.

    Raises:
        OSError: It cannot be opened, or is no plain file.
        ValueError: It is larger.
    """
    with open(path, "rb", opener=plain) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(most + 1) if size <= most else b""  # it may grow, as files of /proc do
    if max(size, len(data)) > most:
        raise ValueError(f"{path} has more than {most:,} bytes")
    return data
