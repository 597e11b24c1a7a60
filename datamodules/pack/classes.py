"""Reads lists of classes: their ids and names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path


def read_class_names(path: Path) -> dict[str, str]:
    """Read the name of each class id from lines `id<TAB>name`, in the order of the file.

    A column of numbers before the id is allowed. In a line without a tab, the id ends at the first
    space: `n01440764 tench, Tinca tinca`.

    Raises:
        ValueError: A line has no name, a class comes twice, or there are no lines.
    """
    names: dict[str, str] = {}
    for number, line in _lines(path):
        columns = line.split("\t") if "\t" in line else line.split(maxsplit=1)
        if len(columns) < 2:
            raise ValueError(f"line {number} of {path} is {line!r}; it needs an id, a tab, a name")
        identity, name = columns[-2].strip(), columns[-1].strip()
        if identity in names:
            raise ValueError(f"line {number} of {path} names the class {identity!r} a second time")
        names[identity] = name
    if not names:
        raise ValueError(f"{path} has no lines `id<TAB>name`")
    return names


def read_class_list(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read the ids and the names of all classes, in the order of the labels.

    Args:
        path: A `manifest.json`; or a text with a line `name` or `id<TAB>name` for each class (a
            column of numbers before the id is allowed).

    Raises:
        ValueError: The file is neither.
    """
    try:
        if path.suffix == ".json":
            header = json.loads(path.read_text(encoding="utf-8"))
            ids, names = header["classes"], header["class_names"]
        else:
            rows = [line.strip().split("\t") for _, line in _lines(path)]
            ids, names = [row[-2:][0].strip() for row in rows], [row[-1].strip() for row in rows]
        if not ids or len(ids) != len(names) or not all(isinstance(n, str) for n in (*ids, *names)):
            raise ValueError("it has no list of names")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is neither a manifest.json nor a text with a line for each class "
            f"({type(error).__name__}: {error})"
        ) from None
    return tuple(ids), tuple(names)


def _lines(path: Path) -> list[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error})") from None
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def names_of(classes: Sequence[str], names: dict[str, str]) -> tuple[str, ...]:
    """Name each class; by its id if it has no name."""
    return tuple(names.get(identity) or identity for identity in classes)
