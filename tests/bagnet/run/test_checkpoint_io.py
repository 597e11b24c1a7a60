"""Killed at any moment of a save, a run has its old checkpoint or its new one, whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bagnet.run.checkpoint_io import WholeCheckpointIO
from bagnet.run.folder import is_whole

REPOSITORY = Path(__file__).parents[3]

SAVE_FOR_EVER = """
import itertools, sys
import torch
from bagnet.run.checkpoint_io import WholeCheckpointIO
weights = torch.randn(300_000)
for step in itertools.count():
    WholeCheckpointIO().save_checkpoint({"step": step, "weights": weights}, sys.argv[1])
"""


def test_a_killed_save_leaves_a_whole_checkpoint(tmp_path):
    path = tmp_path / "new" / "last.ckpt"
    saving = subprocess.Popen(
        [sys.executable, "-c", SAVE_FOR_EVER, str(path)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    deadline = time.monotonic() + 120
    while not (path.exists() and torch.load(path, weights_only=True)["step"] >= 3):
        assert time.monotonic() < deadline
    while not path.with_suffix(".tmp").exists():  # it is at the next one
        pass
    saving.send_signal(signal.SIGKILL)
    saving.wait()
    assert is_whole(path)
    assert torch.load(path, weights_only=True)["weights"].shape == (300_000,)


def test_a_save_that_fails_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "last.ckpt"
    WholeCheckpointIO().save_checkpoint({"step": 1}, path)
    with pytest.raises(AttributeError, match="pickle"):
        WholeCheckpointIO().save_checkpoint({"step": lambda: 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
