"""A source: WebDataset shards that somebody else wrote (``jpg``, ``cls``, optionally ``json``)."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import braceexpand
import numpy as np

from datamodules.pack.classes import names_of, read_class_names
from datamodules.pack.listing import Listing, Problem, Source, found, printable, tabulate
from datamodules.pack.tars import members
from datamodules.pack.workers import Workers, advance

IMAGES = ("jpg", "jpeg", "png", "webp", "ppm")
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
}
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
    patterns: Sequence[str],
    workers: Workers,
    progress: Callable[[int], Any],
    split: str | None = None,
    class_names: Path | None = None,
    known: Sequence[str] = (),
) -> list[Listing]:
    """List shards, told apart into train and val by their names or all of ``split``.

    Args:
        patterns: Files, brace lists, globs, or folders that hold ``.tar`` files.
        workers: Read the shards' headers.
        progress: Called with the number of samples found so far.
        split: ``train`` or ``val``, for shards whose names do not say it.
        class_names: A file of ``id<TAB>name`` in the order of the labels.
        known: The class ids of a split that was packed before; the labels must fit them.

    Raises:
        ValueError: No such shard, no split in its name, or labels outside the classes.
    """
    by_split: dict[str, list[Path]] = {}
    for path in _expand(patterns):
        by_split.setdefault(split or _split_of(path), []).append(path)
    scans: dict[str, list[Scan]] = {}
    for name, paths in sorted(by_split.items()):
        found_scans = dict(workers.run(_scan, list(enumerate(paths)), progress))
        scans[name] = [found_scans[at] for at in range(len(paths))]
    tables = {name: tabulate(scan.rows for scan in part) for name, part in scans.items()}
    for name, table in tables.items():
        if not len(table):
            raise ValueError(
                f"{by_split[name][0]} and the other {name} shards have no sample with an image "
                f"({', '.join(IMAGES)}) and a cls member"
            )
    highest = max(int(table["label"].max()) for table in tables.values())
    named = read_class_names(class_names) if class_names else {}
    classes = tuple(named) or tuple(known)
    if classes and highest >= len(classes):
        raise ValueError(
            f"the shards have the label {highest} but there are {len(classes)} classes "
            f"in {class_names or 'the split that is packed already'}"
        )
    about: dict[int, set[tuple[str, str]]] = {}
    for scan in (scan for part in scans.values() for scan in part):
        for label, told in scan.about.items():
            about.setdefault(label, set()).add(told)
    own, own_names = _classes_from_json(highest + 1, about)
    if not classes:
        classes = own
    names = named or (own_names if classes == own else {})
    return [
        Listing(
            name,
            Source(Path(), tuple(by_split[name])),
            table,
            classes,
            names_of(classes, names),
            tuple(problem for scan in scans[name] for problem in scan.problems),
        )
        for name, table in sorted(tables.items())
    ]


def _expand(patterns: Sequence[str]) -> list[Path]:
    paths: list[Path] = []
    for pattern in patterns:
        if Path(pattern).is_dir():
            matches = sorted(Path(pattern).rglob("*.tar"))
        else:
            expanded = list(braceexpand.braceexpand(pattern))
            matches = [
                Path(match)
                for each in expanded
                for match in (sorted(glob.glob(each)) if re.search(r"[*?\[]", each) else [each])
            ]
        if not matches:
            raise ValueError(f"no shards (.tar) match {pattern}")
        if missing := next((path for path in matches if not path.is_file()), None):
            raise ValueError(f"no such shard: {missing}")
        paths += matches
    return list(dict.fromkeys(paths))


def _split_of(path: Path) -> str:
    """Read the split off the file's name, or off its folder's where the file's is mute."""
    for text in (path.name, path.parent.name):
        told = {
            SPLIT_WORDS[word] for word in re.findall("[a-z]+", text.lower()) if word in SPLIT_WORDS
        }
        if len(told) == 1:
            return told.pop()
    raise ValueError(f"the name of {path} says neither train nor val; give --split train or val")


def _scan(task: tuple[int, Path]) -> Scan:
    """List one shard by its headers and its small members."""
    archive, path = task
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
                if "cls" not in fields:
                    raise ValueError("no cls")
                label = int(read(fields["cls"]))
                if not 0 <= label < 1 << 31:
                    raise ValueError(f"the label {label} is out of range")
            except ValueError as error:
                problems.append((f"{path.name}: {printable(key)}", printable(str(error))))
                continue
            if "json" in fields and label not in about:
                about[label] = _told_by(read(fields["json"]))
            name = image[2].encode("utf-8", "surrogateescape")
            rows.append((archive, image[0], image[1], mtime, label, name))
    return Scan(found(rows), tuple(problems), about)


def _grouped(path: Path) -> Iterator[tuple[str, dict[str, tuple[int, int, str]]]]:
    """Yield samples as webdataset sees them: neighbours whose names agree up to the first dot."""
    current: str | None = None
    fields: dict[str, tuple[int, int, str]] = {}
    for member in members(path):
        folder, slash, name = member.name.rpartition("/")
        stem, dot, suffix = name.partition(".")
        if not stem or not dot:
            continue
        key = folder + slash + stem
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
