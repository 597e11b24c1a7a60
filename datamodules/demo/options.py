"""The options of the command, which its flags are made from. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jsonargparse.typing import NonNegativeInt


@dataclass(frozen=True)
class DemoOptions:
    """What to generate.

    Args:
        out: Folder of the data set.
        train: Number of training images.
        val: Number of validation images.
        seed: Seed of all images.
    """

    out: Path
    train: NonNegativeInt = 1500
    val: NonNegativeInt = 300
    seed: NonNegativeInt = 0
