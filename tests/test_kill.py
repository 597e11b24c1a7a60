"""A whole run is killed with SIGKILL at random batches and goes on: not a sample lost, not a bit changed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from datamodules.audit.__main__ import main as audit

REPOSITORY = Path(__file__).parent.parent
EPOCHS = 2
STEPS = 150 // 12  # of each epoch


def start(folder: Path, shards: Path, ranks: int, *more: str) -> subprocess.Popen[str]:
    """Real processes, as a user starts them, that keep a checkpoint every other step."""
    command = [sys.executable, str(REPOSITORY / "train.py"), "--run", "x"]
    command += ["--patch", "9", "--gpus", "0", "--model.width", "4", "--data.root", str(shards)]
    command += ["--data.batch_size", "12", "--data.image_size", "24", "--data.resize_size", "28"]
    command += ["--data.workers", "1", "--data.audit_dir", "audit"]
    command += ["--trainer.max_epochs", str(EPOCHS), "--trainer.enable_progress_bar", "false"]
    command += ["--trainer.devices", str(ranks), "--trainer.callbacks+=ModelCheckpoint"]
    command += ["--trainer.callbacks.dirpath=runs/x/checkpoints"]
    command += ["--trainer.callbacks.filename=last", "--trainer.callbacks.every_n_train_steps=2"]
    command += ["--trainer.callbacks.enable_version_counter=false", *more]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "WANDB_MODE": "disabled"}
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that all ranks and workers can be killed together
    )


def finish(folder: Path, shards: Path, ranks: int, *more: str) -> None:
    run = start(folder, shards, ranks, *more)
    out, _ = run.communicate(timeout=300)
    assert run.returncode == 0, out


def kill_at(folder: Path, shards: Path, ranks: int, step: int, *more: str) -> None:
    """Kill all processes once the last of the ranks has taken its `step`-th batch since the start."""
    before = set((folder / "audit").glob("*")) if (folder / "audit").exists() else set()
    run = start(folder, shards, ranks, *more)
    deadline = time.monotonic() + 240
    while True:
        files = set((folder / "audit").glob("*")) - before
        taken = [file.read_text().count("\n") - 1 for file in files]
        if len(taken) == ranks and min(taken) >= step:
            break
        assert run.poll() is None, run.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    assert run.returncode == -signal.SIGKILL


def weights(folder: Path) -> dict[str, torch.Tensor]:
    last = torch.load(folder / "runs/x/checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == EPOCHS * STEPS
    return last["state_dict"]


@pytest.fixture(scope="module")
def untouched(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights of two ranks that nobody disturbed."""
    folder = tmp_path_factory.mktemp("untouched")
    finish(folder, shards, 2)
    return weights(folder)


@pytest.mark.parametrize("kills", [1, 2])
def test_killed_and_resumed_the_weights_are_the_same_to_the_bit(shards, tmp_path, untouched, kills):
    draw = random.Random(kills)
    kill_at(tmp_path, shards, 2, draw.randint(3, 9))
    for _ in range(kills - 1):
        kill_at(tmp_path, shards, 2, draw.randint(3, 9), "--resume", "auto")
    finish(tmp_path, shards, 2, "--resume", "auto")
    assert audit([str(tmp_path / "audit")]) == 0
    resumed = weights(tmp_path)
    assert resumed.keys() == untouched.keys()
    different = [name for name in resumed if not torch.equal(resumed[name], untouched[name])]
    assert different == []


def test_killed_and_resumed_on_other_numbers_of_ranks_the_epochs_are_exact(
    shards, tmp_path, capsys
):
    kill_at(tmp_path, shards, 3, 5)
    kill_at(tmp_path, shards, 1, 9, "--resume", "auto")
    kill_at(tmp_path, shards, 4, 3, "--resume", "auto")
    finish(tmp_path, shards, 2, "--resume", "auto")
    weights(tmp_path)
    assert audit([str(tmp_path / "audit")]) == 0
    said = capsys.readouterr().out
    assert "2 epochs, 3 restarts" in said
    assert "NOT" not in said
