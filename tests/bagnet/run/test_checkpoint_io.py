"""Checkpoint files are whole at any moment, and a snapshot shares nothing with the training."""

from __future__ import annotations

import threading

import pytest
import torch

from bagnet.run.checkpoint_io import AtomicCheckpointIO, Background, snapshot


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
