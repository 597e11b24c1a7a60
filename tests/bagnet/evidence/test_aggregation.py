"""Aggregations, on maps whose result is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bagnet.evidence import aggregation


@pytest.fixture
def evidence() -> Tensor:
    """Two images, three classes, 4x5 entries."""
    return torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * 20


def one_class(rows: list[list[float]]) -> Tensor:
    return torch.tensor([[rows]])


def test_the_mean_is_the_mean(evidence):
    torch.testing.assert_close(aggregation.mean(evidence), evidence.sum((2, 3)) / 20)


@pytest.mark.parametrize("columns", [5, 4, 1])
def test_the_median_lies_in_the_middle_of_odd_and_even_counts(evidence, columns):
    odd = evidence[:, :, :3, :columns]
    expected = torch.quantile(odd.flatten(2), 0.5, dim=2)
    torch.testing.assert_close(aggregation.median(odd), expected)


def test_clamping_lifts_what_is_below_the_threshold():
    rows = [[-5.0, 1.0], [3.0, 9.0]]
    assert aggregation.clamp(one_class(rows), 2).item() == (2 + 2 + 3 + 9) / 4


def test_binarising_counts_what_is_above_the_threshold():
    rows = [[-5.0, 2.0], [3.0, 9.0]]
    assert aggregation.binarise(one_class(rows), 2).item() == 0.5
    assert aggregation.binarise(one_class(rows), 9).item() == 0


def test_tanh_and_sigmoid_bound_each_vote():
    rows = [[20.0, 40.0], [1e9, -1e9]]
    assert aggregation.clipped(one_class(rows)).item() == pytest.approx((math.tanh(1) + 1 - 1) / 4)
    assert aggregation.sigmoid(one_class([[0.0, 1e9]])).item() == 0.75


def test_the_mean_of_the_strongest_leaves_out_the_others():
    rows = [[-5.0, 1.0], [3.0, 9.0]]
    assert aggregation.top_mean(one_class(rows), 2).item() == 6
    for count in (0, 5):
        with pytest.raises(ValueError, match=f"{count} strongest entries.*from 1 to 4"):
            aggregation.top_mean(one_class(rows), count)


def test_masking_drops_the_strongest_window():
    rows = [[5.0, 1.0, 0.0], [2.0, -100.0, 4.0], [0.0, 4.0, 4.0]]
    # The windows sum to 8, 5, 6 and 12, as negative evidence counts as 0.
    assert aggregation.masked(one_class(rows), 2).item() == pytest.approx((20 - 12) / 9)
    assert aggregation.masked(one_class(rows), 1).item() == pytest.approx((20 - 5) / 9)
    assert aggregation.masked(one_class(rows), 3).item() == 0
    assert aggregation.masked(one_class(rows), 9).item() == 0
    with pytest.raises(ValueError, match="window of 0 entries"):
        aggregation.masked(one_class(rows), 0)


def test_each_class_has_a_mask_of_its_own():
    first, second = [[9.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 7.0]]
    evidence = torch.tensor([[first, second]])
    assert aggregation.masked(evidence, 1).tolist() == [[0.25, 0.25]]


@pytest.mark.parametrize("window", [1, 2, 4, 7])
def test_window_sums_are_sums_over_every_window(evidence, window):
    sums = aggregation.window_sums(evidence, window)
    height, width = min(window, 4), min(window, 5)
    assert sums.shape == (2, 3, 4 - height + 1, 5 - width + 1)
    for i in range(sums.shape[2]):
        for j in range(sums.shape[3]):
            expected = evidence[:, :, i : i + height, j : j + width].sum((2, 3))
            torch.testing.assert_close(sums[:, :, i, j], expected)
