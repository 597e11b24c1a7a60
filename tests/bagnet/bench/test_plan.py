"""The plan benchmark: both variants give a rank as many samples, none of them twice."""

from __future__ import annotations

import numpy as np
import pytest

from bagnet.bench import plan


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
    assert list(again(steps // 2)) == epochs[1][steps // 2 * batch :][:batch]  # as a resume does


@pytest.mark.slow
def test_both_variants_are_measured_in_processes_with_nothing_else_in_memory(figures, output):
    ballast = np.ones(2**26)  # 512 MiB, which must not be counted
    words = ["--samples", "3000000", "--ranks", "8", "--batch_size", "4096", "--rounds", "1"]
    found = figures("plan", *words)["begin_resume_epoch_seconds_mib"]
    assert ballast.any()
    assert list(found) == ["3,000,000 / 8 plan", "3,000,000 / 8 sampler"]
    ours, sampler = (rounds[0] for rounds in found.values())
    for begin, resume, epoch, _ in (ours, sampler):
        assert 0 < begin < epoch
        assert resume > 0
    assert sampler[-1] > 3_000_000 * 8 / 2**20  # MiB: at least the int64 of each id
    assert ours[-1] < 0.2 * sampler[-1]
    assert "3,000,000 / 8 sampler" in output()


def test_the_table_has_a_row_for_each_case(monkeypatch, figures, output):
    monkeypatch.setattr(plan, "_in_process", lambda *case: (0.001, 0.002, 0.003, 4.0))
    figures("plan", "--samples", "3000", "--ranks", "2", "4", "--rounds", "1")
    rows = [line.split() for line in output().splitlines() if "3,000 /" in line]
    assert [row[2:4] for row in rows] == [[n, way] for n in "24" for way in ("plan", "sampler")]
    assert rows[0][4:] == ["1", "1-1", "2", "3", "4"]
