"""Folders of files as people have them: with links, hidden files, and no permission to look."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

Identity = tuple[int, int]
"""Device and number of a folder, which are the same for all links to it."""


class Files(NamedTuple):
    """What is below a folder.

    Attributes:
        entries: All files.
        repeated: Paths of folders that are not read again, each with what it is a link to.
        folders: Path of each folder that was read.
    """

    entries: list[os.DirEntry[str]]
    repeated: list[tuple[str, str]]
    folders: dict[Identity, str]


def files_below(root: str | Path) -> Files:
    """List the files below a folder, also through links, but for hidden ones.

    Each folder is read once, whatever links lead to it, and nothing above `root` is read.

    Raises:
        ValueError: A folder cannot be listed.
    """
    found = Files([], [], {})
    above = {_identity(folder) for folder in Path(os.path.realpath(root)).parents}
    waiting = [str(root)]
    while waiting:
        folder = waiting.pop()
        identity = _identity(folder)
        if identity in above or identity in found.folders:
            found.repeated.append((folder, found.folders.get(identity, "a folder above it")))
            continue
        found.folders[identity] = folder
        entries = visible_entries(folder)
        found.entries.extend(entry for entry in entries if not entry.is_dir())
        # Links are read last, so that a folder is listed under its own name.
        inner = [entry for entry in entries if entry.is_dir()]
        inner.sort(key=lambda entry: not entry.is_symlink())
        waiting += [entry.path for entry in inner]
    return found


def visible_entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """What is in a folder and not hidden, sorted by name.

    Raises:
        ValueError: It cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise ValueError(
            f"the folder {folder} cannot be listed ({error.strerror}); make it readable, or move "
            "it away"
        ) from None
    return sorted(visible, key=lambda entry: entry.name)


def leads_nowhere(entry: os.DirEntry[str]) -> bool:
    """Whether it is a link to nothing."""
    return entry.is_symlink() and not os.path.exists(entry.path)


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sorts numbers in names by their value: `2.jpg` before `10.jpg`."""
    parts = re.split(r"([0-9]{1,18})", name)
    return [int(part) if at % 2 else part for at, part in enumerate(parts)], name


def _identity(folder: str | Path) -> Identity:
    status = os.stat(folder)
    return status.st_dev, status.st_ino
