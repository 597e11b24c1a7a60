"""Reads settings in YAML, within bounds: a text of 600 bytes can stand for billions of values."""

from __future__ import annotations

from typing import Any

import yaml
from jsonargparse import get_loader, set_loader

MOST_CHARACTERS = 1_000_000
MOST_VALUES = 100_000
"""The most values of a text, with everything that its aliases repeat."""
MOST_LEVELS = 50


def bound_yaml() -> None:
    """Make jsonargparse refuse texts of YAML that are beyond these bounds, once for the process."""
    load = get_loader("yaml")
    if getattr(load, "__name__", "") == "bounded":
        return

    def bounded(text: str) -> Any:
        _check(text)
        return load(text)

    set_loader("yaml", bounded, (yaml.YAMLError,))


def _check(text: str) -> None:
    """Read the events of a text, which takes no recursion and repeats nothing."""
    if len(text) > MOST_CHARACTERS:
        raise yaml.YAMLError(f"it has more than {MOST_CHARACTERS:,} characters")
    sizes: dict[str, int] = {}  # of what aliases stand for
    opened: list[str | None] = []  # the anchors of the collections around an event
    counts = [0]
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        place = f"line {event.start_mark.line + 1}" if event.start_mark else "it"
        if isinstance(event, yaml.CollectionStartEvent):
            opened.append(event.anchor)
            counts.append(1)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = opened.pop(), counts.pop()
            counts[-1] += size
            if anchor is not None:
                sizes[anchor] = size
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor in opened:
                raise yaml.YAMLError(f"{place} has an alias of what it is in")
            counts[-1] += sizes.get(event.anchor or "", 1)
        elif isinstance(event, yaml.ScalarEvent):
            counts[-1] += 1
        if len(opened) > MOST_LEVELS:
            raise yaml.YAMLError(f"{place} has more than {MOST_LEVELS} levels")
        if counts[-1] > MOST_VALUES:
            raise yaml.YAMLError(f"its aliases stand for more than {MOST_VALUES:,} values")
