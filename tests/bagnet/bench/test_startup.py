"""The startup benchmark: real processes that reach their first step, timed from outside."""

from __future__ import annotations

import pytest


@pytest.mark.slow
def test_processes_are_timed_to_their_first_batch_and_step_or_to_their_end(shards, figures, output):
    variants = ["--variants", "help", "import-torch", "minimal-0", "train-0"]
    seconds = figures("startup", str(shards), "--rounds", "1", *variants)["seconds"]
    ((answered,),), ((imported,),) = seconds["help"], seconds["import-torch"]
    assert 0 < answered < imported
    for name in ("minimal-0", "train-0"):
        ((batch, step),) = seconds[name]
        assert imported < batch < step < 600
    assert f"{seconds['train-0'][0][1]:.2f}" in output()


@pytest.mark.slow
def test_a_process_that_fails_is_one_line(tmp_path, error):
    message = error("startup", str(tmp_path), "--rounds", "1", "--variants", "train-0")
    assert "train-0 failed: error: the data folder" in message


def test_an_unknown_variant_is_one_line(tmp_path, error):
    message = error("startup", str(tmp_path), "--variants", "train-3")
    assert "--variants train-3: choose from import-torch" in message
