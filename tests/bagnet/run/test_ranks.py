"""A process knows which rank it is, whatever an earlier launcher has left in the environment."""

from __future__ import annotations

import os

import pytest

from bagnet.run import ranks
from tests.trainings import TINY, spawn, table


@pytest.fixture
def alone(monkeypatch) -> pytest.MonkeyPatch:
    for name in ("RANK", "LOCAL_RANK", "BAGNET_RANK_0", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_numbers_that_nobody_has_set_for_this_process_are_ignored(alone, capsys):
    alone.setenv("LOCAL_RANK", "1")
    ranks.end_with_rank_0()
    assert "LOCAL_RANK" not in os.environ
    assert capsys.readouterr().err == (
        "LOCAL_RANK=1 is ignored: neither torchrun nor srun has set it\n"
    )
    ranks.end_with_rank_0()
    assert capsys.readouterr().err == ""


def test_the_numbers_of_torchrun_stay(alone, capsys):
    alone.setenv("LOCAL_RANK", "1")
    alone.setenv("TORCHELASTIC_RUN_ID", "none")
    ranks.end_with_rank_0()
    assert os.environ["LOCAL_RANK"] == "1"
    assert capsys.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize("devices", ["1", "2"])
def test_a_training_prints_and_logs_in_spite_of_left_over_numbers(
    shards, tmp_path, monkeypatch, devices
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("RANK", "3")
    flags = ("--trainer.max_epochs", "1", "--trainer.devices", devices)
    done = spawn(*TINY, "--data.root", str(shards), *flags)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("is ignored") == 2
    assert "metrics      runs/bagnet9/metrics.csv" in done.stdout
    assert table("bagnet9")[-1]["val/top1"]


@pytest.mark.parametrize(
    ("variables", "first"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0", "SLURM_PROCID": "1"}, True),  # torchrun under srun
        ({"RANK": "2", "LOCAL_RANK": "0", "SLURM_PROCID": "0"}, False),
        ({"SLURM_PROCID": "1"}, False),
        ({"LOCAL_RANK": "1"}, False),
    ],
)
def test_one_process_is_the_first_however_it_was_launched(monkeypatch, variables, first):
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert ranks.is_first() is first
