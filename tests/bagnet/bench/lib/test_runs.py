"""What is read from the folder of a run: its speed, its curve, and what in it is not finite."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bagnet.bench.lib.runs import curve, differences, not_finite, steady

ROWS = """\
step,train/loss_step,val/top1,throughput/samples_per_sec,throughput/data_wait
19,2.5,,100,0.9
39,,,800,0.02
59,1.5,,900,0.01
79,1.25,,850,0.03
99,1.0,0.5,200,0.5
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "metrics.csv").write_text(ROWS)
    return tmp_path


def checkpoint(run: Path, weight: float = 1.0, momentum: float = 1.0) -> None:
    (run / "checkpoints").mkdir(exist_ok=True)
    state = {0: {"momentum_buffer": torch.tensor([0.0, momentum])}}
    last = {"state_dict": {"w": torch.tensor(weight)}, "optimizer_states": [{"state": state}]}
    torch.save(last, run / "checkpoints" / "last.ckpt")


def test_a_curve_has_the_figures_of_each_step_that_has_any(run):
    assert curve(run, "train/", "val/") == {
        19: {"train/loss_step": 2.5},
        59: {"train/loss_step": 1.5},
        79: {"train/loss_step": 1.25},
        99: {"train/loss_step": 1.0, "val/top1": 0.5},
    }


def test_speed_is_that_between_the_first_and_the_last_row(run):
    assert steady(run) == (850, 0.02)


def test_curves_differ_by_any_bit_and_by_any_step():
    first = {1: {"x": 1.0}, 2: {"x": 2.0}}
    assert differences(first, {1: {"x": 1.0}, 2: {"x": 2.0}}) == []
    assert differences(first, {1: {"x": 1.0}, 2: {"x": 2.0 + 2**-51}})[0].startswith("step 2: ")
    assert differences(first, {1: {"x": 1.0}}) == ["step 2: {'x': 2.0} and None"]
    assert differences({1: {"x": float("nan")}}, {1: {"x": float("nan")}})


def test_what_is_not_finite_is_named(run):
    checkpoint(run)
    assert not_finite(run) == []
    checkpoint(run, weight=float("inf"), momentum=float("nan"))
    momentum = "optimizer_states.0.state.0.momentum_buffer"
    assert not_finite(run) == ["state_dict.w", momentum]
    (run / "metrics.csv").write_text(ROWS.replace("1.25", "nan"))
    checkpoint(run)
    assert not_finite(run) == ["train/loss_step of step 79"]
