"""Lists the samples of one WebDataset shard, without decoding anything."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from tarfile import TarInfo
from typing import Any

import numpy as np

from datamodules.common.errors import printable
from datamodules.common.reading import plain
from datamodules.decoding.folders import SUFFIXES
from datamodules.decoding.images import MAX_BYTES
from datamodules.pack.sources.listing import Problem, to_rows
from datamodules.pack.sources.tars import members
from datamodules.processes.pool import advance

IMAGES = tuple(suffix.removeprefix(".") for suffix in SUFFIXES)
MAX_CLASSES = 1 << 20
"""Larger labels are mistakes; a list of so many classes would fill the memory."""
# timm and others store the class's id and name in the sample's json under one of these names.
_MAX_FIELD = 1 << 20  # bytes of a label, or of the json with names
ID_FIELDS = ("class_id", "wnid", "synset")
NAME_FIELDS = ("class_name", "label_name", "name")


@dataclass(frozen=True)
class Scan:
    """What one shard holds."""

    rows: np.ndarray  # table of its images, as `to_rows` makes it
    problems: tuple[Problem, ...]  # samples that are left out
    about: dict[int, tuple[str, str]]  # the class's (id, name), as a sample has it, by label


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
    with open(path, "rb", opener=plain) as file:

        def read(member: TarInfo) -> bytes:
            if member.size > _MAX_FIELD:
                raise ValueError(f"{member.name} has {member.size:,} bytes")
            file.seek(member.offset_data)
            return file.read(member.size)

        for key, fields in _grouped(path):
            advance()
            image = next((fields[suffix] for suffix in IMAGES if suffix in fields), None)
            try:
                if image is None:
                    raise ValueError(f"no image among {', '.join(fields)}"[:100])
                if not 0 < image.size <= MAX_BYTES:
                    raise ValueError(f"an image of {image.size} bytes")
                if "cls" not in fields:
                    raise ValueError("no cls")
                label = int(read(fields["cls"]))
                if not 0 <= label < MAX_CLASSES:
                    raise ValueError(f"the label {label} is out of range")
            except ValueError as error:
                problems.append((f"{name}: {printable(key)}", printable(str(error))))
                continue
            if label not in about:
                about[label] = wnid_in(key), ""
                if "json" in fields:
                    with suppress(ValueError, RecursionError):  # only names are lost
                        about[label] = _class_in(json.loads(read(fields["json"])), key)
            encoded = image.name.encode("utf-8", "surrogateescape")
            rows.append((archive, image.offset_data, image.size, mtime, label, encoded))
    return Scan(to_rows(rows), tuple(problems), about)


def key_and_suffix(name: str) -> tuple[str, str]:
    """Split a member's name as webdataset does: at the first dot after the folders."""
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return folder + slash + stem, suffix


def _grouped(path: Path) -> Iterator[tuple[str, dict[str, TarInfo]]]:
    """Yield samples as webdataset does: adjacent members with the same name up to the first dot."""
    named = ((*key_and_suffix(member.name), member) for member in members(path))
    usable = (each for each in named if each[0] and not each[0].endswith("/") and each[1])
    for key, group in groupby(usable, key=lambda each: each[0]):
        fields: dict[str, TarInfo] = {}
        for _, suffix, member in group:
            fields.setdefault(suffix.lower(), member)
        yield key, fields


def _class_in(facts: Any, key: str) -> tuple[str, str]:
    """Id and name of the class in a sample's json; empty if they are not known."""
    if not isinstance(facts, dict):
        return wnid_in(key), ""
    identity, name = (
        next((str(facts[f]) for f in group if f in facts), "") for group in (ID_FIELDS, NAME_FIELDS)
    )
    return identity or wnid_in(str(facts.get("filename", ""))) or wnid_in(key), name


def wnid_in(name: str) -> str:
    """The class in the name of one of ImageNet's images; empty if there is none.

    Training images begin with it (`n01440764_10026`), and validation images may end with it, as
    those of Hugging Face do (`ILSVRC2012_val_00000293_n01440764.JPEG`).
    """
    match = re.search(r"(?:^|[_/])(n\d{8})(?=[_./])", name)
    return match[1] if match else ""
