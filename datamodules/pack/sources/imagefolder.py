"""Packs folders of image files, one folder per class.

examples:
  # imagenet/ has train/ and val/, each with a folder of images per class
  python -m datamodules.pack imagefolder imagenet/ packed/

  # an evaluation set with ImageNet's class folders, or ImageNet-C with all of
  # its conditions: labels are those of imagenet_class_index.json
  python -m datamodules.pack imagefolder imagenet-a/ a/ --classes index.json

  # smaller files: the shorter side has at most 256 pixels
  python -m datamodules.pack imagefolder imagenet/ packed/ --resize 256

Makes packed/train and packed/val. RGB JPEGs keep their bytes, and all other
images become JPEGs of quality 90 (see --quality). What is no image is left
out and named, except for hidden files. After an interruption, the same
command resumes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
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
    if options.classes is not None:
        from datamodules.pack.sources.evaluation import pack_sets  # which needs this module

        pack_sets(options, options.classes)
    else:
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
        own, stray = class_folders(folder)
        classes = classes or own
        if extra := sorted(set(own) - set(classes)):
            raise ValueError(
                f"{folder} has {len(extra)} classes that train lacks, such as {extra[0]!r}; "
                "the class folders must have the same names in both"
            )
        known = classes, names_of(classes, class_names)
        labels = {name: classes.index(name) for name in own}
        listings.append(list_classes(split, folder, labels, known, stray))
    return listings


def class_folders(folder: Path) -> tuple[tuple[str, ...], list[Problem]]:
    """The names of the class folders in a folder, and what else there is.

    Raises:
        ValueError: There are none.
    """
    entries = visible_entries(folder)
    names = tuple(entry.name for entry in entries if entry.is_dir())
    if not names:
        remedy = "put the images into a folder per class"
        if folder.parent.name == "CLS-LOC":
            remedy = f"pack ilsvrc {folder.absolute().parents[3]} reads Kaggle's folders"
        raise ValueError(f"{folder} has no class folders; {remedy}")
    return names, [
        (entry.path, LEADS_NOWHERE if leads_nowhere(entry) else "not in a class folder")
        for entry in entries
        if not entry.is_dir()
    ]


def list_classes(
    split: str,
    folder: Path,
    labels: Mapping[str, int],
    classes: tuple[tuple[str, ...], tuple[str, ...]],
    stray: Iterable[Problem] = (),
    evaluation: bool = False,
) -> Listing:
    """List the images of class folders.

    Args:
        split: What they are.
        folder: The folder above.
        labels: The label of each class folder, by its name.
        classes: Ids and names of the classes, by label.
        stray: What else is in the folder.
        evaluation: Whether only the classes that have images count.

    Raises:
        ValueError: A class has no images, or two classes have the same folder.
    """
    # Threads, because listing a network disk is mostly waiting.
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(image_files, (folder / name for name in labels)))
        _check(found)
        parts = list(threads.map(partial(_rows_of_class, folder), found, labels.values()))
    return Listing(
        split,
        Source(folder),
        tabulate(parts),
        *classes,
        left_out=relative(folder, [*stray, *chain(*(files.left_out for files in found))]),
        evaluation=evaluation,
    )


def relative(folder: Path, problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """The same files, named by their paths below a folder."""
    return tuple((os.path.relpath(path, folder), why) for path, why in problems)


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


def _rows_of_class(folder: Path, files: ImageFiles, label: int) -> np.ndarray:
    return rows_of_files(folder, dict.fromkeys(files.images, label))


def rows_of_files(folder: Path, labels: Mapping[str, int]) -> np.ndarray:
    """Make a table, see `to_rows`, of image files below a folder, by path with their labels."""
    rows = []
    for path, label in labels.items():
        try:
            status = os.stat(path)
            size, mtime = status.st_size, status.st_mtime_ns
        except OSError:  # a dangling link: reading it later gives an error with its name
            size, mtime = 0, 0
        name = os.fsencode(os.path.relpath(path, folder))
        rows.append((PLAIN_FILE, 0, size, mtime, label, name))
    return to_rows(rows)
