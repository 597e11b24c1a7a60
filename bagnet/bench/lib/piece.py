"""One piece of `bench gpu` at work: its commands, its files, and the time that it has."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bagnet.bench.lib.photos import pack_photos
from datamodules.processes.children import available_cpus

TRAIN = Path(__file__).parents[3] / "train.py"
SECONDS = 570  # of a piece, at most
IMAGES = {"train": 38_400, "val": 512}  # 300 steps of 128

TOY_IMAGES = {"train": 240, "val": 16}  # 60 steps of 4
TOY_NETWORK = ["--device", "cpu", "--model", "bagnet9", "--width", "2", "--image_size", "41"]
TOY_NETWORK += ["--rounds", "1"]
TOY_TRAINING = ["--patch", "9", "--gpus", "0", "--model.width", "4", "--data.batch_size", "4"]
TOY_TRAINING += ["--data.image_size", "24", "--data.resize_size", "28", "--data.workers", "1"]


class Failed(Exception):
    """A piece found something that is wrong."""


class Piece:
    """One piece at work.

    Args:
        name: Its name.
        out: Folder for figures and log.
        data: Folder for images and runs.
        rehearse: Whether the sizes are those of a toy, on the CPU.
        seconds: Time that it has, if that is less than `SECONDS`.

    Attributes:
        log: What its commands say.
        table: What its benchmark prints, for the summary.
        limit: Seconds that it may take.
    """

    def __init__(self, name: str, out: Path, data: Path, rehearse: bool, seconds: float) -> None:
        self.name, self.out, self.data, self.rehearse = name, out, data, rehearse
        self.limit = max(1.0, min(SECONDS, seconds))
        self._deadline = time.monotonic() + self.limit
        self.log, self.table = out / f"{name}.log", out / f"{name}.txt"
        self.log.write_text("")
        self.table.unlink(missing_ok=True)

    def python(
        self,
        title: str,
        *words: str | Path,
        code: int = 0,
        output: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Run Python. The command goes into the log, and its title to the terminal.

        Args:
            title: What tells the command from the others.
            words: The arguments of Python.
            code: The exit code to expect.
            output: File for its standard output; by default the log.
            variables: Environment variables to set.

        Raises:
            Failed: It does not end in time, or with another exit code.
        """
        command = [sys.executable, *map(str, words)]
        print(f"  {title}", flush=True)
        environment = {**os.environ, "WANDB_MODE": "disabled", "COLUMNS": "80"}
        if self.rehearse:  # compiling takes minutes on a CPU at any size, threads only wait
            environment |= {"TORCH_COMPILE_DISABLE": "1", "OMP_NUM_THREADS": "1"}
        with self.log.open("a") as log, (output or self.log).open("a") as out:
            print(f"$ {shlex.join(command)}", file=log, flush=True)
            try:
                done = subprocess.run(
                    command,
                    env={**environment, **(variables or {})},
                    stdout=out,
                    stderr=log,
                    timeout=max(1.0, self._deadline - time.monotonic()),
                )
            except subprocess.TimeoutExpired:
                raise Failed(f"{title}: not done after {self.limit:.0f} s") from None
        if done.returncode != code:
            raise Failed(f"{title}: exit code {done.returncode}, expected {code}")

    def bench(self, name: str, *words: str, toy: Sequence[str] = ()) -> dict[str, Any]:
        """Run a benchmark, whose tables go into the summary; returns its figures.

        Args:
            name: Its name.
            words: Its settings.
            toy: Settings that replace them in a rehearsal.

        Raises:
            Failed: It fails.
        """
        figures = self.out / f"{self.name}.json"
        toy = [*TOY_NETWORK, *toy] if self.rehearse else []
        command = ["-m", "bagnet.bench", name, "--out", str(figures), *words, *toy]
        self.python(f"bench {name}", *command, output=self.table)
        found: dict[str, Any] = json.loads(figures.read_text())
        return found

    def train(
        self,
        name: str,
        *words: str,
        code: int = 0,
        resume: bool = False,
        variables: Mapping[str, str] | None = None,
    ) -> Path:
        """Train a BagNet on generated images; returns the run's folder.

        Args:
            name: Name of the run.
            words: Settings beyond those of all trainings.
            code: The exit code to expect.
            resume: Whether to resume the run of this name, instead of deleting it.
            variables: Environment variables to set.

        Raises:
            Failed: It ends with another exit code.
        """
        pack_photos(self.data, TOY_IMAGES if self.rehearse else IMAGES)
        run = self.data / "runs" / name
        if resume:
            words = (*words, "--resume", "auto")
        else:
            shutil.rmtree(run, ignore_errors=True)
        self.python(
            shlex.join(["train.py", "--name", name, *words]),
            *(TRAIN, "--patch", "33", "--gpus", "1", "--data.root", self.data),
            *("--runs_dir", run.parent, "--name", name, "--data.batch_size", "128"),
            *("--data.workers", str(min(12, available_cpus())), "--evidence_images", "0"),
            *("--trainer.max_epochs", "1", "--trainer.limit_val_batches", "2"),
            *("--trainer.log_every_n_steps", "20", "--trainer.enable_progress_bar", "false"),
            *(TOY_TRAINING if self.rehearse else []),
            *words,
            code=code,
            variables=variables,
        )
        shutil.copy(run / "metrics.csv", self.out / f"{name}.csv")
        return run
