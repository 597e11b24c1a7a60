"""Prints the numbers it is given.

Each on a line of its own.

example:
  program print 1 2 3 a/path/that-is-long/and-must-not-be-broken/whatever-the-width-of-the-terminal

They are numbers from mathematics, and so there are many of them, more than there are computers.

* whole: one that is not broken into parts, such as the numbers that people count with,
  and zero.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jsonargparse.typing import NonNegativeInt, PositiveInt

MODULE = __name__


@dataclass(frozen=True)
class Shape:
    """The form of the output.

    Args:
        width: Columns.
    """

    width: PositiveInt = 80


@dataclass(frozen=True, kw_only=True)
class Base:
    """What all commands take.

    Args:
        seed: Seed of everything.
    """

    seed: NonNegativeInt = 0


@dataclass(frozen=True, kw_only=True)
class Options(Base):
    """Options of the command.

    Args:
        numbers: Numbers to print,
            in this order.
        out: Where to.
        kind: How to print them.
        sizes: Sizes of the letters.
        scale: A factor.
        limit: How much to print, as a number or a share.
        quiet: Print nothing.
        shape: The form.
    """

    out: Path
    numbers: list[PositiveInt]
    kind: Literal["plain", "bold"] | None = None
    sizes: list[PositiveInt] = field(default_factory=list)
    scale: float = 1.5
    limit: int | float | None = None
    quiet: bool = False
    shape: Shape = field(default_factory=Shape)


def run(options: Options) -> int | None:
    """End as the number says."""
    endings = {
        1: ValueError("no such number: 1"),
        2: OSError(2, "No such file", "table"),
        3: OSError(28, "No space left on device", "table"),
        4: KeyboardInterrupt(),
        5: KeyboardInterrupt(15),
    }
    if options.numbers[0] in endings:
        raise endings[options.numbers[0]]
    if options.numbers[0] == 9:
        bytes(1 << 60)
    if options.numbers[0] == 8:
        warnings.warn("there are few", UserWarning, stacklevel=1)
    return 1 if options.numbers[0] == 6 else None
