"""The plan benchmark: both ways give a rank as many samples, none twice, and are measured in processes of their own."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bagnet.bench import plan
from bagnet.bench.__main__ import main


@pytest.mark.parametrize("way", plan.ORDERS)
def test_both_ways_give_a_rank_as_many_samples_in_another_order_each_epoch(way):
    samples, ranks, batch = 10_050, 8, 32
    steps = samples // (ranks * batch)
    epochs = []
    for epoch in range(2):
        batches = plan.ORDERS[way](epoch, samples, ranks, batch)
        ids = np.concatenate([batches(step) for step in range(steps)])
        assert len(np.unique(ids)) == len(ids) == steps * batch
        assert 0 <= ids.min() <= ids.max() < samples
        epochs.append(ids.tolist())
    assert epochs[0] != epochs[1]
    again = plan.ORDERS[way](1, samples, ranks, batch)
    assert list(again(steps // 2)) == epochs[1][steps // 2 * batch :][:batch]  # a resume


def test_both_ways_are_measured_in_processes_whose_memory_tells_of_nothing_else(tmp_path, said):
    ballast = np.ones(2**26)  # 512 MiB, which no process must be said to take
    flags = ["--samples", "3000000", "--ranks", "8", "--batch-size", "4096", "--rounds", "1"]
    assert main(["plan", *flags, "--out", str(tmp_path / "figures.json")]) == 0
    assert ballast.any()
    figures = json.loads((tmp_path / "figures.json").read_text())["begin_resume_epoch_seconds_mib"]
    assert list(figures) == ["3,000,000 / 8 plan", "3,000,000 / 8 sampler"]
    (plan_, sampler) = (rounds[0] for rounds in figures.values())
    for begin, resume, epoch, _ in (plan_, sampler):
        assert 0 < begin < epoch
        assert resume > 0
    assert sampler[-1] > 3_000_000 * 8 / 2**20  # MiB: at least the int64 of each id
    assert plan_[-1] < 0.2 * sampler[-1]
    assert "3,000,000 / 8 sampler" in said()


def test_more_ranks_than_a_first_batch_has_samples_for_is_one_line(capsys):
    assert main(["plan", "--samples", "1000", "--ranks", "512"]) == 2
    assert "512 ranks take 16384 in their first batch" in capsys.readouterr().err
