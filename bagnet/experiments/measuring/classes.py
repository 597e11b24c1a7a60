"""Which classes --classes names: by id, name or number, of the data or of what was measured."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from bagnet.evidence.report.inputs import Classes
from bagnet.experiments.measuring.parts import record_of
from datamodules.imagenet import ImageNetDataModule

FIRST = 8
"""So many classes are shown if none are named."""


def classes_of(source: ImageNetDataModule | pa.Table) -> Classes:
    """The classes of data, or those of a table of results."""
    if isinstance(source, ImageNetDataModule):
        return Classes(tuple(source.classes), tuple(source.class_names))
    record = record_of(source.schema)
    return Classes(tuple(record["classes"]), tuple(record["class_names"]))


def choose_classes(words: Sequence[str], classes: Classes) -> list[int]:
    """The numbers of the classes that --classes names, each once; without a word, the first eight.

    Raises:
        ValueError: See `choose_class`.
    """
    if not words:
        return list(range(len(classes.ids)))[:FIRST]
    return list(dict.fromkeys(choose_class(word, classes) for word in words))


def choose_class(word: str, classes: Classes) -> int:
    """The number of a class from its id, its name or, if it is neither, its number.

    Raises:
        ValueError: There is no such class, or there are several.
    """
    number = classes.label(word)
    if number is None and word.isdecimal() and int(word) < len(classes.ids):
        number = int(word)
    if number is None:
        many = "several classes have this name" if word in classes.names else "no such class"
        raise ValueError(
            f"--classes {word}: {many}; give the id, name or number of a class, such as "
            f"{classes.ids[0]}, {classes.names[0]} or 0"
        )
    return number
