"""Packs images in Parquet files, as the datasets of Hugging Face are stored.

examples:
  # the files of a dataset, such as data/train-00000-of-00294.parquet
  python -m datamodules.pack parquet imagenet-1k/data/ packed/

  # from the Hugging Face Hub (pip install huggingface_hub)
  python -m datamodules.pack parquet hf://datasets/zh-plus/tiny-imagenet packed/

Makes packed/train and packed/val. While a split is packed, packed/ also holds
a plain copy of its images. After an interruption, the same command resumes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.common.errors import printable
from datamodules.pack.classes import names_of
from datamodules.pack.options import ParquetOptions
from datamodules.pack.packing import classes_of_other_split, console, pack
from datamodules.pack.shard import PARTIAL
from datamodules.pack.sources.listing import Listing, Problem, tabulate, to_rows
from datamodules.pack.sources.locations import SPLITS_AND_TEST, expand, path_in, split_of
from datamodules.pack.sources.parquet_files import File, Rows, read_file
from datamodules.pack.sources.scan import MAX_CLASSES, Scan, wnid_in
from datamodules.pack.sources.wds import decide_classes
from datamodules.processes.pool import Pool

_MAX_NAME = 255
"""The most bytes of an image's name: the longest one of a split takes room for all."""

_NO_LABEL = (-1, "")


def run(options: ParquetOptions) -> None:
    """Run the command."""
    pack(options, [Path(source) for source in options.src], partial(_list_parquet, options))


def _list_parquet(
    options: ParquetOptions, pool: Pool, progress: Callable[[int], Any]
) -> list[Listing]:
    locations = _by_split(options)
    tasks = [(each, options.image, options.label) for part in locations.values() for each in part]
    found = iter(pool.run(read_file, tasks, progress))
    files = {split: [next(found) for _ in part] for split, part in locations.items()}
    for split, part in list(files.items()):
        if any(label not in _NO_LABEL for file in part for label in file.labels):
            continue
        if split != "test":
            raise ValueError(f"the {split} files have no labels in the column {options.label!r}")
        console.print("note: the test files have no labels, so they are left out")
        del files["test"]
    if "test" in files:  # is taken, because there is no validation
        files["val"], locations["val"] = files.pop("test"), locations["test"]
    known = classes_of_other_split(options.out, files)
    places = _places(files, known)
    tables = {split: _table(locations[split], part, places) for split, part in files.items()}
    if places is None:
        about = _about(files)
        scans = {s: [Scan(rows, problems, about)] for s, (rows, problems) in tables.items()}
        classes, names = decide_classes(scans, options.class_names, known)
    else:
        classes = tuple(places)
        names = names_of(classes, options.class_names)
    return [
        Listing(
            split,
            Rows(options.out / split / PARTIAL, (), tuple(locations[split]), options.image),
            tabulate([rows]),
            classes,
            names,
            problems,
        )
        for split, (rows, problems) in tables.items()
    ]


def _by_split(options: ParquetOptions) -> dict[str, list[str]]:
    """The files of each split, and those of `test` if there is no validation."""
    by_split: dict[str, list[str]] = defaultdict(list)
    for location in expand(options.src, (".parquet",)):
        by_split[options.split or split_of(location, SPLITS_AND_TEST)].append(location)
    if "test" in by_split and "val" in by_split:
        console.print(f"note: the {len(by_split.pop('test'))} test files are left out")
    if list(by_split) == ["test"]:
        raise ValueError("there are only test files; give --split val to validate with them")
    return dict(sorted(by_split.items()))


def _places(files: Mapping[str, Sequence[File]], known: Sequence[str]) -> dict[str, int] | None:
    """The label of each class, if classes are names; None if they are numbers already."""
    labels = {label for part in files.values() for file in part for label in file.labels}
    names = {label for label in labels if isinstance(label, str)} - {""}
    if not names:
        return None
    if any(isinstance(label, int) and label >= 0 for label in labels):
        raise ValueError("some files have numbers as labels, and others have names")
    return {name: at for at, name in enumerate(known if names <= set(known) else sorted(names))}


def _about(files: Mapping[str, Sequence[File]]) -> dict[int, tuple[str, str]]:
    """Id and name of each class: its wnid if all have one, else its name."""
    lists = {file.names for part in files.values() for file in part if file.names}
    if len(lists) > 1:
        raise ValueError("the files name different classes, so their labels mean different things")
    names = next(iter(lists), ())
    wnids: dict[int, set[str]] = {label: set() for label in range(len(names))}
    for file in (file for part in files.values() for file in part):
        for label, path in zip(file.labels, file.paths, strict=True):
            if 0 <= int(label) < MAX_CLASSES:
                wnids.setdefault(int(label), set()).add(wnid_in(path))
    unique = {next(iter(each)) for each in wnids.values() if len(each) == 1} - {""}
    if len(unique) == len(wnids) == max(wnids) + 1:
        ids = {label: next(iter(each)) for label, each in wnids.items()}
    else:
        ids = dict(enumerate(names))
    listed = dict(enumerate(names))
    return {label: (identity, listed.get(label, "")) for label, identity in ids.items()}


def _table(
    locations: Sequence[str], files: Sequence[File], places: Mapping[str, int] | None
) -> tuple[np.ndarray, tuple[Problem, ...]]:
    """The rows of a split, see `to_rows`, and those that have no label."""
    rows, problems = [], []
    for number, (location, file) in enumerate(zip(locations, files, strict=True)):
        for row, (label, path) in enumerate(zip(file.labels, file.paths, strict=True)):
            place = places.get(str(label), -1) if places is not None else int(label)
            if 0 <= place < MAX_CLASSES:
                name = path.encode("utf-8", "replace")[:_MAX_NAME]
                rows.append((number, row, 0, file.version, place, name))
            else:
                reason = "no label" if label in _NO_LABEL else f"the label {label} is out of range"
                problems.append((f"{path_in(location).name}: {printable(path)}", reason))
    return to_rows(rows), tuple(problems)
