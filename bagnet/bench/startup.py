"""How long a process takes to its first batch and training step.

Real processes take turns, each timed from outside; they find the files that Python and the system have cached.

* import-torch, import-lightning: nothing else, what any such program waits for.
* help: `python train.py --help`.
* minimal-0, minimal-2: the shortest Lightning script that trains the same network, on random images,
  with 0 and with 2 workers.
* train-0, train-2: `train.py`, the same from packed data, with all that a run sets up (its folder, its loggers, W&B offline).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from bagnet.bench.lib.report import parser_of, show, write
from bagnet.bench.lib.rounds import take_turns

REPOSITORY = Path(__file__).parents[2]

MINIMAL = """
import sys
import torch
from pytorch_lightning import LightningModule, Trainer
from bagnet.bench.startup import FirstStep
from bagnet.model.registry import build_model

class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.model = build_model("bagnet33", width=16)
    def training_step(self, batch, batch_idx):
        images, labels = batch
        return torch.nn.functional.cross_entropy(self.model(images), labels)
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)

if __name__ == "__main__":
    workers, side, batch = map(int, sys.argv[2:])
    images = torch.utils.data.TensorDataset(torch.randn(64, 3, side, side), torch.zeros(64).long())
    loader = torch.utils.data.DataLoader(images, batch, num_workers=workers)
    trainer = Trainer(max_steps=1, logger=False, enable_checkpointing=False, accelerator="cpu",
                      callbacks=[FirstStep(sys.argv[1])], enable_progress_bar=False)
    trainer.fit(Module(), loader)
"""


class FirstStep(Callback):
    """Writes down when the first batch was there and when the first step was done.

    Args:
        file: Gets both, in seconds of the system's clock.
    """

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            self.batch = time.time()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            self.file.write_text(f"{self.batch} {time.time()}")


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark and print its table; returns the exit code."""
    parser = parser_of("startup", __doc__)
    add = parser.add_argument
    add("root", metavar="DIR", type=Path, help="packed data, to train on")
    add("--image-size", type=int, default=64, help="side in pixels (64)")
    add("--batch-size", type=int, default=16, help="(16)")
    add("--rounds", type=int, default=3, help="(3)")
    add("--variants", nargs="+", default=[], metavar="NAME", help="(all)")
    add("--out", type=Path, help="write the figures there as JSON")
    options = parser.parse_args(arguments)
    ways = _ways(options)
    unknown = [name for name in options.variants if name not in ways]
    if unknown:
        raise ValueError(f"--variants {unknown[0]}: there is {', '.join(ways)}")
    names = options.variants or list(ways)
    figures = take_turns(names, options.rounds, lambda name: _start(name, ways[name]))
    rows = []
    for name, rounds in figures.items():
        columns = [
            [f"{statistics.median(times):.2f}", f"{min(times):.2f}-{max(times):.2f}"]
            for times in zip(*rounds, strict=True)
        ]
        rows.append([name, *chain(*columns), *["", ""] * (2 - len(columns))])
    show(["seconds until", "first batch or end", "range", "first step", "range"], rows)
    write(options, {"seconds": figures})
    return 0


def _ways(options: argparse.Namespace) -> dict[str, list[str]]:
    """What to give to Python; ``{file}`` stands for where the moments are to be written."""
    script = str(REPOSITORY / "train.py")
    side, batch = str(options.image_size), str(options.batch_size)
    ours = [
        *(script, "--patch", "33", "--model.width", "16", "--gpus", "0", "--name", "startup"),
        *("--data.root", str(options.root.resolve()), "--data.batch_size", batch),
        *("--data.image_size", side, "--data.resize_size", side),
        *("--trainer.max_steps", "1", "--trainer.limit_val_batches", "2"),
        "--trainer.callbacks+=bagnet.bench.startup.FirstStep",
        "--trainer.callbacks.file={file}",
    ]
    return {
        "import-torch": ["-c", "import torch"],
        "import-lightning": ["-c", "import pytorch_lightning"],
        "help": [script, "--help"],
        "minimal-0": ["{minimal}", "{file}", "0", side, batch],
        "train-0": [*ours, "--data.workers", "0"],
        "minimal-2": ["{minimal}", "{file}", "2", side, batch],
        "train-2": [*ours, "--data.workers", "2"],
    }


def _start(name: str, words: Sequence[str]) -> list[float]:
    """Seconds from the start of a process to its two moments, or to its end if it writes none.

    Raises:
        ValueError: The process failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        file, minimal = Path(folder, "moments"), Path(folder, "minimal.py")
        minimal.write_text(MINIMAL)  # a file: workers that are spawned import it
        command = [word.format(file=file, minimal=minimal) for word in words]
        begin = time.time()
        done = subprocess.run(
            [sys.executable, *command],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "WANDB_MODE": "offline"},
            capture_output=True,
            text=True,
        )
        end = time.time()
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise ValueError(f"{name} failed: {reason[0]}")
        moments = file.read_text().split() if file.exists() else [str(end)]
    return [float(moment) - begin for moment in moments]
