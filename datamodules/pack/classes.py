"""Class lists: text files with ids and names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def read_class_names(path: Path) -> dict[str, str]:
    """Read ``ID<TAB>NAME`` lines (a column of numbers before the id is allowed), in file order.

    Without a tab, the first blank parts the two: ``n01440764 tench, Tinca tinca``.
    """
    names: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error})") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
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


def names_of(classes: Sequence[str], names: dict[str, str]) -> tuple[str, ...]:
    """Name each class, by its id where there is no name."""
    return tuple(names.get(identity) or identity for identity in classes)
