"""Finds and reads the images of a folder, and says why it leaves other files out."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from PIL import Image

from datamodules.common.folders import Identity, files_below, leads_nowhere, natural_key
from datamodules.common.reading import read_plain
from datamodules.decoding.images import FORMATS, MAX_BYTES, PNG, UnreadableImage

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
"""How the names of images usually end, in lower case. Of other files, the content decides."""

NOT_AN_IMAGE = "not an image in a format that is read: JPEG, PNG, GIF, BMP, TIFF, WebP, PPM"
LEADS_NOWHERE = "a link that leads nowhere"

MAX_NAMED = 10
"""The most files of a folder that are left out by name."""

Seen = TypeVar("Seen")


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


def list_images(root: Path) -> tuple[list[Path], list[str]]:
    """List the images below a folder, sorted by name.

    Returns:
        The images, and notes for the user about other files.

    Raises:
        ValueError: There are none, or a folder cannot be listed.
    """
    paths, left_out, _ = image_files(root)
    if not paths:
        why = f" ({left_out[0][0]} is {left_out[0][1]})" if left_out else ""
        raise ValueError(
            f"{root} has no images{why}: give a folder of images, or of class folders with images"
        )
    notes = [f"left out {path} ({reason})" for path, reason in left_out[:MAX_NAMED]]
    if len(left_out) > MAX_NAMED:
        notes.append(f"left out {len(left_out) - MAX_NAMED:,} more files")
    return [Path(path) for path in sorted(paths, key=natural_key)], notes


def read_image(path: Path, transform: Callable[[bytes], Seen]) -> Seen:
    """Read what a transform gives of an image file.

    Raises:
        ValueError: The file cannot be read, or the image cannot be decoded to its end.
    """
    try:
        return transform(read_plain(path, MAX_BYTES))
    except UnreadableImage as error:
        raise ValueError(f"{path} cannot be read as an image ({error})") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error})") from error


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
