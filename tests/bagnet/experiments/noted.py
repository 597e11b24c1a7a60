"""An experiment that is slow enough to be killed. Run as a script, it is a command of its own.

Each batch that it measures is noted in the file NOTES, by its first sample and the process.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from bagnet.experiments.__main__ import COMMANDS, main
from bagnet.experiments.measuring import measure as measuring
from bagnet.experiments.options import MeasureOptions
from bagnet.model.registry import normalize
from datamodules.common.commands import Command, parse

NOTES = "notes.txt"


@dataclass(frozen=True)
class Noted:
    """Logits and the brightness of each image.

    Attributes:
        folder: Where the notes are.
        seconds: Pause in each batch.
    """

    folder: str
    seconds: float = field(default=0.0, repr=False)

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, sample_ids: Tensor
    ) -> Mapping[str, np.ndarray]:
        with open(f"{self.folder}/{NOTES}", "a") as notes:
            notes.write(f"{sample_ids[0]} {os.getpid()}\n")
        time.sleep(self.seconds)
        with torch.no_grad():
            logits = model(normalize(images))
        return {
            "logits": logits.cpu().numpy(),
            "brightness": images.double().mean((1, 2, 3)).cpu().numpy(),
        }


@dataclass(frozen=True, kw_only=True)
class NotedOptions(MeasureOptions):
    """Options of this experiment.

    Args:
        notes: Where the notes are written.
        seconds: Pause in each batch.
    """

    notes: str = "."
    seconds: float = 0.0


COMMAND = Command("tests.bagnet.experiments.noted", NotedOptions)


def run(options: NotedOptions) -> None:
    tables = measuring.measure("noted", Noted(options.notes, options.seconds), options)
    print({label: table.num_rows for label, table in tables.items()})


def measure(command: list[str], *more: str) -> dict[str, pa.Table]:
    options: NotedOptions = parse("noted", COMMAND, [*command, *more])
    return measuring.measure("noted", Noted(options.notes, options.seconds), options)


def notes(folder: Path) -> list[list[str]]:
    file = folder / NOTES
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def same(a: dict[str, pa.Table], b: dict[str, pa.Table]) -> bool:
    return a.keys() == b.keys() and all(a[label].equals(b[label]) for label in a)


if __name__ == "__main__":
    measuring.PART = 10
    torch.set_num_threads(1)
    COMMANDS["noted"] = COMMAND
    sys.exit(main(sys.argv[1:]))
