"""Packs WebDataset shards that others wrote.

A sample is a jpg (or png, webp) and a cls member, optionally with a json.

examples:
  # a folder of shards, such as a copy of timm/imagenet-1k-wds
  python -m datamodules.pack wds imagenet-1k-wds/ packed/

  # a list of shards
  python -m datamodules.pack wds 'in1k-train-{0000..1023}.tar' packed/

Makes packed/train and packed/val. After an interruption, the same command
resumes. Shards may be compressed (.tar.gz, .tgz), and need room for a
decompressed copy in packed/ until all are packed. To train from the shards
where they are, see index.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from datamodules.pack.classes import ClassList, read_class_list
from datamodules.pack.options import WdsOptions
from datamodules.pack.packing import classes_of_other_split, console, pack
from datamodules.pack.sources.listing import Listing, Source, tabulate
from datamodules.pack.sources.locations import (
    decompress,
    decompressed,
    is_compressed,
    shards_by_split,
)
from datamodules.pack.sources.scan import IMAGES, Scan, scan
from datamodules.processes.pool import Pool
from datamodules.remote.urls import is_remote, redacted

COPIES = ".decompressed"
"""The folder in OUT with copies of shards that are compressed, until everything is packed."""


def run(options: WdsOptions) -> None:
    """Run the command."""
    pack(options, [Path(source) for source in options.src], partial(_list_wds, options))
    shutil.rmtree(options.out / COPIES, ignore_errors=True)


def _list_wds(options: WdsOptions, pool: Pool, progress: Callable[[int], Any]) -> list[Listing]:
    shards = shards_by_split(options.src, options.split)
    for location in (location for part in shards.values() for location in part):
        if is_remote(location):
            raise ValueError(
                f"{redacted(location)} is remote, and only local shards can be packed; "
                "download it, or use `python -m datamodules.pack index`, which packs nothing"
            )
    if count := sum(is_compressed(location) for part in shards.values() for location in part):
        copies = options.out / COPIES
        console.print(f"{count:,} shards are decompressed to {copies} until they are packed")
    tasks = {
        split: [_Archive.of(options.out, *each) for each in enumerate(locations)]
        for split, locations in shards.items()
    }
    scans = {split: pool.run(_scan_archive, part, progress) for split, part in tasks.items()}
    known = classes_of_other_split(options.out, shards)
    classes, names = decide_classes(scans, options.class_names, known)
    return [
        Listing(
            split,
            Source(Path(), tuple(archive.plain for archive in tasks[split])),
            tabulate(scan.rows for scan in part),
            classes,
            names,
            tuple(problem for scan in part for problem in scan.problems),
        )
        for split, part in scans.items()
    ]


def decide_classes(
    scans: Mapping[str, Iterable[Scan]], class_names: Path | None, known: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Find the ids and names of the classes, by label.

    Args:
        scans: Scans of all shards of each split.
        class_names: List of the classes in the order of the labels, see `read_class_list`.
        known: Class ids of a split that was packed before; the labels must fit them.

    Raises:
        ValueError: A split has no samples, or there are labels outside the classes.
    """
    highest = -1
    about: dict[int, set[tuple[str, str]]] = {}
    for split, part in scans.items():
        labels = [int(scan.rows["label"].max()) for scan in part if len(scan.rows)]
        if not labels:
            raise ValueError(
                f"the {split} shards have no sample with an image ({', '.join(IMAGES)}) and a "
                "cls member"
            )
        highest = max(highest, *labels)
        for label, class_ in (item for each in part for item in each.about.items()):
            about.setdefault(label, set()).add(class_)
    listed = read_class_list(class_names) if class_names else ClassList((), tuple(known))
    count = len(listed.names) or max([highest, *about]) + 1
    if highest >= count:
        raise ValueError(
            f"the shards have the label {highest} but there are {count} classes "
            f"in {class_names or 'the split that is packed already'}"
        )
    own, own_names = _classes_from_samples(count, about)
    classes = listed.ids or tuple(known) or own
    names = listed.names if class_names else own_names if classes == own else classes
    if classes == tuple(map(str, range(count))):
        console.print(
            f"note: the samples do not name their classes, so the ids are 0 to {count - 1}; "
            "--class_names imagenet_class_index.json (or another list) names them"
        )
    if len(names) != len(classes):
        raise ValueError(
            f"{class_names} names {len(names)} classes, and the split that is packed already has "
            f"{len(classes)}"
        )
    return classes, names


@dataclass(frozen=True)
class _Archive:
    """A shard: its number, its path, and that of the tar that images are read from."""

    number: int
    path: Path
    plain: Path

    @classmethod
    def of(cls, out: Path, number: int, location: str) -> _Archive:
        path = Path(location)
        copy = decompressed(path, out / COPIES)
        return cls(number, path, copy if is_compressed(location) else path)


def _scan_archive(archive: _Archive) -> Scan:
    if archive.plain != archive.path:
        decompress(archive.path, archive.plain)
    try:
        return scan(archive.plain, archive.path.name, archive.number)
    except ValueError as error:
        raise ValueError(str(error).replace(str(archive.plain), str(archive.path))) from None


def _classes_from_samples(
    count: int, about: dict[int, set[tuple[str, str]]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ids and names if every label has exactly one id, all different; otherwise the numbers."""
    ids, names = [], []
    for label in range(count):
        ids_seen = {identity for identity, _ in about.get(label, ()) if identity}
        names_seen = {name for _, name in about.get(label, ()) if name}
        ids.append(ids_seen.pop() if len(ids_seen) == 1 else "")
        names.append(names_seen.pop() if len(names_seen) == 1 else "")
    if not all(ids) or len(set(ids)) < count:
        ids = [str(label) for label in range(count)]
    return tuple(ids), tuple(name or identity for identity, name in zip(ids, names, strict=True))
