"""Starts small trainings through the command line, in this process or in one of its own."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bagnet.training.command_line.command import main

REPOSITORY = Path(__file__).parent.parent
TINY = [
    *("--patch", "9", "--gpus", "0", "--model.width", "4"),
    *("--data.image_size", "32", "--data.resize_size", "32", "--data.batch_size", "24"),
    *("--evidence_images", "0"),
    *("--data.workers", "0", "--trainer.enable_progress_bar", "false"),
]


def train(shards: Path, *more: str) -> int:
    return main([*TINY, "--data.root", str(shards), *more])


def table(run: str, runs_dir: str = "runs") -> list[dict[str, str]]:
    with Path(runs_dir, run, "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def spawn(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """A real process, as a user starts it."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(REPOSITORY / "train.py"), *arguments]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, **options
    )
