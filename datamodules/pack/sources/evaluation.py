"""Packs evaluation sets: their class folders become labels of a list of classes.

ImageNet-A, -R, -Sketch and Kaggle's have folders with wnids, ImageNetV2 has numbers, and ImageNet-C
has such folders below each corruption and severity. Each set below SRC is packed at the same place
below OUT, as a validation split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from datamodules.common.folders import natural_key, visible_entries
from datamodules.pack.classes import names_of, read_class_list
from datamodules.pack.options import ImageFolderOptions
from datamodules.pack.packing import console, pack
from datamodules.pack.sources.imagefolder import class_folders, list_classes
from datamodules.pack.sources.listing import Listing
from datamodules.pack.sources.locations import SPLITS
from datamodules.processes.pool import Pool

DEPTH = 4
"""The most folders between SRC and the images: noise, gaussian_noise, 1, n01440764."""


def pack_sets(options: ImageFolderOptions, classes: Path) -> None:
    """Pack all sets of a folder.

    Args:
        options: The command's options.
        classes: The list of classes.

    Raises:
        ValueError: There is no set, or it does not fit the list.
    """
    ids, names = read_class_list(classes)
    if not ids:
        raise ValueError(f"{classes} has names alone, and class folders are compared with ids")
    if options.class_names is not None:
        names = names_of(ids, options.class_names)
    sets = find_sets(options.src, ids)
    if not sets:
        raise ValueError(
            f"{options.src} has no class folders of {classes}, whose ids are such as {ids[0]!r}; "
            "their names must be ids, or places in the list from 0"
        )

    def listed(folder: Path, labels: dict[str, int], *_: object) -> list[Listing]:
        _, stray = class_folders(folder)
        return [list_classes("val", folder, labels, (ids, names), stray, evaluation=True)]

    with Pool(options.workers) as pool:
        for place, (folder, labels) in sets.items():
            if len(sets) > 1:
                console.print(place, markup=False)
            own = replace(options, out=options.out / place)
            pack(own, [options.src, folder], partial(listed, folder, labels), pool)
    _tell_next_step(options.out, list(sets))


def find_sets(root: Path, ids: Sequence[str]) -> dict[str, tuple[Path, dict[str, int]]]:
    """Find the folders of class folders.

    Args:
        root: Where to look; a folder called `val` counts as the one above it.
        ids: Class ids by label.

    Returns:
        For each path below `root`, the folder, and the label of each class folder by its name.

    Raises:
        ValueError: A folder has classes that are not in the list, or is one of training images.
    """
    places = {identity: label for label, identity in enumerate(ids)}
    found: dict[str, tuple[Path, dict[str, int]]] = {}
    waiting = [root]
    while waiting:
        folder = waiting.pop(0)
        names = sorted((e.name for e in visible_entries(folder) if e.is_dir()), key=natural_key)
        labels = _labels(folder, names, places)
        place = folder.relative_to(root)
        if labels:
            if place.name.lower() in SPLITS["train"]:
                raise ValueError(
                    f"{folder} has training images, and --classes is for evaluation sets; leave it "
                    "out"
                )
            place = place.parent if place.name.lower() in SPLITS["val"] else place
            if str(place) in found:
                raise ValueError(f"{folder} and {found[str(place)][0]} would be one set")
            found[str(place)] = folder, labels
        elif len(place.parts) < DEPTH - 1:
            waiting += [folder / name for name in names]
    return found


def _labels(folder: Path, names: Sequence[str], places: dict[str, int]) -> dict[str, int]:
    """The label of each class folder; empty if these are none."""
    numbers = [name for name in names if name.isascii() and name.isdigit()]
    if len(numbers) == len(names) and numbers and _has_folders(folder / numbers[0]):
        return {}  # severities
    if not places.keys() & set(names):
        places = {str(label): label for label in places.values()}
        if not places.keys() >= set(names):
            return {}
    if unknown := next((name for name in names if name not in places), None):
        raise ValueError(f"{folder} has the class {unknown!r}, which the list of --classes lacks")
    return {name: places[name] for name in names}


def _has_folders(folder: Path) -> bool:
    return any(entry.is_dir() for entry in visible_entries(folder))


def _tell_next_step(out: Path, places: Sequence[str]) -> None:
    """Print the command that evaluates a network."""
    severities = [place for place in places if Path(place).name.isdigit()]
    if severities:
        command = f"python -m bagnet.experiments corruptions --models RUN --data.root {out} --out"
        console.print(f"next: {command} results", markup=False)
    else:
        root = out / places[0]
        console.print(f"next: python train.py validate --name RUN --data.root {root}", markup=False)
