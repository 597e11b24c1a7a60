"""Finds the images of a folder, and says why it leaves other files out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from datamodules.common.folders import Identity, files_below, leads_nowhere
from datamodules.decoding.images import FORMATS, PNG

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
"""How the names of images usually end, in lower case. Of other files, the content decides."""

NOT_AN_IMAGE = "not an image in a format that is read: JPEG, PNG, GIF, BMP, TIFF, WebP, PPM"
LEADS_NOWHERE = "a link that leads nowhere"


class ImageFiles(NamedTuple):
    """What is below a folder.

    Attributes:
        images: Paths of the images.
        left_out: Path of each other file, and of links to what is read already; and why.
        folders: Path of each folder that was read, by its identity.
    """

    images: list[str]
    left_out: list[tuple[str, str]]
    folders: dict[Identity, str]


def image_files(root: str | Path) -> ImageFiles:
    """Find the images below a folder; see `files_below`.

    Raises:
        ValueError: A folder cannot be listed.
    """
    files = files_below(root)
    reasons = [(entry.path, _why_not(entry)) for entry in files.entries]
    return ImageFiles(
        [path for path, reason in reasons if not reason],
        [(path, reason) for path, reason in reasons if reason]
        + [(path, f"a link to {other}") for path, other in files.repeated],
        files.folders,
    )


def _why_not(entry: os.DirEntry[str]) -> str:
    """Why a file is no image; empty if it is one, though perhaps a damaged one."""
    named = entry.name.lower().endswith(SUFFIXES)
    if not entry.is_file() and not (named and leads_nowhere(entry)):
        return LEADS_NOWHERE if leads_nowhere(entry) else "not a file"
    if named:
        return ""  # reading it may give an error with its name
    try:
        with open(entry.path, "rb") as file:
            if file.read(len(PNG)) != PNG:  # PIL refuses some that are read nevertheless
                Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError:
        return ""
    except Exception as error:  # PIL's plugins raise any exception
        return getattr(error, "strerror", None) or NOT_AN_IMAGE
    return ""
