"""Checkpoint files are whole at any moment, and a snapshot shares nothing with the training."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from bagnet.model.archive import is_whole
from bagnet.run.checkpoint_io import AtomicCheckpointIO, Background, snapshot

REPOSITORY = Path(__file__).parents[3]


def test_a_save_that_fails_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)
    with pytest.raises(AttributeError, match="pickle"):
        AtomicCheckpointIO().save_checkpoint({"step": lambda: 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_snapshot_shares_neither_tensors_nor_lists_with_the_training(tmp_path):
    weight = torch.nn.Parameter(torch.ones(2, 3).t())
    training = {"weights": {"a": weight}, "rates": [0.1], "loops": {"steps": [{"done": 1}]}}
    copy = snapshot(training)
    with torch.no_grad():
        weight += 1
    training["rates"].append(0.2)
    training["loops"]["steps"][0]["done"] = 2
    assert torch.equal(copy["weights"]["a"], torch.ones(3, 2))
    assert copy["weights"]["a"].stride() == weight.stride()
    assert (copy["rates"], copy["loops"]) == ([0.1], {"steps": [{"done": 1}]})


def test_one_thing_is_done_at_a_time_in_order_and_an_error_is_raised_once():
    background, begin, done = Background(), threading.Event(), []

    def fail() -> None:
        assert begin.wait(60)
        done.append("failed")
        raise OSError("full")

    background.start(fail)
    assert not background.has_failed()
    begin.set()
    with pytest.raises(OSError, match="full"):
        background.start(done.append, "never")
    assert not background.has_failed()
    background.start(done.append, "later")
    background.finish()
    assert done == ["failed", "later"]


SAVE_FOREVER = """
import itertools, sys
from pathlib import Path
import torch
from bagnet.run.checkpoints import LastCheckpoint
from bagnet.run.folder import Run
from bagnet.run.lease import Lease
run = Run("x", Path(sys.argv[1]))
last = LastCheckpoint(run, Lease(run.starts))
weights = torch.randn(300_000)
for step in itertools.count():
    last.write_soon({"global_step": step, "weights": weights}, is_best=step % 2 == 0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["last", "previous", "best"])
def test_a_killed_save_leaves_whole_checkpoints(tmp_path, moment):
    folder = tmp_path / "x" / "checkpoints"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", SAVE_FOREVER, str(tmp_path)]
    saving = subprocess.Popen(command, env=environment)
    deadline = time.monotonic() + 240
    paths = [folder / f"{name}.ckpt" for name in ("last", "previous", "best")]
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    while not list(folder.glob(f".{moment}.*.tmp.ckpt")):  # it is writing the next one
        assert time.monotonic() < deadline
    saving.kill()
    saving.wait()
    for path in paths:
        assert is_whole(path)
        assert torch.load(path, weights_only=True)["weights"].shape == (300_000,)
