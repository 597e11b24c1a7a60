"""Reads YAML within bounds: a text of 600 bytes can stand for billions of values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from datamodules.common.texts import read_text

MOST_CHARACTERS = 1_000_000
MOST_VALUES = 100_000
"""The most values of a text, with everything that its aliases repeat."""
MOST_LEVELS = 50


def read_yaml(path: Path) -> Any:
    """Read a file of plain values.

    Raises:
        ValueError: It is not YAML, or beyond the bounds.
    """
    text = read_text(path)
    try:
        check_yaml(text)
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueErrors are of dates that do not exist
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is no YAML that can be read ({reason})") from None


def check_yaml(text: str) -> None:
    """Check that a text is within the bounds. This takes no recursion, and repeats nothing.

    Raises:
        yaml.YAMLError: It is not YAML, or beyond the bounds.
    """
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
