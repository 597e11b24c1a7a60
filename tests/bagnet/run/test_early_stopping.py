"""Lightning's EarlyStopping, by flag: it ends a run, says why, and is resumed with its state."""

from __future__ import annotations

import pytest
import torch

from bagnet.run.folder import Run
from tests.trainings import table, train

WAITS_FOR_TWO_EPOCHS = (
    *("--name", "x", "--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/top1"),
    *("--trainer.callbacks.mode=max", "--trainer.callbacks.patience=2"),
    "--trainer.callbacks.min_delta=1",  # after the first epoch, nothing is an improvement
)
WHY = "Monitored metric val/top1 did not improve in the last 2 records. Best score: "
RESUME = ("--resume", "auto")


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return Run("x")


def epochs() -> list[int]:
    return [int(row["epoch"]) for row in table("x") if row["val/top1"]]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize("first", [[], ["2"]])
def test_it_ends_the_run_with_its_reason_also_after_a_resume(shards, run, capsys, first):
    for epoch in first:
        assert train(shards, *WAITS_FOR_TWO_EPOCHS, "--trainer.max_epochs", epoch) == 0
        assert "stopped " not in capsys.readouterr().out
    longer = ("--trainer.max_epochs", "9", *RESUME)
    assert train(shards, *WAITS_FOR_TWO_EPOCHS, *longer) == 0
    out = capsys.readouterr().out
    assert f"\nstopped      {WHY}" in out
    assert "Signaling" not in out
    assert epochs() == [0, 1, 2]

    assert train(shards, *WAITS_FOR_TWO_EPOCHS, *longer) == 0  # as a requeued job would
    assert f"runs/x is complete: {WHY}" in capsys.readouterr().out
    assert epochs() == [0, 1, 2]
    assert train(shards, "--name", "x", *RESUME, "--trainer.max_epochs", "4") == 0  # without it
    assert epochs() == [0, 1, 2, 3]
    assert torch.load(run.last, weights_only=True)["global_step"] == 4 * (150 // 24)
