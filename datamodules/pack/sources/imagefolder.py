"""Packs folders of image files, one folder per class.

examples:
  # imagenet/ has train/ and val/, each with a folder of images per class
  python -m datamodules.pack imagefolder imagenet/ packed/

  # smaller files: the shorter side has at most 256 pixels
  python -m datamodules.pack imagefolder imagenet/ packed/ --resize 256

Makes packed/train and packed/val. RGB JPEGs keep their bytes, and all other
images become JPEGs of quality 90 (see --quality). What is no image is left
out and named, except for hidden files. After an interruption, the same
command resumes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from datamodules.common.folders import Identity, leads_nowhere, visible_entries
from datamodules.decoding.folders import LEADS_NOWHERE, ImageFiles, image_files
from datamodules.pack.classes import names_of
from datamodules.pack.options import ImageFolderOptions
from datamodules.pack.packing import pack
from datamodules.pack.sources.listing import (
    PLAIN_FILE,
    Listing,
    Problem,
    Source,
    tabulate,
    to_rows,
)
from datamodules.pack.sources.locations import SPLITS

CLASS_NAMES = "classes.tsv"


def run(options: ImageFolderOptions) -> None:
    """Run the command."""
    pack(options, [options.src], lambda *_: list_splits(options.src, options.class_names))


def list_splits(root: Path, class_names: Path | None = None) -> list[Listing]:
    """List the splits in `root`; the classes are the folder names of train.

    They are sorted as text, as torchvision's ImageFolder does it: labels of networks from elsewhere
    then mean the same here.
    """
    if not root.is_dir():
        raise ValueError(f"no such folder: {root}")
    if class_names is None and (root / CLASS_NAMES).is_file():
        class_names = root / CLASS_NAMES
    classes: tuple[str, ...] = ()
    listings = []
    for split, folder in _split_folders(root).items():
        own, stray = _class_folders(folder)
        classes = classes or own
        if extra := sorted(set(own) - set(classes)):
            raise ValueError(
                f"{folder} has {len(extra)} classes that train lacks, such as {extra[0]!r}; "
                "the class folders must have the same names in both"
            )
        # Threads, because listing a network disk is mostly waiting.
        with ThreadPoolExecutor(16) as threads:
            found = list(threads.map(image_files, (folder / name for name in own)))
            _check(found)
            labels = map(classes.index, own)
            parts = list(threads.map(partial(_rows, folder), found, labels))
        left_out = [*stray, *chain(*(files.left_out for files in found))]
        listings.append(
            Listing(
                split,
                Source(folder),
                tabulate(parts),
                classes,
                names_of(classes, class_names),
                left_out=tuple((os.path.relpath(path, folder), why) for path, why in left_out),
            )
        )
    return listings


def _split_folders(root: Path) -> dict[str, Path]:
    """The folder of each split, train first; `test` is taken if there is no validation."""
    folders: dict[str, Path] = {}
    for entry in visible_entries(root):
        split = next((split for split, names in SPLITS.items() if entry.name.lower() in names), "")
        if split and entry.is_dir():
            if split in folders:
                names = f"{folders[split].name}/ and {entry.name}/"
                raise ValueError(f"{root} has both {names}; move one of them away")
            folders[split] = Path(entry.path)
    if "val" not in folders and (root / "test").is_dir():
        folders["val"] = root / "test"
    if not folders:
        raise ValueError(
            f"{root} has neither train/ nor val/ (nor training/, valid/, validation/, test/); "
            "SRC is the folder above"
        )
    return dict(sorted(folders.items()))


def _class_folders(folder: Path) -> tuple[tuple[str, ...], list[Problem]]:
    """The names of the class folders, and what else there is."""
    entries = visible_entries(folder)
    names = tuple(entry.name for entry in entries if entry.is_dir())
    if not names:
        raise ValueError(f"{folder} has no class folders; put the images into a folder per class")
    return names, [
        (entry.path, LEADS_NOWHERE if leads_nowhere(entry) else "not in a class folder")
        for entry in entries
        if not entry.is_dir()
    ]


def _check(found: Iterable[ImageFiles]) -> None:
    """Raise a ValueError if a class has no images, or two classes have the same folder."""
    owners: dict[Identity, str] = {}
    for files in found:
        folder = next(iter(files.folders.values()), "")
        if not files.images:
            why = f" ({files.left_out[0][0]} is {files.left_out[0][1]})" if files.left_out else ""
            raise ValueError(f"the class folder {folder} has no images{why}; remove it or fill it")
        for identity, path in files.folders.items():
            if identity in owners:
                raise ValueError(
                    f"{path} and {owners[identity]} are one folder, so its images would have two "
                    "labels; remove the link"
                )
            owners[identity] = path


def _rows(folder: Path, files: ImageFiles, label: int) -> np.ndarray:
    rows = []
    for path in files.images:
        try:
            status = os.stat(path)
            size, mtime = status.st_size, status.st_mtime_ns
        except OSError:  # a dangling link: reading it later gives an error with its name
            size, mtime = 0, 0
        name = os.fsencode(os.path.relpath(path, folder))
        rows.append((PLAIN_FILE, 0, size, mtime, label, name))
    return to_rows(rows)
