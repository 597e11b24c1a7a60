"""Runs are killed, or asked to stop, at random batches and go on: not a sample lost, not a bit changed."""

from __future__ import annotations

import contextlib
import csv
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
    command = [sys.executable, str(REPOSITORY / "train.py"), "--name", "x"]
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


def run_until(
    folder: Path, shards: Path, ranks: int, step: int, *more: str
) -> subprocess.Popen[str]:
    """Start a run and come back when the last of the ranks has taken its `step`-th batch since."""
    before = set((folder / "audit").glob("*")) if (folder / "audit").exists() else set()
    run = start(folder, shards, ranks, *more)
    deadline = time.monotonic() + 240
    while True:
        files = set((folder / "audit").glob("*")) - before
        taken = [file.read_text().count("\n") - 1 for file in files]
        if len(taken) == ranks and min(taken) >= step:
            return run
        assert run.poll() is None, run.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.002)


def kill_at(folder: Path, shards: Path, ranks: int, step: int, *more: str) -> None:
    """Kill all processes of a run."""
    run = run_until(folder, shards, ranks, step, *more)
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


def test_when_the_training_process_dies_its_workers_do_not_stay(shards, tmp_path):
    run = run_until(tmp_path, shards, 1, 3, "--trainer.max_epochs", "4000", "--data.workers", "2")
    assert len(group(run.pid)) >= 4  # with two workers and their server
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    deadline = time.monotonic() + 30
    while group(run.pid):
        assert time.monotonic() < deadline, group(run.pid)
        time.sleep(0.1)


def group(leader: int) -> list[int]:
    """The processes of a process group that live."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            state, _, leader_of_it = stat.read_text().rpartition(")")[2].split()[:3]
            if int(leader_of_it) == leader and state != "Z":
                members.append(int(stat.parent.name))
    return members


LONG = ("--trainer.max_epochs", "40", "--trainer.log_every_n_steps", "5")


def curve(folder: Path) -> list[dict[str, str]]:
    """The table of a run, without what depends on the clock."""
    with (folder / "runs/x/metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    clock = ("throughput/", "memory/")
    return [{k: v for k, v in row.items() if not k.startswith(clock)} for row in rows]


def test_asked_to_stop_again_and_again_the_curve_is_that_of_an_undisturbed_run(shards, tmp_path):
    finish(tmp_path / "undisturbed", shards, 2, *LONG)
    folder = tmp_path / "stopped"
    resume: tuple[str, ...] = ()
    for step, number in [(17, signal.SIGTERM), (30, signal.SIGUSR1), (44, signal.SIGINT)]:
        run = run_until(folder, shards, 2, step, *LONG, *resume)
        os.kill(run.pid, number)  # one rank only: they agree
        out, _ = run.communicate(timeout=120)
        assert run.returncode == 128 + number, out
        assert f"stopped by {number.name}, saved; go on with: python train.py --name x" in out
        assert "Traceback" not in out
        resume = ("--resume", "auto")
    finish(folder, shards, 2, *LONG, *resume)
    assert audit([str(folder / "audit")]) == 0
    assert curve(folder) == curve(tmp_path / "undisturbed")


def test_of_two_copies_the_older_one_stops_and_the_run_is_that_of_one(shards, tmp_path):
    """As after a lost node that comes back: its tasks go on while the job has been started elsewhere."""
    finish(tmp_path / "undisturbed", shards, 2, *LONG)
    folder = tmp_path / "twice"
    older = run_until(folder, shards, 2, 30, *LONG)
    os.killpg(older.pid, signal.SIGSTOP)
    newer = start(folder, shards, 2, *LONG, "--resume", "auto")
    starts = folder / "runs/x/starts.jsonl"
    deadline = time.monotonic() + 240
    while starts.read_text().count("\n") < 2:
        assert newer.poll() is None, newer.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(older.pid, signal.SIGCONT)
    out, _ = older.communicate(timeout=240)
    assert older.returncode != 0
    assert "error: runs/x was started again at" in out
    assert "Traceback" not in out
    out, _ = newer.communicate(timeout=240)
    assert newer.returncode == 0, out
    assert audit([str(folder / "audit")]) == 0
    assert curve(folder) == curve(tmp_path / "undisturbed")


def test_a_second_signal_ends_at_once(shards, tmp_path):
    run = run_until(tmp_path, shards, 1, 3, "--trainer.max_epochs", "4000")
    os.kill(run.pid, signal.SIGSTOP)  # so that both come between two batches
    os.kill(run.pid, signal.SIGTERM)
    os.kill(run.pid, signal.SIGINT)
    os.kill(run.pid, signal.SIGCONT)
    out, _ = run.communicate(timeout=60)
    assert run.returncode in (-signal.SIGTERM, -signal.SIGINT), out


def test_a_signal_during_the_imports_is_not_lost(shards, tmp_path):
    run = start(tmp_path, shards, 1, "--trainer.max_epochs", "4000")
    time.sleep(1.0)
    os.kill(run.pid, signal.SIGUSR1)
    out, _ = run.communicate(timeout=120)
    assert run.returncode == 128 + signal.SIGUSR1, out
    assert "stopped by SIGUSR1, nothing to save yet" in out
