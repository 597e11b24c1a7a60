"""Measures how long a process takes to its first batch and its first training step.

The processes take turns, and each is timed from outside. Python and the system have cached their
files.

* import-torch, import-lightning: only the import, which any such program waits for.
* help: `python train.py --help`.
* minimal-0, minimal-2: the shortest Lightning script that trains the same network, on random images
  with 0 and with 2 workers.
* train-0, train-2: `train.py` on packed data, with all that a run sets up (its folder, its loggers,
  W&B offline).
"""

from __future__ import annotations

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

from bagnet.bench.lib.report import show, write
from bagnet.bench.lib.rounds import chosen, take_turns
from bagnet.bench.options import StartupOptions

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
    images = torch.utils.data.TensorDataset(torch.randn(64, 3, 64, 64), torch.zeros(64).long())
    loader = torch.utils.data.DataLoader(images, 16, num_workers=int(sys.argv[2]))
    trainer = Trainer(max_steps=1, logger=False, enable_checkpointing=False, accelerator="cpu",
                      callbacks=[FirstStep(sys.argv[1])], enable_progress_bar=False)
    trainer.fit(Module(), loader)
"""


class FirstStep(Callback):
    """Notes when the first batch has arrived and when the first step is done.

    Args:
        file: Receives both, in seconds of the system's clock.
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


def run(options: StartupOptions) -> None:
    """Run the benchmark and print its table.

    Raises:
        ValueError: A variant does not exist, or its process fails.
    """
    ways = _ways(options)
    names = chosen(ways, options.variants)
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


def _ways(options: StartupOptions) -> dict[str, list[str]]:
    """The arguments of Python; `{file}` stands for the file that receives the moments."""
    script = str(REPOSITORY / "train.py")
    ours = [
        *(script, "--patch", "33", "--model.width", "16", "--gpus", "0", "--name", "startup"),
        *("--data.root", str(options.root.resolve()), "--data.batch_size", "16"),
        *("--data.image_size", "64", "--data.resize_size", "64"),
        *("--trainer.max_steps", "1", "--trainer.limit_val_batches", "2"),
        "--trainer.callbacks+=bagnet.bench.startup.FirstStep",
        "--trainer.callbacks.file={file}",
    ]
    return {
        "import-torch": ["-c", "import torch"],
        "import-lightning": ["-c", "import pytorch_lightning"],
        "help": [script, "--help"],
        "minimal-0": ["{minimal}", "{file}", "0"],
        "train-0": [*ours, "--data.workers", "0"],
        "minimal-2": ["{minimal}", "{file}", "2"],
        "train-2": [*ours, "--data.workers", "2"],
    }


def _start(name: str, words: Sequence[str]) -> list[float]:
    """Seconds from the start of a process to its two moments, or to its end if it writes none.

    Raises:
        ValueError: The process fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        file, minimal = Path(folder, "moments"), Path(folder, "minimal.py")
        minimal.write_text(MINIMAL)  # a file, because spawned workers import it
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
