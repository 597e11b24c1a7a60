"""Aggregations, on maps whose result is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from bagnet.evidence import aggregation


@pytest.fixture
def evidence() -> Tensor:
    """Two images, three classes, 4x5 entries."""
    return torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * 20


@pytest.mark.parametrize("columns", [5, 4, 1])
def test_the_median_lies_in_the_middle_of_odd_and_even_counts(evidence, columns):
    part = evidence[:, :, :3, :columns]
    expected = torch.quantile(part.flatten(2), 0.5, dim=2)
    torch.testing.assert_close(aggregation.median(part), expected)


@pytest.mark.parametrize(
    ("name", "rows", "logit"),
    [
        ("mean", [[-5, 1], [3, 9]], 2),
        ("clamp:2", [[-5, 1], [3, 9]], (2 + 2 + 3 + 9) / 4),
        ("binarise:2", [[-5, 2], [3, 9]], 0.5),
        ("binarise:9", [[-5, 2], [3, 9]], 0),
        ("tanh", [[20, 40], [1e9, -1e9]], (math.tanh(1) + 1 - 1) / 4),
        ("sigmoid", [[0, 1e9]], 0.75),
        ("strongest:2", [[-5, 1], [3, 9]], 6),
        # The windows sum to 8, 5, 6 and 12, as negative evidence counts as 0.
        ("masked:2", [[5, 1, 0], [2, -100, 4], [0, 4, 4]], (20 - 12) / 9),
        ("masked:1", [[5, 1, 0], [2, -100, 4], [0, 4, 4]], (20 - 5) / 9),
        ("masked:3", [[5, 1, 0], [2, -100, 4], [0, 4, 4]], 0),
        ("masked:9", [[5, 1, 0], [2, -100, 4], [0, 4, 4]], 0),
    ],
)
def test_results_computed_by_hand(name, rows, logit):
    assert aggregation.parse(name)(torch.tensor([[rows]]).float()).item() == pytest.approx(logit)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("strongest:0", "0 strongest entries.*from 1 to 20"),
        ("strongest:21", "21 strongest entries.*from 1 to 20"),
        ("masked:0", "window of 0 entries"),
    ],
)
def test_a_number_out_of_range_is_an_error(evidence, name, message):
    with pytest.raises(ValueError, match=message):
        aggregation.parse(name)(evidence)


def test_each_class_has_a_mask_of_its_own():
    first, second = [[9.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 7.0]]
    evidence = torch.tensor([[first, second]])
    assert aggregation.masked(evidence, 1).tolist() == [[0.25, 0.25]]


@pytest.mark.parametrize("window", [1, 2, 4, 7])
def test_window_sums_are_sums_over_every_window(evidence, window):
    sums = aggregation.window_sums(evidence, window)
    height, width = min(window, 4), min(window, 5)
    assert sums.shape == (2, 3, 4 - height + 1, 5 - width + 1)
    for i, j in np.ndindex(*sums.shape[2:]):
        expected = evidence[:, :, i : i + height, j : j + width].sum((2, 3))
        torch.testing.assert_close(sums[:, :, i, j], expected)
