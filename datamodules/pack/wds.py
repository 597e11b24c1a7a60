"""A source: WebDataset shards that somebody else wrote (``jpg``, ``cls``, optionally ``json``)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.common.pool import Workers, advance
from datamodules.pack.classes import names_of, read_class_names
from datamodules.pack.listing import Listing, Problem, Source, found, printable, tabulate
from datamodules.pack.tars import members
from datamodules.remote.urls import is_remote, name_for_people

IMAGES = ("jpg", "jpeg", "png", "webp", "ppm")
MAX_CLASSES = 1 << 20
"""A label from here on is a mistake; the classes up to it would fill the memory."""
# timm and others put the class's id and name into the sample's json under one of these.
ID_FIELDS = ("class_id", "wnid", "synset")
NAME_FIELDS = ("class_name", "label_name", "name")


@dataclass(frozen=True)
class Scan:
    """What one shard holds; ``about`` maps a label to the (id, name) that its json tells."""

    rows: np.ndarray
    problems: tuple[Problem, ...]
    about: dict[int, tuple[str, str]]


def list_wds(
    shards: Mapping[str, Sequence[str]],
    workers: Workers,
    progress: Callable[[int], Any],
    class_names: Path | None = None,
    known: Sequence[str] = (),
) -> list[Listing]:
    """List the samples of local shards.

    Args:
        shards: What ``shards_by_split`` found.
        workers: Read the shards' headers.
        progress: Called with the number of samples found so far.
        class_names: As for ``decide_classes``.
        known: As for ``decide_classes``.

    Raises:
        ValueError: A shard that is remote, or what ``scan`` and ``decide_classes`` refuse.
    """
    for location in (location for part in shards.values() for location in part):
        if is_remote(location):
            raise ValueError(
                f"{name_for_people(location)} is remote, and only local shards can be packed; "
                "download it, or use `python -m datamodules.pack index`, which packs nothing"
            )
    archives = {split: tuple(map(Path, locations)) for split, locations in shards.items()}
    scans: dict[str, list[Scan]] = {}
    for split, paths in archives.items():
        done = dict(workers.run(_scan_archive, list(enumerate(paths)), progress))
        scans[split] = [done[at] for at in range(len(paths))]
    classes, names = decide_classes(scans, class_names, known)
    return [
        Listing(
            split,
            Source(Path(), archives[split]),
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
        scans: Of all shards of each split.
        class_names: A file of ``id<TAB>name`` in the order of the labels.
        known: The class ids of a split that was packed before; the labels must fit them.

    Raises:
        ValueError: A split without samples, or labels outside the classes.
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
        for label, told in (item for scan in part for item in scan.about.items()):
            about.setdefault(label, set()).add(told)
    named = read_class_names(class_names) if class_names else {}
    classes = tuple(named) or tuple(known)
    if classes and highest >= len(classes):
        raise ValueError(
            f"the shards have the label {highest} but there are {len(classes)} classes "
            f"in {class_names or 'the split that is packed already'}"
        )
    own, own_names = _classes_from_json(highest + 1, about)
    if not classes:
        classes = own
    return classes, names_of(classes, named or (own_names if classes == own else {}))


def scan(path: Path, name: str, archive: int = 0) -> Scan:
    """List one shard by its headers and its small members.

    Args:
        path: A local file.
        name: Of the shard, for people.
        archive: Its number, for the rows.

    Raises:
        ValueError: No complete, uncompressed tar file.
    """
    mtime = path.stat().st_mtime_ns
    rows, problems, about = [], [], {}
    with open(path, "rb") as file:

        def read(place: tuple[int, int, str]) -> bytes:
            file.seek(place[0])
            return file.read(place[1])

        for key, fields in _grouped(path):
            advance()
            image = next((fields[suffix] for suffix in IMAGES if suffix in fields), None)
            try:
                if image is None:
                    raise ValueError("no image")
                if not 0 < image[1] < 1 << 32:
                    raise ValueError(f"an image of {image[1]} bytes")
                if "cls" not in fields:
                    raise ValueError("no cls")
                label = int(read(fields["cls"]))
                if not 0 <= label < MAX_CLASSES:
                    raise ValueError(f"the label {label} is out of range")
            except ValueError as error:
                problems.append((f"{name}: {printable(key)}", printable(str(error))))
                continue
            if "json" in fields and label not in about:
                about[label] = _told_by(read(fields["json"]))
            encoded = image[2].encode("utf-8", "surrogateescape")
            rows.append((archive, image[0], image[1], mtime, label, encoded))
    return Scan(found(rows), tuple(problems), about)


def key_and_suffix(name: str) -> tuple[str, str]:
    """Cut a member's name as webdataset does: at the first dot after the folders."""
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return folder + slash + stem, suffix


def _scan_archive(task: tuple[int, Path]) -> Scan:
    archive, path = task
    return scan(path, path.name, archive)


def _grouped(path: Path) -> Iterator[tuple[str, dict[str, tuple[int, int, str]]]]:
    """Yield samples as webdataset sees them: neighbours whose names agree up to the first dot."""
    current: str | None = None
    fields: dict[str, tuple[int, int, str]] = {}
    for member in members(path):
        key, suffix = key_and_suffix(member.name)
        if not key or key.endswith("/") or not suffix:
            continue
        if key != current:
            if current is not None:
                yield current, fields
            current, fields = key, {}
        fields.setdefault(suffix.lower(), (member.offset_data, member.size, member.name))
    if current is not None:
        yield current, fields


def _told_by(data: bytes) -> tuple[str, str]:
    try:
        facts = json.loads(data)
    except ValueError:
        return "", ""
    if not isinstance(facts, dict):
        return "", ""
    first = [
        next((str(facts[f]) for f in group if f in facts), "") for group in (ID_FIELDS, NAME_FIELDS)
    ]
    if not first[0]:  # ImageNet's file names begin with the class
        match = re.match(r"(?:.*/)?(n\d{8})[_/]", str(facts.get("filename", "")))
        first[0] = match[1] if match else ""
    return first[0], first[1]


def _classes_from_json(
    count: int, about: dict[int, set[tuple[str, str]]]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Ids and names where every label has exactly one, all different; numbers otherwise."""
    ids, names = [], []
    for label in range(count):
        told_ids = {identity for identity, _ in about.get(label, ()) if identity}
        told_names = {name for _, name in about.get(label, ()) if name}
        ids.append(told_ids.pop() if len(told_ids) == 1 else "")
        names.append(told_names.pop() if len(told_names) == 1 else "")
    if not all(ids) or len(set(ids)) < count:
        ids = [str(label) for label in range(count)]
    return tuple(ids), {identity: name for identity, name in zip(ids, names, strict=True) if name}
