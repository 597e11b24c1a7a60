"""Starts trainings of tiny networks as a user does, and waits for moments in their lives."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.slurm.cluster import PATIENCE, until

REPOSITORY = Path(__file__).parent.parent
EPOCHS = 2
STEPS = 150 // 12  # of each epoch
FLAGS = [
    *("--name", "x", "--patch", "9", "--gpus", "0", "--model.width", "4"),
    *("--data.batch_size", "12", "--data.image_size", "24", "--data.resize_size", "28"),
    *("--data.audit_dir", "audit"),
    *("--trainer.max_epochs", str(EPOCHS), "--trainer.enable_progress_bar", "false"),
    *("--evidence_images", "0"),
]
SAVE_EVERY_OTHER_STEP = [
    *("--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.dirpath=runs/x/checkpoints"),
    *("--trainer.callbacks.filename=last", "--trainer.callbacks.every_n_train_steps=2"),
    "--trainer.callbacks.enable_version_counter=false",
]
RESUME = ("--resume", "auto")
LONG = ("--trainer.max_epochs", "20", "--trainer.log_every_n_steps", "5")
ENDLESS = ("--trainer.max_epochs", "4000")


def start(
    folder: Path, shards: Path, ranks: int, *more: str, torchrun: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    """Start a training; torchrun starts the ranks if it is given options, otherwise Lightning."""
    command = [sys.executable]
    if torchrun:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    command += [*torchrun, str(REPOSITORY / "train.py"), *FLAGS, "--data.root", str(shards)]
    if not torchrun:
        command += ["--trainer.devices", str(ranks)]
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [*command, "--data.workers", "1", *SAVE_EVERY_OTHER_STEP, *more],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "WANDB_MODE": "disabled"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that all ranks and workers can be killed together
    )


def end(run: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for the end of a run, and return what it said."""
    out, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == code, out
    return out


def wait(run: subprocess.Popen[str], condition: Callable[[], bool], what: str) -> None:
    """Wait for a moment in the life of a run."""

    def has_come() -> bool:
        assert run.poll() is None, run.communicate()[0]
        return condition()

    until(has_come, what, lambda: f"process {run.pid}")


def run_until(
    folder: Path, shards: Path, ranks: int, step: int, *more: str, torchrun: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    """Start a run, and return it when each rank has taken `step` batches."""
    before = set(folder.glob("audit/*"))
    run = start(folder, shards, ranks, *more, torchrun=torchrun)

    def has_taken() -> bool:
        taken = [file.read_text().count("\n") - 1 for file in {*folder.glob("audit/*")} - before]
        return len(taken) == ranks and min(taken) >= step

    wait(run, has_taken, f"step {step}")
    return run


def kill_at(folder: Path, shards: Path, ranks: int, step: int, *more: str) -> None:
    """Kill all processes of a run when each rank has taken `step` batches."""
    run = run_until(folder, shards, ranks, step, *more)
    os.killpg(run.pid, signal.SIGKILL)
    end(run, -signal.SIGKILL)


def group(leader: int) -> list[int]:
    """The living processes of a process group."""
    members = []
    # Not "[0-9]*/stat": glob itself fails where a process ends while it looks.
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            state, _, leader_of_it = (process / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(leader_of_it) == leader and state != "Z":
                members.append(int(process.name))
    return members
