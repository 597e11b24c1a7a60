"""Decisions on scrambled images follow the rules of the metrics."""

from __future__ import annotations

import torch
from torch import nn

from bagnet.experiments.scrambling import ShuffledTiles, decisions
from bagnet.training.metrics import rank_of_label
from tests.bagnet.experiments.bags import Histogram, pictures


def test_only_the_first_of_equal_logits_is_right_and_nan_never_is():
    nan = float("nan")
    logits = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [nan, 1.0, 0.0], [nan, 1.0, 0.0]])
    labels = torch.tensor([0, 1, 0, 1])
    columns = decisions(logits, labels, "image")
    assert columns["rank_image"].tolist() == [0, 1, 3, 1]
    assert columns["rank_image"].tolist() == rank_of_label(logits, labels).tolist()
    assert columns["predicted_image"].tolist()[:2] == [0, 0]


def test_a_network_that_does_not_know_the_order_decides_the_same_in_any_order():
    class Truncated(nn.Module):
        """Few distinct logits, so that many are equal."""

        def forward(self, x):
            return Histogram()(x) // 20

    labels, ids = torch.arange(5), torch.arange(5)
    columns = ShuffledTiles((2, 4), 0)(Truncated(), pictures(5, 16), labels, ids)
    assert set(columns) == {f"{key}_{n}" for key in ("predicted", "rank") for n in (1, 2, 4)}
    for count in (2, 4):
        assert (columns[f"rank_{count}"] == columns["rank_1"]).all()
        assert (columns[f"predicted_{count}"] == columns["predicted_1"]).all()
