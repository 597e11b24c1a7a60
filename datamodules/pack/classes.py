"""Reads lists of classes: their ids and names."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from datamodules.common.texts import read_lines, read_text, unquoted
from datamodules.shards.manifest import MANIFEST

_NO_LIST = (
    "neither a manifest.json, an imagenet_class_index.json, nor a text with a line for each class"
)


class ClassList(NamedTuple):
    """Classes in the order of the labels; no ids if there are names alone."""

    ids: tuple[str, ...]
    names: tuple[str, ...]


def read_class_list(path: Path) -> ClassList:
    """Read a list of classes, as JSON or as a text with a line for each class.

    JSON is Keras's `imagenet_class_index.json`, or the `manifest.json` of packed data, whose folder
    will do, too. A line is `id<TAB>name` (a column of numbers before the id is allowed), or a name
    alone. If no line has a tab and each begins with a word such as `n01440764` or `17`, these are
    the ids.

    Raises:
        ValueError: The file is neither, or a class comes twice.
    """
    if path.is_dir():
        path = _manifest_in(path)
    if path.suffix == ".json":
        return _read_json(path)
    lines = read_lines(path)
    if not lines:
        raise ValueError(f"{path} is {_NO_LIST}")
    if any("\t" in line for _, line in lines):
        rows = [line.split("\t") if "\t" in line else line.split(maxsplit=1) for _, line in lines]
    elif all(re.match(r"\s*[A-Za-z]*[0-9]+\s+\S", line) for _, line in lines):
        rows = [line.split(maxsplit=1) for _, line in lines]
    else:
        return ClassList((), tuple(unquoted(line) for _, line in lines))
    ids: dict[str, str] = {}
    for (number, line), row in zip(lines, rows, strict=True):
        if len(row) < 2:
            raise ValueError(f"line {number} of {path} is {line!r}; it needs an id, a tab, a name")
        identity, name = map(unquoted, row[-2:])
        if identity in ids:
            raise ValueError(f"line {number} of {path} names the class {identity!r} a second time")
        ids[identity] = name or identity
    return ClassList(tuple(ids), tuple(ids.values()))


def names_of(classes: Sequence[str], path: Path | None) -> tuple[str, ...]:
    """Name each class as a list of classes does; by its id if the list does not have it.

    Args:
        classes: The ids.
        path: The list, see `read_class_list`; None for the ids.

    Raises:
        ValueError: The list has no ids, or none of these.
    """
    if path is None:
        return tuple(classes)
    listed = read_class_list(path)
    if not listed.ids:
        number, line = read_lines(path)[0]
        raise ValueError(f"line {number} of {path} is {line!r}; it needs an id, a tab, a name")
    names = dict(zip(*listed, strict=True))
    if not names.keys() & set(classes):
        raise ValueError(
            f"{path} names none of the {len(classes)} classes: it begins with {listed.ids[0]!r}, "
            f"and they with {classes[0]!r}"
        )
    return tuple(names.get(identity, identity) for identity in classes)


def _manifest_in(folder: Path) -> Path:
    """The manifest of a folder with packed data."""
    paths = [folder / split / MANIFEST for split in ("", "train", "val")]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise ValueError(f"{folder} has no packed data; give its folder, or a list of classes")
    return path


def _read_json(path: Path) -> ClassList:
    try:
        facts = json.loads(read_text(path))
        if "classes" in facts:
            ids, names = facts["classes"], facts["class_names"]
        else:  # {"0": ["n01440764", "tench"], ...}
            ids, names = zip(*(facts[str(label)] for label in range(len(facts))), strict=True)
        if not ids or len(ids) != len(names) or not all(isinstance(n, str) for n in (*ids, *names)):
            raise ValueError("it has no list of names")
        if len(set(ids)) < len(ids):
            raise ValueError("it names a class twice")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is {_NO_LIST} ({type(error).__name__}: {error})") from None
    return ClassList(tuple(ids), tuple(names))
