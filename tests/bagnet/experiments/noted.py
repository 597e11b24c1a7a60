"""An experiment that is slow enough to be killed, for real processes: run as a script, it is a command of its own.

Each batch it measures is noted in the file NOTES, by its first sample and the process.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from bagnet.experiments.__main__ import EXPERIMENTS, main
from bagnet.experiments.measuring import persample
from bagnet.model.registry import normalize

NOTES = "notes.txt"


@dataclass(frozen=True)
class Noted:
    """Logits and the brightness of each image.

    Attributes:
        folder: Of the notes.
        seconds: To sleep in each batch.
    """

    folder: str
    seconds: float = 0.0

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    persample.add_arguments(parser)
    parser.add_argument("--notes", default=".")
    parser.add_argument("--seconds", type=float, default=0.0)


def run(options: argparse.Namespace) -> None:
    tables = persample.measure("noted", Noted(options.notes, options.seconds), options)
    print({label: table.num_rows for label, table in tables.items()})


if __name__ == "__main__":
    persample.PART = 10
    torch.set_num_threads(1)
    EXPERIMENTS["noted"] = sys.modules[__name__]
    sys.exit(main(sys.argv[1:]))
