"""Killed or asked to stop at any batch, a run resumes without losing a sample or changing a bit."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bagnet.training.classifier import BagNetClassifier
from bagnet.training.command_line.command import main as train
from datamodules.audit.verdict import audit
from tests.slurm.cluster import PATIENCE
from tests.slurm.runs import curve
from tests.starts import (
    ENDLESS,
    EPOCHS,
    FLAGS,
    LONG,
    RESUME,
    STEPS,
    end,
    kill_at,
    run_until,
    start,
    wait,
)


def check_audit(folder: Path, restarts: int) -> None:
    report = audit(folder / "audit")
    assert report.problems == []
    assert {epoch.verdict for epoch in report.epochs} == {"exact"}
    assert report.restarts == restarts


def weights(folder: Path) -> dict[str, torch.Tensor]:
    last = torch.load(folder / "runs/x/checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == EPOCHS * STEPS
    return last["state_dict"]


def different(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> list[str]:
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]


@pytest.fixture
def handlers() -> Iterator[None]:
    """Restores the handler of SIGTERM, which a training that was stopped ignores from then on."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("handlers")
def test_asked_to_stop_in_one_process_the_weights_are_the_same_to_the_bit(
    shards, tmp_path, monkeypatch, capsys
):
    flags = [*FLAGS, "--data.root", str(shards), "--data.workers", "0"]
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "whole")
    assert train(flags) == 0

    def ask(module, batch, batch_idx):
        if module.global_step == STEPS + 5:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.chdir(tmp_path / "stopped")
    with monkeypatch.context() as patch:
        patch.setattr(BagNetClassifier, "on_train_batch_start", ask)
        assert train(flags) == 128 + signal.SIGTERM
    assert "stopped by SIGTERM, saved; resume with: " in capsys.readouterr().out
    assert train([*flags, *RESUME]) == 0
    check_audit(tmp_path / "stopped", restarts=1)
    assert different(weights(tmp_path / "stopped"), weights(tmp_path / "whole")) == []


@pytest.fixture(scope="module")
def undisturbed(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """The curve of two ranks that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    end(start(folder, shards, 2, *LONG))
    return curve(folder, "x")


@pytest.mark.slow
def test_killed_and_resumed_on_other_numbers_of_ranks_the_epochs_are_exact(shards, tmp_path):
    kill_at(tmp_path, shards, 3, 5)
    kill_at(tmp_path, shards, 1, 9, *RESUME)
    kill_at(tmp_path, shards, 4, 3, *RESUME)
    end(start(tmp_path, shards, 2, *RESUME))
    weights(tmp_path)
    check_audit(tmp_path, restarts=3)


@pytest.mark.slow
def test_asked_to_stop_again_and_again_the_curve_is_that_of_an_undisturbed_run(
    shards, tmp_path, undisturbed
):
    resume: tuple[str, ...] = ()
    for step, number in [(17, signal.SIGTERM), (30, signal.SIGUSR1), (44, signal.SIGINT)]:
        run = run_until(tmp_path, shards, 2, step, *LONG, *resume)
        os.kill(run.pid, number)  # one rank only: they agree
        out = end(run, 128 + number)
        assert f"stopped by {number.name}, saved; resume with: " in out
        assert "Traceback" not in out
        assert "leaked" not in out
        resume = RESUME
    out = end(start(tmp_path, shards, 2, *LONG, *resume))
    assert "leaked" not in out
    check_audit(tmp_path, restarts=3)
    assert curve(tmp_path, "x") == undisturbed


@pytest.mark.slow
def test_of_two_starts_the_older_one_stops_and_the_run_is_that_of_one(
    shards, tmp_path, undisturbed
):
    """As when a lost node comes back: its tasks continue, while the job was started elsewhere."""
    older = run_until(tmp_path, shards, 2, 30, *LONG)
    os.killpg(older.pid, signal.SIGSTOP)
    newer = start(tmp_path, shards, 2, *LONG, *RESUME)
    starts = tmp_path / "runs/x/starts.jsonl"
    wait(newer, lambda: starts.read_text().count("\n") == 2, "the second start")
    os.killpg(older.pid, signal.SIGCONT)
    out, _ = older.communicate(timeout=PATIENCE)
    assert older.returncode != 0
    assert "error: runs/x was started again at" in out
    assert "Traceback" not in out
    end(newer)
    check_audit(tmp_path, restarts=1)
    assert curve(tmp_path, "x") == undisturbed


@pytest.mark.slow
def test_a_second_signal_ends_at_once(shards, tmp_path):
    run = run_until(tmp_path, shards, 1, 3, *ENDLESS)
    os.kill(run.pid, signal.SIGSTOP)  # so that both come between two batches
    os.kill(run.pid, signal.SIGTERM)
    os.kill(run.pid, signal.SIGINT)
    os.kill(run.pid, signal.SIGCONT)
    out, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode in (-signal.SIGTERM, -signal.SIGINT), out


@pytest.mark.slow
def test_a_signal_during_the_imports_is_not_lost(shards, tmp_path):
    run = start(tmp_path, shards, 1, *ENDLESS)
    status = Path(f"/proc/{run.pid}/status")

    def is_handled() -> bool:  # the handler comes before the imports
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("SigCgt:")]
        return bool(int(line.split()[1], 16) >> (signal.SIGUSR1 - 1) & 1)

    wait(run, is_handled, "the handler")
    os.kill(run.pid, signal.SIGUSR1)
    assert "stopped by SIGUSR1, nothing to save yet" in end(run, 128 + signal.SIGUSR1)
