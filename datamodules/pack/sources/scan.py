"""Lists the samples of one WebDataset shard, without decoding anything."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.common.pool import advance
from datamodules.pack.sources.listing import Problem, printable, to_rows
from datamodules.pack.sources.tars import members

IMAGES = ("jpg", "jpeg", "png", "webp", "ppm")
MAX_CLASSES = 1 << 20
"""Larger labels are mistakes; a list of so many classes would fill the memory."""
# timm and others store the class's id and name in the sample's json under one of these names.
ID_FIELDS = ("class_id", "wnid", "synset")
NAME_FIELDS = ("class_name", "label_name", "name")


@dataclass(frozen=True)
class Scan:
    """What one shard holds.

    Attributes:
        rows: Table of its images, as `to_rows` makes it.
        problems: Samples that are left out.
        about: The class's (id, name) in the json of a sample, by label.
    """

    rows: np.ndarray
    problems: tuple[Problem, ...]
    about: dict[int, tuple[str, str]]


def scan(path: Path, name: str, archive: int = 0) -> Scan:
    """List the samples of one shard by reading its headers and its small members.

    Args:
        path: The shard, a local file.
        name: Its name for people.
        archive: Its number, for the rows.

    Raises:
        ValueError: The file is not a complete, uncompressed tar file.
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
                about[label] = _class_in(read(fields["json"]))
            encoded = image[2].encode("utf-8", "surrogateescape")
            rows.append((archive, image[0], image[1], mtime, label, encoded))
    return Scan(to_rows(rows), tuple(problems), about)


def key_and_suffix(name: str) -> tuple[str, str]:
    """Split a member's name as webdataset does: at the first dot after the folders."""
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return folder + slash + stem, suffix


def _grouped(path: Path) -> Iterator[tuple[str, dict[str, tuple[int, int, str]]]]:
    """Yield samples as webdataset does: adjacent members with the same name up to the first dot."""
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


def _class_in(data: bytes) -> tuple[str, str]:
    """Id and name of the class in a sample's json; empty if it does not have them."""
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
