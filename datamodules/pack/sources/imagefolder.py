"""Packs folders of image files, one folder per class.

examples:
  # imagenet/ has train/ and val/, each with a folder of images per class
  python -m datamodules.pack imagefolder imagenet/ packed/

  # smaller files: the shorter side has at most 256 pixels
  python -m datamodules.pack imagefolder imagenet/ packed/ --resize 256

Makes packed/train and packed/val. After an interruption, the same command
resumes.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from datamodules.decoding.images import SUFFIXES
from datamodules.pack.classes import names_of, read_class_names
from datamodules.pack.options import ImageFolderOptions
from datamodules.pack.packing import pack
from datamodules.pack.sources.listing import PLAIN_FILE, Listing, Source, tabulate, to_rows

SPLITS = {"train": ("train",), "val": ("val", "validation", "test")}
CLASS_NAMES = "classes.tsv"


def run(options: ImageFolderOptions) -> None:
    """Run the command."""
    pack(options, [options.src], lambda *_: _list_splits(options.src, options.class_names))


def _list_splits(root: Path, class_names: Path | None) -> list[Listing]:
    """List the splits in `root`; the classes are the sorted folder names of train."""
    if not root.is_dir():
        raise ValueError(f"no such folder: {root}")
    if class_names is None and (root / CLASS_NAMES).is_file():
        class_names = root / CLASS_NAMES
    names = read_class_names(class_names) if class_names else {}
    folders = {
        split: folder
        for split, candidates in SPLITS.items()
        if (folder := next((root / n for n in candidates if (root / n).is_dir()), None))
    }
    if not folders:
        raise ValueError(
            f"{root} has neither train/ nor val/ (nor validation/, test/); SRC is the folder above"
        )
    classes: tuple[str, ...] = ()
    listings = []
    for split, folder in folders.items():
        own = _subfolders(folder)
        classes = classes or own
        if extra := sorted(set(own) - set(classes)):
            raise ValueError(
                f"{folder} has {len(extra)} classes that train lacks, such as {extra[0]!r}; "
                "the class folders must have the same names in both"
            )
        # Threads, because listing a network disk is mostly waiting.
        with ThreadPoolExecutor(16) as threads:
            parts = list(threads.map(partial(_class_files, folder, classes), own))
        if empty := [name for name, part in zip(own, parts, strict=True) if not len(part)]:
            raise ValueError(
                f"the class folder {folder / empty[0]} has no images; remove it or fill it"
            )
        source = Source(folder)
        listings.append(Listing(split, source, tabulate(parts), classes, names_of(classes, names)))
    return listings


def _subfolders(folder: Path) -> tuple[str, ...]:
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    if not names:
        raise ValueError(f"{folder} has no class folders; put the images into a folder per class")
    return tuple(names)


def _class_files(folder: Path, classes: tuple[str, ...], name: str) -> np.ndarray:
    label = classes.index(name)
    rows = []
    for parent, children, files in os.walk(folder / name, followlinks=True):
        children[:] = [child for child in children if not child.startswith(".")]
        for file in files:
            if file.startswith(".") or not file.lower().endswith(SUFFIXES):
                continue
            path = os.path.join(parent, file)
            try:
                status = os.stat(path)
                size, mtime = status.st_size, status.st_mtime_ns
            except OSError:  # a dangling link: reading it later gives an error with its name
                size, mtime = 0, 0
            relative = os.fsencode(os.path.relpath(path, folder))
            rows.append((PLAIN_FILE, 0, size, mtime, label, relative))
    return to_rows(rows)
