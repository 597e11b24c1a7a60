"""The progress within a batch, by the passes through the network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bagnet.experiments.measuring import passes as module
from bagnet.experiments.measuring.passes import Passes


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock, which each pass moves on by a second."""
    clock = [0.0]

    def monotonic() -> float:
        clock[0] += 1
        return clock[0]

    monkeypatch.setattr(module.time, "monotonic", monotonic)
    return clock


def test_after_the_first_image_each_pass_brings_a_batch_forward():
    model, added = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), []
    passes = Passes(model, added.append)
    with passes.batch(1):
        for _ in range(8):
            model(torch.zeros(1, 2))
        assert added == [0] * 8  # nothing is known yet, but work goes on
    assert added[8:] == [1]
    with passes.batch(4):
        model(torch.zeros(16, 2))  # of 32 images that enter the network
        assert added[9:] == [2]
        model(torch.zeros(12, 2))
        model(torch.zeros(12, 2))  # some images take more passes than the first
        assert added[9:] == [2, 1.5, 0.5]
    assert sum(added) == 5
    with passes.batch(2):
        pass  # none could be read
    assert sum(added) == 7


def test_reports_are_not_more_frequent_than_a_person_reads(monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 10.0)
    model, added = nn.Linear(2, 2), []
    passes = Passes(model, added.append)
    for images in (1, 20):
        with passes.batch(images):
            for _ in range(images):
                model(torch.zeros(1, 2))
    assert len(added) == 1 + 3  # one for the first image; 10 and 20 s, and the end
    assert sum(added) == pytest.approx(21)


def test_a_closed_counter_leaves_the_network_as_it_was():
    model, added = nn.Linear(2, 2), []
    passes = Passes(model, added.append)
    passes.close()
    with passes.batch(1):
        model(torch.zeros(1, 2))
    assert not model._forward_pre_hooks
    assert added == [1]
