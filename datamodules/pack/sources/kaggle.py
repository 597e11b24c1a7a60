"""Lists ILSVRC2012 as Kaggle has it, and reads lists of the validation images' labels.

Unzipped, imagenet-object-localization-challenge.zip has the train images in a folder per class, all
validation images in one folder, and tables of their labels and of the classes' names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePath, PurePosixPath

from datamodules.common.folders import natural_key
from datamodules.common.texts import read_lines, unquoted
from datamodules.decoding.folders import image_files
from datamodules.pack.classes import names_of
from datamodules.pack.sources.imagefolder import (
    class_folders,
    list_classes,
    relative,
    rows_of_files,
)
from datamodules.pack.sources.listing import Listing, Source, tabulate

IMAGES = PurePath("ILSVRC/Data/CLS-LOC")
VAL_LABELS = "LOC_val_solution.csv"
NAMES = "LOC_synset_mapping.txt"


def list_splits(root: Path, class_names: Path | None, val_labels: Path | None) -> list[Listing]:
    """List train and val; a class's label is its place among the sorted wnids.

    Args:
        root: The folder of the unzipped files.
        class_names: A list of classes instead of Kaggle's.
        val_labels: A list of the validation labels instead of Kaggle's, see `read_val_labels`.

    Raises:
        ValueError: There are no images, or no labels for them.
    """
    train, val = root / IMAGES / "train", root / IMAGES / "val"
    if class_names is None and (root / NAMES).is_file():
        class_names = root / NAMES
    listings = []
    classes: tuple[str, ...] = ()
    if train.is_dir():
        classes, stray = class_folders(train)
        labels = {wnid: label for label, wnid in enumerate(classes)}
        known = classes, names_of(classes, class_names)
        listings.append(list_classes("train", train, labels, known, stray))
    if val.is_dir():
        files = image_files(val)
        paths = {os.path.relpath(path, val): path for path in files.images}
        if not paths:
            raise ValueError(f"{val} has no images; unzip Kaggle's file again")
        val_labels = val_labels or root / VAL_LABELS
        if not val_labels.is_file():
            raise ValueError(
                f"there is no {val_labels}, so the labels of {val} are unknown; put Kaggle's "
                f"{VAL_LABELS} into {root}, or give --val_labels FILE"
            )
        wnids = read_val_labels(val_labels, sorted(paths, key=natural_key))
        classes = classes or tuple(sorted(set(wnids.values())))
        if unknown := sorted(set(wnids.values()) - set(classes)):
            raise ValueError(f"{val_labels} has the class {unknown[0]!r}, which {train} lacks")
        labels = {wnid: label for label, wnid in enumerate(classes)}
        rows = rows_of_files(val, {path: labels[wnids[name]] for name, path in paths.items()})
        listings.append(
            Listing(
                "val",
                Source(val),
                tabulate([rows]),
                classes,
                names_of(classes, class_names),
                left_out=relative(val, files.left_out),
            )
        )
    if not listings:
        raise ValueError(f"{root / IMAGES} has neither train/ nor val/; unzip Kaggle's file again")
    return listings


def read_val_labels(path: Path, names: Iterable[str]) -> dict[str, str]:
    """Read the wnid of each image.

    Args:
        path: A text with a wnid per line, in the order of the names; or with `NAME WNID` per line,
            as in Kaggle's table, where more may follow.
        names: The images in the order of their names.

    Raises:
        ValueError: An image has no label, or there is another number of labels.
    """
    lines = [
        [unquoted(field) for field in re.split(r"[\s,]+", line.strip())]
        for _, line in read_lines(path)
    ]
    if all(len(line) == 1 for line in lines):
        return in_order(names, [line[0] for line in lines], path)
    named = {PurePosixPath(line[0]).stem: line[1] for line in lines if len(line) > 1}
    labels = {name: named.get(PurePosixPath(name).stem, "") for name in names}
    if missing := [name for name, wnid in labels.items() if not wnid]:
        raise ValueError(f"{path} has no label for {len(missing):,} images such as {missing[0]}")
    return labels


def in_order(names: Iterable[str], wnids: Iterable[str], path: Path) -> dict[str, str]:
    """Give each image the wnid in its place; `path` is where they come from.

    Raises:
        ValueError: There are more wnids, or fewer.
    """
    names, wnids = list(names), list(wnids)
    if len(wnids) != len(names):
        raise ValueError(f"{path} has {len(wnids):,} labels for {len(names):,} validation images")
    return dict(zip(names, wnids, strict=True))
